"""What is missing names the command that writes it: the recipes are read here by plain text."""

import re
from pathlib import Path

import pytest

from kd_lab import next_step
from kd_lab.next_step import check_folder, check_model_path, commands_for, evaluation_of, written_by
from kd_lab.recipe import RECIPES
from kd_lab.smollm2 import FOLDER
from tests.helpers.refusal import refusal

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def fresh_folder(tmp_path, monkeypatch):
    """As after pip install: nothing is trained, and there is no Makefile."""
    monkeypatch.chdir(tmp_path)


def test_every_folder_that_a_recipe_writes_names_that_recipe():
    seen = 0
    for path in sorted(RECIPES.rglob("*.yaml")):
        written = re.search(r"^output_dir: (\S+)", path.read_text("utf-8"), re.M)
        if written:
            name = path.relative_to(RECIPES).with_suffix("").as_posix()
            assert re.search(rf"`kd-lab \w+ --config {name}`$", written_by(written[1]))
            assert written_by(Path.cwd() / written[1]) == written_by(f"./{written[1]}/")
            seen += 1
    assert seen > 40


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["train", "--config", "tiny/token_fkl"],
            "model_name_or_path: there is no folder runs/tiny/start; "
            "first run `kd-lab train --config tiny/start`",
        ),
        (
            ["train", "--config", "tiny/token_fkl", "--teacher_cache", "runs/tiny/cache",
             "--model_name_or_path", "{model}", "--teacher_model_name_or_path", "{model}"],
            "teacher_cache: there is no folder runs/tiny/cache; first run "
            "`kd-lab train --config tiny/teacher`, then `kd-lab cache --config tiny/cache`",
        ),
        (
            ["train", "--config", "tiny/seqkd", "--model_name_or_path", "{model}"],
            "answers: there is no folder runs/tiny/answers; first run "
            "`kd-lab train --config tiny/teacher`, then `kd-lab generate --config tiny/generate`",
        ),
        (
            ["train", "--config", "smol/token_fkl"],
            f"there is no folder {FOLDER}; first run `python -m kd_lab.smollm2`",
        ),
        (
            ["generate", "--config", "tiny/generate"],
            "teacher_model_name_or_path: there is no folder runs/tiny/teacher; first run "
            "`kd-lab train --config tiny/teacher`",
        ),
        (["cache", "--config", "tiny/cache"], "first run `kd-lab train --config tiny/teacher`"),
        (
            ["cache", "--config", "tiny/cache", "--answers", "runs/tiny/answers",
             "--teacher_model_name_or_path", "{model}"],
            "then `kd-lab generate --config tiny/generate`",
        ),
        (
            ["questions", "--teacher_model_name_or_path", str(FOLDER), "--output_dir", "asked"],
            "first run `python -m kd_lab.smollm2`",
        ),
        (
            ["evaluate", "--model_name_or_path", "runs/tiny/sft"],
            "first run `kd-lab train --config tiny/start`, then `kd-lab train --config tiny/sft`",
        ),
        (
            ["evaluate", "--model_name_or_path", "{model}",
             "--teacher_model_name_or_path", "runs/tiny/teacher"],
            "first run `kd-lab train --config tiny/teacher`",
        ),
        (
            ["evaluate", "--model_name_or_path", "{model}", "--answers", "runs/tiny/answers"],
            "answers: there is no folder runs/tiny/answers; first run",
        ),
        (
            ["report", "runs/tiny/sft"],
            "there is no folder runs/tiny/sft; first run `kd-lab train --config tiny/start`, "
            "then `kd-lab train --config tiny/sft`",
        ),
        (
            ["train", "--config", "tiny/token_fkl", "--model_name_or_path", "runs/mine/start"],
            "there is no folder runs/mine/start; train, copy or fetch that model first",
        ),
        (
            ["train", "--config", "tiny/seqkd", "--answers", "runs/mine", "--model_name_or_path",
             "{model}"],
            "answers: there is no folder runs/mine; write it with `kd-lab generate`",
        ),
    ],
)  # fmt: skip
def test_a_command_names_what_to_run_first(words, said, tmp_path, capsys):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}", encoding="utf-8")
    line = refusal(capsys, *(word.format(model=model) for word in words))
    assert said in line
    assert "make" not in line


