"""The list of recipes: its times against the planner and measured runs, its needs by hand."""

import importlib.util
import json
from pathlib import Path

import pytest

from kd_lab.cli import main, parse
from kd_lab.next_step import steps
from kd_lab.planning.planned_run import make_job
from kd_lab.planning.planned_time import plan_time
from kd_lab.planning.recipe_list import DEFAULTS, STORING, TOY, cost, job_of, recipe_list
from kd_lab.recipe import recipes

RESULTS = Path(__file__).parents[3] / "assets" / "results"
STEPS = {step.name: step for step in steps()}
TRAINED = [name for name, step in STEPS.items() if step.kind == "train"]


@pytest.mark.parametrize("name", TRAINED)
def test_a_time_is_the_planner_s(name):
    """The job made here without a trainer is the one that ``kd-lab plan`` counts."""
    words = ["--config", name]
    if name.split("/")[0] != "qwen2.5":
        length, share = TOY["models" if name.startswith("smol/") else "runs/tiny"]
        words += ["--conversation_tokens", str(length), "--trained_share", str(share)]
    assert plan_time(job_of(STEPS[name])) == plan_time(make_job(*parse("plan", words)))


def test_what_a_recipe_leaves_unsaid_is_what_its_command_takes():
    parts = parse(
        "train", ["--teacher_cache", "x", "--output_dir", "x", "--model_shape", "{hidden_size: 32}"]
    )
    arguments = {key: value for part in parts for key, value in vars(part).items()}
    given = {"teacher_cache", "model_shape", "use_cpu"}
    drawn = {"num_conversations": 20_000, "num_test_conversations": 1000}  # as data's help says
    for key, value in {**DEFAULTS, **drawn}.items():
        if key not in given | drawn.keys():
            assert arguments[key] == value or (key, arguments[key]) == (
                "activation_checkpointing", None,
            ), key  # fmt: skip
    for command in ("generate", "cache"):
        needed = ["--teacher_model_name_or_path", "x", "--output_dir", "x"]
        own = {k: v for part in parse(command, needed) for k, v in vars(part).items()}
        assert {key: own[key] for key in STORING.keys() & own.keys()} == {
            key: STORING[key] for key in STORING.keys() & own.keys()
        }


def test_the_times_of_tiny_are_about_those_that_were_measured():
    """make tiny on two cores: each recipe within a third, and all of them together."""
    measured = json.loads((RESULTS / "tiny_matrix.json").read_text("utf-8"))["seconds"]
    told = {name: cost(STEPS[f"tiny/{name}"], num_cores=2).seconds for name in measured}
    for name, seconds in measured.items():
        assert told[name] == pytest.approx(seconds, rel=0.34), name
    assert sum(told.values()) == pytest.approx(sum(measured.values()), rel=0.2)


def test_the_time_of_smol_is_about_that_which_was_measured():
    """50 steps of SmolLM2 into half its layers, on two cores; the imports are not in there."""
    last = (RESULTS / "smol_token_fkl.jsonl").read_text("utf-8").splitlines()[-1]
    measured = json.loads(last)["train_runtime"] + 8
    assert cost(STEPS["smol/token_fkl"], num_cores=2).seconds == pytest.approx(measured, rel=0.3)
    more = cost(STEPS["smol/token_fkl"], num_cores=8).seconds
    assert more < cost(STEPS["smol/token_fkl"], num_cores=2).seconds


def test_what_is_needed_first_is_listed_within_100_columns():
    told = recipe_list()
    assert max(map(len, told.splitlines())) <= 100
    lines = " ".join(told.split())
    for line in (
        "tiny/start about 15 s the student",
        "qwen2.5/data a download, and minutes 20,000",
        "s; first: tiny/generate, tiny/start SeqKD",
        "s; first: SmolLM2, smol/generate SeqKD",
        "qwen2.5/token_fkl about 2.6 GPU hours; first: qwen2.5/ultra_1.5b, "
        "Qwen/Qwen2.5-7B-Instruct token-level",
    ):
        assert line in lines


def test_an_installation_without_yaml_still_lists_the_recipes(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert [line for line in recipe_list().splitlines() if line[0] != " "] == list(recipes())


def test_one_name_prints_its_path_alone(capsys):
    assert main(["recipe", "accelerate/zero3"]) == 0
    [line] = capsys.readouterr().out.splitlines()
    assert Path(line).is_file()
