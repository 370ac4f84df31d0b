"""Every recipe is what its command takes, and says truthfully what it is; the tiny ones are run."""

import contextlib
import math
import re
from functools import cache

import pytest
import yaml

from kd_lab.cli import main, parse
from kd_lab.recipe import find_recipe, recipes
from kd_lab.runs.run_files import read_metrics

METHODS = (
    "sft", "token_fkl", "token_rkl", "token_akl", "token_jsd", "seq_fkl", "seqkd", "seq_rkl", "gkd",
    "minillm", "distillm", "abkd", "distillm2", "eopd",
)  # fmt: skip
NAMES = [name for name in recipes() if not name.startswith("accelerate/")]


def text(name):
    return find_recipe(name).read_text(encoding="utf-8")


def settings_lines(name):
    """A recipe's lines below its heading, those of the recipe and those that its folder shares."""
    lines = [line for line in text(name).splitlines() if line]
    below = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    mark = lines.index(f"# the same in all of {name.partition('/')[0]}/")
    return lines[below:mark], lines[mark + 1 :]


def command(name):
    """The command that a recipe's comment gives: kd-lab COMMAND --config NAME."""
    found = re.search(
        rf"^#.*(?:kd-lab|-m kd_lab) (\w+) --config {re.escape(name)}(?:\s|$)", text(name), re.M
    )
    assert found, f"{name} does not say how it is run"
    return found[1]


@cache
def arguments(name):
    """All keys of a recipe's arguments in one dict; nothing is loaded."""
    here = ["--use_cpu", "true"] if command(name) == "train" else []  # bf16 would need a GPU
    parts = parse(command(name), ["--config", name, *here])
    return {key: value for part in parts for key, value in vars(part).items()}


@pytest.mark.parametrize("folder", ["tiny", "smol", "qwen2.5"])
def test_each_folder_has_all_methods(folder):
    assert {f"{folder}/{method}" for method in METHODS} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_what_its_command_takes(name):
    values = arguments(name)
    assert values["output_dir"].startswith(("runs/", "data/"))
    assert len(text(name).splitlines()) <= 32
    assert recipes()[name]


def test_no_two_recipes_write_to_one_folder():
    folders = [arguments(name)["output_dir"] for name in NAMES]
    assert len(folders) == len(set(folders))


@pytest.mark.parametrize("folder", ["tiny", "smol", "qwen2.5"])
@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_its_point_on_the_map(folder, method):
    values = arguments(f"{folder}/{method}")
    prefixes, divergence = {
        "sft": ("dataset", None),
        "token_fkl": ("dataset", "forward_kl"),
        "token_rkl": ("dataset", "reverse_kl"),
        "token_akl": ("dataset", "adaptive_kl"),
        "token_jsd": ("dataset", "jensen_shannon"),
        "seq_fkl": ("teacher", "forward_kl"),
        "seqkd": ("teacher", None),
        "seq_rkl": ("student", "reverse_kl"),
        "gkd": ("dataset", "jensen_shannon"),
        "minillm": ("student", "reverse_kl"),
        "distillm": ("dataset", "skew_reverse_kl"),
        "abkd": ("dataset", "alpha_beta"),
        "distillm2": ("teacher", "skew_forward_kl"),
        "eopd": ("student", "entropy_aware_kl"),
    }[method]
    assert values["prefixes"] == prefixes
    assert (values["divergence"] if values["alpha"] > 0 else None) == divergence
    mixed = ("gkd", "distillm", "distillm2")
    assert values["student_share"] == (0.5 if method in mixed else 0)
    student = "skew_reverse_kl" if method == "distillm2" else None
    assert values["student_divergence"] == student
    assert values["policy_gradient"] == (method == "minillm")
    assert (values["answers"] is not None) == (method == "seqkd")
    if method in ("seq_rkl", "minillm", "eopd", *mixed):  # no SFT on what the student wrote
        assert values["alpha"] == 1


def test_methods_of_one_folder_differ_in_the_method_alone():
    """So that what they end with can be compared."""
    of_the_method = {
        "prefixes", "divergence", "divergence_settings", "alpha", "student_share", "answers",
        "student_divergence", "student_divergence_settings", "policy_gradient", "teacher_mix",
        "length_normalised", "max_new_tokens", "output_dir",
        "teacher_model_name_or_path", "teacher_dtype",
    }  # fmt: skip
    for folder in ("tiny", "smol", "qwen2.5"):
        settings = [yaml.safe_load(text(f"{folder}/{method}")) for method in METHODS]
        rest = [{k: v for k, v in one.items() if k not in of_the_method} for one in settings]
        assert all(one == rest[0] for one in rest), folder