def test_what_is_done_is_not_asked_for_again():
    assert [step.name for step in commands_for("runs/tiny/token_fkl")] == [
        "tiny/start", "tiny/teacher", "tiny/token_fkl",
    ]  # fmt: skip
    start = Path("runs/tiny/start")
    start.mkdir(parents=True)
    assert commands_for("runs/tiny/token_fkl")[0].name == "tiny/start"  # it was stopped
    (start / "config.json").write_text("{}", encoding="utf-8")
    assert commands_for("runs/tiny/token_fkl")[0].name == "tiny/teacher"


def test_what_two_steps_need_is_run_once():
    names = [step.name for step in commands_for("runs/smol/seqkd")]
    assert names == ["SmolLM2", "smol/generate", "smol/seqkd"]


def test_a_stopped_run_names_its_command():
    Path("runs/tiny/start").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"holds no model .*`kd-lab train --config tiny/start`"):
        check_model_path("model_name_or_path", "runs/tiny/start")


def test_a_file_inside_a_missing_folder_names_the_folder_s_command():
    assert "`kd-lab data --config tiny/data`" in written_by("runs/tiny/data/train.jsonl")
    Path("runs/tiny/data").mkdir(parents=True)
    assert written_by("runs/tiny/data/tarin.jsonl") == ""


def test_hub_names_and_what_was_not_given_pass():
    check_model_path("model_name_or_path", "Qwen/Qwen2.5-7B-Instruct")
    check_model_path("model_name_or_path", None)
    check_folder("answers", None, "generate")


def test_make_is_named_where_its_makefile_is(monkeypatch):
    monkeypatch.chdir(CHECKOUT)
    monkeypatch.setattr(next_step.Step, "is_done", False)
    targets = re.findall(r"^(\w+):", Path("Makefile").read_text("utf-8"), re.M)
    assert {"tiny", "smol"} <= {*targets}
    assert "`make tiny`" in written_by("runs/tiny/start")
    assert "`make tiny`" in written_by("runs/tiny/answers")
    assert "`make smol`" in written_by(FOLDER)
    for no_target_of_it in ("runs/tiny/cache", "runs/smol/answers", "data/ultrachat_20k"):
        assert "make" not in written_by(no_target_of_it)


def test_an_evaluation_is_of_the_run_s_own_data():
    config = {"dataset": "mine.jsonl", "teacher_model_name_or_path": "runs/a b", "alpha": 1}
    assert evaluation_of(Path("runs/x"), config) == (
        "kd-lab evaluate --model_name_or_path runs/x --teacher_model_name_or_path 'runs/a b' "
        "--dataset mine.jsonl"
    )


def test_a_file_and_a_folder_of_another_kind_are_told_apart(tmp_path):
    with pytest.raises(ValueError, match=r"^x: .* holds no model \(no config.json\)$"):
        check_model_path("x", str(tmp_path))
    (tmp_path / "checkpoint-2").mkdir()
    with pytest.raises(ValueError, match="a run that was stopped has its models in checkpoint-N"):
        check_model_path("x", str(tmp_path))
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(ValueError, match=r"^x: .*model.safetensors is a file: give the folder"):
        check_model_path("x", str(file))
    with pytest.raises(ValueError, match="is a file: give a folder that `kd-lab cache` wrote"):
        check_folder("x", str(file), "cache")


def test_a_loop_of_links_is_a_missing_folder(tmp_path, capsys):
    (tmp_path / "loop").symlink_to("loop")
    assert written_by("loop") == ""
    words = ["data", "--dataset", "loop", "--output_dir", "new"]
    assert "no such file or folder: loop" in refusal(capsys, *words)
