"""Every command of site/tonight.md runs, in the page's order, on a small pair and a small file."""

import json
import re
import shlex

import pytest

from kd_lab.cli import main, parse
from kd_lab.data.toy_language import conversations
from kd_lab.recipe import find_recipe
from tests.helpers.own_conversations import write_jsonl
from tests.helpers.page_texts import RESULTS, ROOT, load
from tests.helpers.toy_pair import saved_toy_model

TEXT = (ROOT / "site" / "tonight.md").read_text(encoding="utf-8")
# What makes each command small; nothing of it changes what the command does.
SMALLER = {
    "train": "--max_steps 2 --gradient_accumulation_steps 1 --use_cpu true --bf16 false",
    "evaluate": "--num_test_conversations 2 --max_new_tokens 8 --config no_bart.yaml",
    "generate": "--max_new_tokens 8",
}


def commands() -> list[list[str]]:
    """The words of each command in the page's blocks, in order."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", TEXT, flags=re.M | re.S)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines]


def test_every_command_runs(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    pair = {
        name: saved_toy_model(tmp_path / name.lower(), width=16, layers=1, seed=seed)
        for seed, name in enumerate(("TEACHER", "STUDENT"))
    }
    talks = [talk["messages"] for talk in conversations(240, seed=0)]
    write_jsonl(tmp_path / "mine.jsonl", *talks)
    (tmp_path / "no_bart.yaml").write_text("bart_model: null\n", encoding="utf-8")
    ran = []
    for program, *words in commands():
        if program != "kd-lab":
            continue
        words = [pair.get(word, word) for word in words]
        assert main([*words, *SMALLER.get(words[0], "").split()]) == 0, (
            words,
            capfd.readouterr().err[-2000:],
        )
        ran.append(words[0])
    assert ran == [
        "doctor", "plan", "data", "cache", "train", "cache", "train", "train", "generate",
        "evaluate", "evaluate", "report",
    ]  # fmt: skip
    answers = (tmp_path / "runs/mine/ten_answers/shard-00000.jsonl").read_text().splitlines()
    assert json.loads(answers[0])["messages"][-1]["role"] == "assistant"
    report = (tmp_path / "runs/mine/report/report.md").read_text(encoding="utf-8")
    for run in ("student", "sft"):
        assert f"`runs/mine/{run}`" in report


def test_the_control_differs_in_alpha_alone():
    trained, _, control = (words[2:] for words in commands() if words[:2] == ["kd-lab", "train"])
    at = control.index("--alpha")
    assert control[at : at + 2] == ["--alpha", "0"]
    assert [*control[:at], *control[at + 2 : -1], "runs/mine/student"] == trained


def test_what_is_launched_on_several_gpus_is_understood():
    ((launched,),) = ([words for words in commands() if words[0] == "accelerate"],)
    (recipe,) = re.fullmatch(r"\$\(kd-lab recipe (\S+)\)", launched[3]).groups()
    assert find_recipe(recipe).is_file()
    assert launched[4:7] == ["-m", "kd_lab", "train"]
    words = [*launched[7:], "--use_cpu", "true", "--bf16", "false"]
    assert parse("train", words)


@pytest.mark.parametrize("name", sorted({*re.findall(r"--config (qwen2\.5/\S+?)[ `]", TEXT)}))
def test_every_recipe_is_there(name):
    assert find_recipe(name).is_file()


def test_the_numbers_are_those_of_the_results():
    text = " ".join(TEXT.split())
    stored = load("stored_teacher")["counted"]["Qwen2.5-7B"]
    hidden, top = (f"{stored[signal]['bytes']:,}" for signal in ("hidden", "topk"))
    assert f"take {hidden} bytes a token for a 7B, and the 64 tokens take {top}" in text
    lines = (RESULTS / "smol_token_fkl.jsonl").read_text(encoding="utf-8").splitlines()
    logged = [line for line in map(json.loads, lines) if "loss" in line]
    for figure, words in (("divergence", "from {} to {} in fifty"), ("cross_entropy", "{} to {}")):
        ends = (f"{logged[at][figure]:.1f}" for at in (0, -1))
        assert words.format(*ends) in text
    (args, *_) = [one for one in parse("train", RECIPE) if hasattr(one, "logging_steps")]
    assert (args.logging_steps, args.gradient_accumulation_steps) == (10, 64)
    assert args.per_device_train_batch_size == 1
    mixed = load("study_mixing")["starts"]["start"]["mixes"]
    (half,) = (mix["changes"] for mix in mixed if mix["alpha"] == 0.5)
    seeds = load("study_mixing")["seeds"]
    assert half["token_rkl"]["coverage"]["above_zero"] == seeds
    assert half["token_rkl"]["precision"]["above_zero"] == 1
    assert half["token_fkl"]["precision"]["above_zero"] == 0
    assert half["token_fkl"]["coverage"]["above_zero"] == 1


RECIPE = ["--config", "qwen2.5/token_fkl_24gb", "--use_cpu", "true", "--bf16", "false"]