@pytest.mark.parametrize(
    ("name", "student", "teacher", "alpha", "rouge"),
    [
        ("token_fkl", "runs/qwen2.5/ultra_1.5b", "7B-Instruct", 0.5, "0.5404"),
        ("token_rkl", "runs/qwen2.5/ultra_1.5b", "7B-Instruct", 0.5, "0.5291"),
        ("token_fkl_0.8_sft", "runs/qwen2.5/ultra_1.5b", "7B-Instruct", 0.2, "0.5292"),
        ("token_fkl_from_instruct", "Qwen/Qwen2.5-1.5B-Instruct", "7B-Instruct", 0.5, "0.5369"),
        ("ultra_1.5b", "Qwen/Qwen2.5-1.5B", None, 0, "0.5295"),
        ("ultra_7b", "Qwen/Qwen2.5-7B", None, 0, "0.5576"),
    ],
)
def test_the_recipes_of_table_1_name_their_row(name, student, teacher, alpha, rouge):
    values = arguments(f"qwen2.5/{name}")
    assert values["model_name_or_path"] == student
    assert values["teacher_model_name_or_path"] == (teacher and f"Qwen/Qwen2.5-{teacher}")
    assert values["alpha"] == alpha
    assert values["num_conversations"] == 20_000
    assert f"ROUGE-1 {rouge}" in text(f"qwen2.5/{name}")


def test_what_recipes_read_is_what_other_recipes_write():
    written = {arguments(name)["output_dir"] for name in NAMES}
    for name in NAMES:
        values = arguments(name)
        for key in ("model_name_or_path", "teacher_model_name_or_path", "answers", "teacher_cache"):
            path = values.get(key)
            assert path is None or not path.startswith("runs/") or path in written, (name, key)


@pytest.mark.parametrize("name", [name for name in recipes() if name.startswith("accelerate/")])
def test_an_accelerate_config_is_what_accelerate_takes(name):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(find_recipe(name)))
    processes = {"cpu2": 2, "zero3_two_nodes": 16}.get(name.partition("/")[2], 8)
    assert config.num_processes == processes
    stage = {"zero2": 2, "zero3": 3, "zero3_two_nodes": 3}.get(name.partition("/")[2])
    assert config.deepspeed_config.get("zero_stage") == stage
    assert config.num_machines == (2 if "two_nodes" in name else 1)


# ---- the tiny recipes, for a few steps each, in the order in which a user runs them


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder in which the teacher and the start of tiny/ were trained, for a while."""
    folder = tmp_path_factory.mktemp("tiny")
    few = ["--num_conversations", "640", "--rows_per_shard", "320"]
    with contextlib.chdir(folder):
        for name in "teacher", "start":
            words = ["--max_steps", "60", "--warmup_steps", "10", "--num_conversations", "1280"]
            assert main(["train", "--config", f"tiny/{name}", *words]) == 0
        assert main(["data", "--config", "tiny/data", "--num_conversations", "100"]) == 0
        assert main(["generate", "--config", "tiny/generate", *few]) == 0
        assert main(["cache", "--config", "tiny/cache", *few]) == 0
    return folder


@cache
def losses(folder, name, *more):
    """What a tiny recipe logs in its first steps, four times."""
    steps = 20 if name in ("sft", "seqkd") else 12  # without a divergence it falls more slowly
    words = ["--max_steps", str(steps), "--logging_steps", str(steps // 4), "--warmup_steps", "0"]
    words += ["--num_conversations", "640", "--output_dir", out := f"runs/{name}{len(more)}"]
    with contextlib.chdir(folder):
        assert main(["train", "--config", f"tiny/{name}", *words, *more]) == 0
    return [line["loss"] for line in read_metrics(folder / out) if "loss" in line]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_each_tiny_recipe_is_run_and_its_loss_falls(tiny, method):
    values = losses(tiny, method)
    assert len(values) == 4
    assert all(map(math.isfinite, values))
    if method != "minillm":  # there the value stands for a gradient, and need not fall
        assert min(values[1:]) < values[0]


@pytest.mark.slow
def test_training_from_the_cache_is_training_with_the_teacher(tiny):
    live = losses(tiny, "token_fkl")
    cached = losses(tiny, "token_fkl", "--teacher_cache", "runs/tiny/cache")
    assert cached == pytest.approx(live, rel=0.02)  # hidden states are kept in bfloat16


TRAINED = [name for name in NAMES if command(name) == "train"]


@pytest.mark.parametrize("name", TRAINED)
def test_a_training_recipe_begins_with_its_point_of_the_map(name):
    recipes_own, _ = settings_lines(name)
    keys = [line.partition(":")[0] for line in recipes_own]
    point = (
        "prefixes", "student_share", "student_share_step", "student_share_tolerance", "divergence",
        "divergence_settings", "student_divergence", "alpha", "alignment_weight",
    )  # fmt: skip
    stated = [key for key in point if key in keys]
    assert keys[: len(stated)] == stated
    assert {"prefixes", "alpha"} <= set(stated)
    assert ("divergence" in stated) == (yaml.safe_load(text(name))["alpha"] > 0)


@pytest.mark.parametrize("folder", ["tiny", "smol", "qwen2.5"])
def test_what_a_folder_shares_reads_alike_in_all_of_its_recipes(folder):
    shared = [settings_lines(name)[1] for name in TRAINED if name.startswith(f"{folder}/")]
    lines = {line for one in shared for line in one}
    assert len({line.partition(":")[0] for line in lines}) == len(lines)  # one value a key
    assert all(len(one) >= 9 for one in shared)
