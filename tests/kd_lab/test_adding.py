"""Adding is cheap: a divergence, a metric and a prefix source, in a copy of the package.

Each addition is written into the copy as a contributor would write it. Then train, evaluate, report
and plan run from the copy, and take the additions without another change.
"""

import ast
import csv
import filecmp
import json
import os
import shutil
import sys
from pathlib import Path

import pytest

import kd_lab
from kd_lab.methods import PREFIX_SOURCES
from tests.helpers.forked_processes import one_process
from tests.helpers.toy_pair import TOKENIZER, toy_model

PACKAGE = Path(kd_lab.__file__).parent

# file -> (the line that an addition goes before, what is added)
DIVERGENCE = {
    "divergences.py": [
        (
            "DIVERGENCES: dict[str",
            '''def hellinger(teacher_logp: Tensor, student_logp: Tensor) -> Tensor:
    """1 - Σ√(pq), in [0, 1]."""
    return 1 - ((teacher_logp + student_logp) / 2).exp().sum(-1)


''',
        ),
        ("    )\n}\n\n\n# As tables", "        hellinger,\n"),
    ],
}
METRIC = {
    "evaluation/metrics.py": [
        (
            "# Table 1 of the post",
            """def _longest_answer(answers: Sequence[str], reference: str) -> float:
    return float(max(len(answer.split()) for answer in answers))


""",
        ),
        (
            '        Metric("self_bleu"',
            '        Metric("longest", "longest answer", 0, of_answers=_longest_answer),\n',
        ),
    ],
}
PREFIX_SOURCE = {
    "methods.py": [
        (
            "}\nMIXED_MARKER",
            '    "backwards": PrefixSource(\n'
            '        "the dataset\'s answers, backwards", "P",\n'
            '        "kd_lab.trainers.backwards_distil:BackwardsDistilTrainer",\n'
            "    ),\n",
        )
    ],
    "trainers/backwards_distil.py": [
        (
            "",
            '''"""Distillation at the positions of the dataset's answers, read backwards."""

from typing import Any

from kd_lab.rollout.sampling import Completion
from kd_lab.trainers.seq_distil import SeqDistilTrainer, answered_row, rows_of


class BackwardsDistilTrainer(SeqDistilTrainer):
    def write_batches(self, batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
        written = []
        for batch in batches:
            rows = rows_of(batch)
            for i, row in enumerate(rows):
                answer = row["input_ids"][row["prompt_length"] :]
                rows[i] = answered_row(row, Completion([*answer[-2::-1], answer[-1]], True))
            written.append(self.data_collator(rows))
        return written
''',
        )
    ],
}


def run_from(folder: Path, commands: list[list[str]]) -> None:
    """Runs commands of the copy; for a process forked from one that has imported the package."""
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    for name in [name for name in sys.modules if name.partition(".")[0] == "kd_lab"]:
        del sys.modules[name]
    from kd_lab import cli

    assert Path(cli.__file__).parent == folder / "kd_lab"
    for words in commands:
        assert cli.main(words) == 0, words


