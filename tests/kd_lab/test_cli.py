"""The command line: what it finds, what it passes on, and how it refuses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kd_lab.cli import COMMANDS, main, parse
from kd_lab.recipe import find_recipe, recipes
from tests.helpers.refusal import refusal

RECIPE = """\
# an example
divergence: jensen_shannon
divergence_settings: {beta: 1e-1}
model_shape: {hidden_size: 32}
learning_rate: 1e-3
lr_scheduler_type: cosine
output_dir: runs/example
num_conversations: 100
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A function that writes RECIPE, changed, and returns its path."""
    monkeypatch.chdir(tmp_path)

    def write(old="", new="", name="example.yaml"):
        (tmp_path / name).write_text(RECIPE.replace(old, new) if old else RECIPE + new)
        return name

    return write


def test_a_recipe_reaches_the_dataclasses_and_options_win(recipe):
    student, _, data, config = parse(
        "train",
        ["--config", recipe(), "--learning_rate", "5e-6", "--divergence_settings={beta: 0.4}"],
    )
    assert student.model_shape == {"hidden_size": 32}
    assert data.num_conversations == 100
    assert config.learning_rate == 5e-6
    assert config.divergence_settings == {"beta": 0.4}
    assert config.lr_scheduler_type == "cosine"
    assert parse("train", [f"--config={recipe()}"])[3].divergence_settings == {"beta": 0.1}


def test_a_home_that_no_shell_has_read_is_found(recipe):
    given = ["--config", recipe("runs/example", "~/runs/example"), "--test_dataset=~/talks.jsonl"]
    _, _, data, config = parse("train", given)
    assert config.output_dir == str(Path.home() / "runs/example")
    assert data.test_dataset == str(Path.home() / "talks.jsonl")


def test_an_option_given_twice_is_told_and_the_last_counts(recipe, capsys):
    words = ["--config", recipe(), "--use_cpu", "--max_steps", "3", "--learning-rate", "1e-3"]
    words += ["--use_cpu", "true", "--max_steps=3", "--seed", "5"]  # as before, or in the recipe
    parse("train", words, tell=True)
    assert "note" not in capsys.readouterr().err
    words += ["--learning_rate", "2e-3", "--no_dataloader_pin_memory"]
    words += ["--dataloader_pin_memory", "true", "--learning_rate", "0.002"]
    *_, config = parse("train", words, tell=True)
    assert config.learning_rate == 2e-3
    parse("report", ["a", "b", "--runs", "c"], tell=True)
    said = [line for line in capsys.readouterr().err.splitlines() if "note" in line]
    assert said == [
        "kd-lab: note: --learning_rate is given 3 times, as 1e-3, 2e-3 and 0.002: 0.002, the last, "
        "is used",
        "kd-lab: note: --dataloader_pin_memory is given 2 times, as false and true: true, the "
        "last, is used",
        "kd-lab: note: --runs is given 2 times, as a b and c: c, the last, is used",
    ]


def test_null_is_no_value_on_the_command_line_too():
    words = ["--model_name_or_path", "x", "--bart_model", "null", "--num_conversations", "null"]
    arguments, data = parse("evaluate", words)
    assert arguments.bart_model is None
    assert data.num_conversations is None
    assert arguments.model_name_or_path == "x"


def test_environment_variables_of_a_recipe_are_set(recipe, monkeypatch):
    monkeypatch.setenv("KD_LAB_TEST_VARIABLE", "before")
    parse("train", ["--config", recipe("", "env: {KD_LAB_TEST_VARIABLE: 7}\n")])
    assert os.environ["KD_LAB_TEST_VARIABLE"] == "7"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("divergence:", "divergance:", "2: unknown key 'divergance'; did you mean 'divergence'?"),
        ("1e-3", "fast", '5: learning_rate: expected a number, not "fast"'),
        ("{hidden_size: 32}", "32", "4: model_shape: expected a mapping"),
        ("100", "many", '8: num_conversations: expected a whole number or null, not "many"'),
        ("100", "1.5", "8: num_conversations: expected a whole number or null, not 1.5"),
        ("cosine", "cosin", "; did you mean 'cosine'?"),
        ("cosine", "no", "not false (YAML reads a bare"),
        ("", "divergence: reverse_kl\n", "9: 'divergence' is given twice, first in line 2"),
        ("{beta: 1e-1}", "{beta: 1", "4: not valid YAML"),
        ("{beta: 1e-1}", "{beta: 0.1, beta: 1}", "3: not valid YAML: 'beta' is given twice"),
        ("runs/example", '"a\\0b"', "7: output_dir: 'a\\x00b' holds a NUL"),
        ("1e-3", "\u22121", '5: learning_rate: expected a number, not "\u22121"'),
        ("", "env: {X: null}\n", "9: env: X must be text, a number, true or false, not null"),
        ("", "env: {X: 1, Y: [1]}\n", "9: env: Y must be text, a number, true or false, not [1]"),
        ("100", "010", "8: not valid YAML: YAML reads 010 as 8: write that number"),
        ("100", "1:30", "8: not valid YAML: YAML reads 1:30 as 90: write that number"),
        ("", "dtype: foo\n", "9: dtype must be one of auto, bfloat16, float16, float32, not 'foo'"),
        ("jensen_shannon", "reverse_kl", "beta"),
        ("learning_rate: 1e-3", "alpha: 2", "alpha must lie in [0, 1]"),
    ],
)
def test_a_wrong_recipe_is_refused_in_one_line(recipe, capsys, old, new, told):
    line = refusal(capsys, "train", "--config", recipe(old, new))
    assert told in line
    if told[0].isdigit():
        assert line.startswith("example.yaml:" + told[0])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["trian"], "unknown command 'trian'; did you mean 'train'?"),
        (["fly"], "unknown command 'fly'; the commands are "),
        (["train", "--divergance", "x"], "'--divergance'; did you mean '--divergence'?"),
        (
            ["train", "--model_shape", "{hidden_size: 32}", "extra"],
            "extra is no option: every value follows",
        ),
        (
            ["train", "tiny/token_fkl"],
            "tiny/token_fkl is no option: a recipe is given with --config tiny/token_fkl",
        ),
        (["data", "README.md"], "README.md is no option: did you mean --dataset README.md"),
        (["data", "--output_dri=x"], "unknown option '--output_dri'; did you mean '--output_dir'?"),
        (["data"], "--output_dir"),  # is required
        (["train", "--alpha", "much"], "argument --alpha: invalid float value: 'much'"),
        (["train", "--neftune_noise_alpha", "inf"], "expected a finite number, not 'inf'"),
        (["train", "--learning", "1"], "unknown option '--learning'"),  # no abbreviations
        (
            ["train", "--config", "tiny/token_fk"],
            "no recipe 'tiny/token_fk'; did you mean 'tiny/token_",
        ),
        (["train", "--divergence_settings", "{mu: 1, mu: 2}"], "'mu' is given twice"),
        (["train", "--config", "none.yaml"], "no such file: none.yaml"),
        (["train", "--config", "a", "--config", "b"], "--config was given twice"),
        (["train", "--config"], "argument --config: expected one argument"),
        (["recipe", "smoll/sft"], "did you mean 'smol/sft'?"),
        (["recipe", "a", "b"], "recipe takes one name, not 2"),
    ],
)
def test_wrong_words_are_refused_in_one_line(capsys, words, told):
    assert told in refusal(capsys, *words)


def test_a_traceback_on_request(monkeypatch):
    monkeypatch.setenv("KD_LAB_TRACEBACK", "1")
    with pytest.raises(ValueError, match="unknown command"):
        main(["trian"])


def test_help_explains_our_keys_and_names_the_inherited_ones(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--help"])
    told = capsys.readouterr().out
    assert "  --divergence\n      The divergence of teacher and student" in told
    assert "--weight_decay" not in told
    assert "weight_decay" in told
    assert max(map(len, told.splitlines())) <= 100


def test_recipes_are_listed_with_what_they_do_and_found(capsys):
    assert main(["recipe"]) == 0
    told = capsys.readouterr().out
    for name, summary in recipes().items():
        assert name in told
        assert summary in " ".join(told.split())
    assert main(["recipe", "accelerate/zero3"]) == 0
    assert capsys.readouterr().out.strip() == str(find_recipe("accelerate/zero3"))


def test_listing_recipes_needs_none_of_the_heavy_libraries():
    heavy = "{'torch', 'transformers', 'trl', 'datasets', 'numpy'}"
    code = (
        "import sys; from kd_lab.cli import main; main(['recipe']); main([]);"
        f"sys.exit(repr({heavy} & set(sys.modules)) if {heavy} & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_python_m_kd_lab_is_the_command_line():
    done = subprocess.run([sys.executable, "-m", "kd_lab", "trian"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "kd-lab: error: unknown command 'trian'; did you mean 'train'?\n"
    assert done.stdout == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_states_its_arguments(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    assert capsys.readouterr().out.startswith(f"usage: kd-lab {command}")
