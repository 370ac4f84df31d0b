"""Paths that lead nowhere or to the wrong thing, damaged files, missing packages, odd recipes."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from kd_lab.files import SEAL
from tests.hardening.bad_values import BadLine
from tests.hardening.workspace import RIGHT

MODEL_OPTIONS = {
    "questions": ("teacher_model_name_or_path",),
    "generate": ("teacher_model_name_or_path",),
    "cache": ("teacher_model_name_or_path",),
    "train": ("teacher_model_name_or_path", "model_name_or_path"),
    "evaluate": ("teacher_model_name_or_path", "model_name_or_path", "bart_model"),
    "plan": ("teacher_model_name_or_path", "model_name_or_path"),
}
DATA_OPTIONS = dict.fromkeys(
    ("data", "generate", "cache", "train", "evaluate"), ("dataset", "test_dataset")
)
STORED_OPTIONS = {
    "train": ("teacher_cache", "answers", "resume_from_checkpoint"),
    "cache": ("answers",),
    "evaluate": ("answers", "teacher_answers"),
}
WRITERS = ("data", "questions", "generate", "cache", "train", "evaluate", "report", "demo")
# Words that ask for a package, a network or a device that is not here.
NOT_HERE = (
    "--report_to=wandb", "--report_to=mlflow", "--report_to=comet_ml", "--report_to=trackio",
    "--optim=adamw_bnb_8bit", "--optim=paged_adamw_8bit", "--optim=galore_adamw",
    "--optim=lomo", "--optim=schedule_free_adamw", "--optim=adamw_torch_4bit",
    "--optim=adamw_apex_fused", "--optim=adamw_torch_npu_fused", "--optim=apollo_adamw",
    "--attn_implementation=flash_attention_2", "--attn_implementation=flash_attention_3",
    "--push_to_hub=true", "--tf32=true",
    "--activation_offloading=true", "--deepspeed=missing.json", "--deepspeed=a_file",
    "--fsdp=full_shard", "--dataloader_persistent_workers=true", "--dataloader_prefetch_factor=2",
    "--load_best_model_at_end=true", "--eval_on_start=true", "--use_dora=true", "--debug=foo",
    "--lora_r=4 --lora_target_modules=no_such_layer --use_peft=true", "--optim_args=foo=1",
    "--lr_scheduler_type=cosine_with_min_lr", "--lr_scheduler_type=reduce_lr_on_plateau",
    "--divergence_settings={\"beta\":2} --divergence=jensen_shannon",
    "--divergence_settings={\"beta\":\"x\"} --divergence=jensen_shannon",
    "--packing=true --packing_strategy=foo", "--eos_token=<nothing>", "--pad_token=<nothing>",
    "--model_shape={hidden_size:32}", "--keep_every=2 --model_revision=",
    "--metric_for_best_model=eval_rouge --load_best_model_at_end=true --eval_strategy=steps",
    "--save_strategy=best", "--accelerator_config={\"no_such_key\":1}",
)  # fmt: skip
# Of a shape that begins as tests/helpers/refusal.py has it; each names the key.
SHAPES = (
    "{hiden_size: 32, num_layers: 1}", "{}", "[1]", "7", "hidden", "{hidden_size: 0}",
    "{hidden_size: -32}", "{hidden_size: nan}", "{hidden_size: wide}",
    "{hidden_size: 32.5}", "{num_attention_heads: 0}", "{num_attention_heads: 7}",
    "{num_key_value_heads: 3}", "{vocab_size: 1}", "{vocab_size: null}", "{hidden_act: foo}",
    "{hidden_size: null}", "{num_hidden_layers: 1.5}", "{rms_norm_eps: nan}",
    "{hidden_size: 99999999999}", "{rope_theta: -1}", "{layer_types: [foo]}", "{hidden_size: [1]}",
    "{model_type: bert}", "{dtype: foo}", "{max_position_embeddings: 4}", "{rope_scaling: 7}",
)  # fmt: skip
RECIPES: dict[str, str | bytes] = {
    "not UTF-8": b"dataset: t\xf8y\n",
    "UTF-16": "dataset: toy\n".encode("utf-16"),
    "a tab": "dataset:\ttoy\n\tseed: 1\n",
    "a key twice": "dataset: toy\ndataset: toy\n",
    "empty": "",
    "a list": "- dataset\n- toy\n",
    "a word": "dataset\n",
    "cut": "dataset: [toy\n",
    "two documents": "dataset: toy\n---\ndataset: toy\n",
    "an object": "dataset: !!python/object/apply:os.getcwd []\n",
    "no such anchor": "dataset: *toy\n",
    "env is a list": "env: [1]\ndataset: toy\n",
    "env has a nul": 'env: {A: "a\\0b"}\ndataset: toy\n',
    "env has an =": "env: {'A=B': 1}\ndataset: toy\n",
    "bytes of nothing": b"\0\0\0\0",
    "a number as a key": "1: 2\n",
    "a list as a key": "? [a, b]\n: c\n",
    "a date": "dataset: 2026-01-01\n",
    "config in a recipe": "config: other.yaml\n",
    "deep": "dataset: " + "[" * 3000 + "\n",
}


def damaged_models(place: Path) -> list[str]:
    """Write a folder for each kind of damage to a model; returns their names."""
    for name, damage in DAMAGES.items():
        shutil.copytree(place / "start", place / f"damaged_{name}")
        damage(place / f"damaged_{name}")
    return [f"damaged_{name}" for name in DAMAGES]


def _cut(name: str, share: float) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    return damage


def _write(name: str, content: str | bytes) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        of = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(of)

    return damage


def _set(name: str, **values: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = json.loads((folder / name).read_text()) | values
        (folder / name).write_text(json.dumps(content))

    return damage


def _drop(name: str, key: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        del content[key]
        (folder / name).write_text(json.dumps(content))

    return damage


def _remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


WEIGHTS, CONFIG, TOKENS = "model.safetensors", "config.json", "tokenizer.json"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123\n"
DAMAGES: dict[str, Callable[[Path], None]] = {
    "weights_cut": _cut(WEIGHTS, 0.5),
    "weights_empty": _cut(WEIGHTS, 0),
    "weights_pointer": _write(WEIGHTS, POINTER),
    "weights_gone": _remove(WEIGHTS),
    "config_empty": _cut(CONFIG, 0),
    "config_cut": _cut(CONFIG, 0.5),
    "config_list": _write(CONFIG, "[]"),
    "config_null": _write(CONFIG, "null"),
    "config_latin": _write(CONFIG, b'{"model_type": "qwen2\xf8"}'),
    "config_no_type": _write(CONFIG, "{}"),
    "config_type": _set(CONFIG, model_type="no_such_model"),
    "config_bert": _set(CONFIG, model_type="bert"),
    "config_wide": _set(CONFIG, hidden_size=64, intermediate_size=128),
    "config_heads": _set(CONFIG, num_attention_heads=7),
    "config_text": _set(CONFIG, hidden_size="wide"),
    "config_negative": _set(CONFIG, num_hidden_layers=-1),
    "config_layers": _set(CONFIG, num_hidden_layers=3, layer_types=["full_attention"] * 3),
    "config_vocab": _set(CONFIG, vocab_size=7),
    "config_code": _set(CONFIG, auto_map={"AutoModelForCausalLM": "code.Model"}, model_type="x"),
    "tokens_empty": _cut(TOKENS, 0),
    "tokens_cut": _cut(TOKENS, 0.5),
    "tokens_list": _write(TOKENS, "[]"),
    "tokens_keys": _write(TOKENS, "{}"),
    "tokens_gone": _remove(TOKENS),
    "tokens_latin": _write(TOKENS, b"\xff\xfe\x00"),
    "token_settings": _write("tokenizer_config.json", "{bad"),
    "generation": _write("generation_config.json", "{bad"),
}


# A plan reads config.json alone, and of many shapes that the files beside it do not have.
NO_PLAN = {f"damaged_{name}" for name in DAMAGES if name.startswith("config")} - {
    f"damaged_config_{name}" for name in ("wide", "vocab", "layers", "bert", "code")
}


def bad_paths(place: Path) -> Iterator[BadLine]:
    """Options that name a model, data, a folder of another command, or the folder to write."""
    nowhere = ("", "missing/folder/x", "a_file", "empty", "answers", "no-such-owner/no-such-model")
    for damaged in damaged_models(place):
        for command, names in MODEL_OPTIONS.items():
            for name in names:
                if command != "plan" or damaged in NO_PLAN:
                    yield _with(command, name, damaged)
    for command, names in MODEL_OPTIONS.items():
        for name in names:
            for path in nowhere:
                if not (command == "plan" and path.startswith("no-such")):
                    yield _with(command, name, path)
    for command, names in DATA_OPTIONS.items():
        for name in names:
            for path in ("", "missing.jsonl", "missing/x", "a_file", "empty", *_bad_talks(place)):
                yield _with(command, name, path)
    for command, names in STORED_OPTIONS.items():
        for name in names:
            for path in ("", "missing", "a_file", "empty", "start", "talks.jsonl"):
                more = ("--prefixes=teacher",) if (command, name) == ("train", "answers") else ()
                line = _with(command, name, path)
                yield line._replace(words=(*line.words, *more))
    for command in WRITERS:
        for path in ("", "a_file", "a_file/below", "/proc/out", "start", "talks.jsonl"):
            # An evaluation goes into its model's own folder, and a report and a study into any.
            if not (command in ("report", "demo", "evaluate") and path == "start"):
                yield _with(command, "output_dir", path)


def bad_recipes() -> Iterator[BadLine]:
    """Recipes that are no YAML, no text, or hold what no recipe holds."""
    for command in ("data", "train", "cache", "plan"):
        for what, content in RECIPES.items():
            if what != "empty":
                words = _bare(command, "dataset")
                yield BadLine((*words, "--config", "recipe.yaml"), ("recipe.yaml",), content)
    for path in ("", "a_file", "empty", "missing.yaml", "tiny/token_fk", "start/model.safetensors"):
        yield BadLine(("train", "--config", path), ("config", path or "config"))
        yield BadLine(("plan", "--config", path), ("config", path or "config"))


def not_here() -> Iterator[BadLine]:
    """What is asked of packages, networks and devices that are missing, and shapes."""
    for text in NOT_HERE:
        words = text.split()
        names = tuple(word.removeprefix("--").partition("=")[0] for word in words)
        yield BadLine(("train", *RIGHT["train"], *words), names)
    for shape in SHAPES:
        words = _bare("train", "model_name_or_path")
        if shape.startswith("{") and shape != "{}":
            small = "{intermediate_size: 64, num_hidden_layers: 1, num_attention_heads: 2, "
            small += "num_key_value_heads: 2, hidden_size: 32, " + shape[1:]
            shape = small if shape[1:].partition(":")[0] not in small else shape
        yield BadLine((*words, "--model_shape", shape), ("model_shape",))


def bad_words() -> Iterator[BadLine]:
    """Words that no command takes."""
    for command, right in RIGHT.items():
        yield BadLine((command, *right, "extra", "more"), ("extra", "more"))
        yield BadLine((command, *right, "-x"), ("-x",))
        yield BadLine((command, *right, "--"), ("--",))
        yield BadLine((command, *right, "--config"), ("config",))
        yield BadLine((command + "s", *right), (command + "s",))
    for function in (
        "",
        "mine.py",
        "mine.py:nothing",
        "missing.py:loss",
        "a_file:loss",
        "torch:pi",
    ):
        yield BadLine(("check", function), (function or "function",))
    for words in (("recipe", "smoll/sft"), ("recipe", "a", "b"), ("recipe", "--foo"), ("",)):
        yield BadLine(words, (words[-1],))


def bad_runs(place: Path) -> Iterator[BadLine]:
    """Runs that a report cannot read."""
    contents = {
        "evaluation.json": ("", "null", "7", "[]", "{}", "{bad", b"\xff\xfe"),
        "config.yaml": ("", "- a\n", "a: [", b"\xff\xfe", "7\n"),
        "metrics.jsonl": ("{bad\n", "7\n", '{"loss": 1}\n', b"\xff\xfe\n", "null\n"),
    }
    for name, texts in contents.items():
        for number, content in enumerate(texts):
            folder = place / f"report_{name.partition('.')[0]}_{number}"
            shutil.copytree(place / "run", folder)
            _write(name, content)(folder)
            words = ("report", folder.name, "teacher", "--output_dir", "out")
            yield BadLine(words, (folder.name,))
    for part in ("metrics", "settings", "versions", "student", "test_set", "speed"):
        folder = place / f"report_without_{part}"
        shutil.copytree(place / "run", folder)
        _set("evaluation.json", **{part: None})(folder)
        _drop("evaluation.json", SEAL)(folder)
        yield BadLine(("report", folder.name, "--output_dir", "out"), (folder.name,))
    for path in ("missing", "a_file", "empty", "start", ""):
        yield BadLine(("report", "run", path, "--output_dir", "out"), (path or "runs",))
    yield BadLine(("report", "run", "run", "--output_dir", "out"), ("run",))


def _bad_talks(place: Path) -> list[str]:
    texts: dict[str, str | bytes] = {
        "bad.jsonl": "{bad\n",
        "list.jsonl": "[1, 2]\n",
        "latin.jsonl": b'{"prompt": "\xf8"}\n',
        "none.jsonl": "",
        "keys.jsonl": '{"foo": 1}\n',
        "cut.parquet": b"PAR1",
        "bad.json": "{bad",
        "cut.jsonl.gz": b"\x1f\x8b\x08",
    }
    for name, content in texts.items():
        _write(name, content)(place)
    return list(texts)


def _with(command: str, name: str, value: str) -> BadLine:
    named = (name, value) if value else (name,)
    return BadLine((*_bare(command, name), f"--{name}={value}"), named)


def _bare(command: str, name: str) -> tuple[str, ...]:
    """The right words of a command without one option and its value."""
    words = [command, *RIGHT[command]]
    if f"--{name}" in words:
        at = words.index(f"--{name}")
        del words[at : at + 2]
    return tuple(words)