def add(package: Path, addition: dict[str, list[tuple[str, str]]]) -> None:
    for name, insertions in addition.items():
        path = package / name
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        for before, added in insertions:
            assert text.count(before) == 1 or not before, (name, before)
            text = text.replace(before, added + before) if before else added
        path.write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def grown(tmp_path_factory) -> Path:
    """A folder with the copy of the package, and a report of runs that use all three additions."""
    folder = tmp_path_factory.mktemp("grown")
    shutil.copytree(PACKAGE, folder / "kd_lab", ignore=shutil.ignore_patterns("__pycache__"))
    for addition in (DIVERGENCE, METRIC, PREFIX_SOURCE):
        add(folder / "kd_lab", addition)
    for name, width, seed in (("start", 32, 1), ("teacher", 64, 2)):
        toy_model(width, seed=seed).save_pretrained(folder / name)
        TOKENIZER.save_pretrained(folder / name)
    few = ["--max_steps", "2", "--num_conversations", "60", "--per_device_train_batch_size", "8"]
    evaluated = ["--num_test_conversations", "3", "--max_new_tokens", "6"]
    student = ["--model_name_or_path", "start", "--use_cpu", "true", "--disable_tqdm", "true"]
    teacher = ["--teacher_model_name_or_path", "teacher"]
    runs = {
        "sft": ["--alpha", "0"],
        "hellinger": [*teacher, "--alpha", "1", "--divergence", "hellinger"],
        "backwards": [*teacher, "--alpha", "1", "--prefixes", "backwards"],
    }
    commands = []
    for name, options in runs.items():
        words = ["train", *student, *few, *options, "--output_dir", name]
        logged = ["--eval_strategy", "steps", "--eval_steps", "1", *evaluated[:2]]
        commands.append([*words, *(logged if options[0] == teacher[0] else [])])
        commands.append(["evaluate", "--model_name_or_path", name, *teacher, *evaluated])
    commands.append(["report", *runs, "--output_dir", "report"])
    commands.append(["plan", *student, *runs["backwards"], "--output_dir", "planned"])
    log = folder / "log"
    process = one_process(run_from, folder, commands, log=log)
    process.join()
    assert process.exitcode == 0, log.read_text()[-3000:]
    return folder


def table(grown: Path) -> dict[str, dict[str, str]]:
    with (grown / "report" / "table.csv").open(encoding="utf-8") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def changed(grown: Path) -> set[str]:
    """The files of the copy that are not those of the package."""
    files = {path.relative_to(grown / "kd_lab") for path in (grown / "kd_lab").rglob("*.py")}
    return {
        path.as_posix()
        for path in files
        if not (PACKAGE / path).exists()
        or not filecmp.cmp(PACKAGE / path, grown / "kd_lab" / path, shallow=False)
    }


@pytest.mark.slow
def test_a_new_divergence_is_trained_evaluated_reported_and_drawn(grown):
    """One function, and one line of the registry."""
    row = table(grown)["dataset × hellinger"]
    assert float(row["forward_kl"]) > 0
    assert "hellinger between" in (grown / "hellinger" / "README.md").read_text()
    for picture in ("differences", "training_curves", "coverage_precision"):
        drawn = (grown / "report" / f"{picture}.svg").read_text()
        assert "dataset × hellinger" in drawn
    assert set(DIVERGENCE) == {"divergences.py"} <= changed(grown)


@pytest.mark.slow
def test_a_new_metric_is_measured_and_reported(grown):
    """One function, and one entry."""
    for name in ("sft", "hellinger", "backwards"):
        measured = json.loads((grown / name / "evaluation.json").read_text())["metrics"]["longest"]
        assert len(measured["values"]) == 3
    assert float(table(grown)["SFT"]["longest"]) >= 1
    assert "longest answer" in (grown / "report" / "report.md").read_text()
    assert set(METRIC) == {"evaluation/metrics.py"} <= changed(grown)


@pytest.mark.slow
def test_a_new_prefix_source_is_one_entry_of_the_map_and_one_class(grown):
    assert table(grown)["backwards × FKL"]["method"] == ""
    assert "the dataset's answers, backwards" in (grown / "backwards" / "README.md").read_text()
    places = set(PREFIX_SOURCE)
    assert places == {"methods.py", "trainers/backwards_distil.py"}
    assert changed(grown) == places | set(DIVERGENCE) | set(METRIC)


def test_no_module_but_the_map_asks_a_prefix_source_by_its_name():
    """A module that compares ``prefixes`` with a name is a place that a new source touches."""
    asks = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare | ast.Subscript | ast.MatchValue):
                text = ast.unparse(node)
                named = any(f"'{name}'" in text for name in PREFIX_SOURCES)
                if "prefixes" in text and named and ".writer" not in text:
                    asks.append((path.relative_to(PACKAGE).as_posix(), node.lineno))
    assert not [place for place in asks if place[0] != "methods.py"], asks
