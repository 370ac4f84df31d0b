"""``kd-lab report``: its numbers, what it calls best, what it draws.

Most runs are written by written_runs.py; one test trains and evaluates for real.
"""

import contextlib
import csv
import io
import json
import shutil
import statistics
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from kd_lab.cli import main
from kd_lab.report.comparisons import best_of_columns, differences_to_sft, figure
from kd_lab.report.document import MAIN
from kd_lab.report.plots import draw_all, logged_curves
from kd_lab.report.published import PUBLISHED, PublishedRow, with_published
from kd_lab.report.runs import read_rows
from kd_lab.report.table import _p_value, _signed, markdown_table, print_table
from tests.helpers.toy_pair import TOKENIZER, toy_model
from tests.helpers.written_runs import (
    BASE,
    EXAMPLES,
    FKL,
    METRIC,
    RECIPES,
    RKL,
    write_run,
    write_study,
)


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> list[Path]:
    """Two seeds of SFT and of FKL, one of RKL; not to be changed."""
    return write_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def study_report(study) -> tuple[dict[str, dict[str, str]], str, str]:
    return report(study)


@pytest.fixture
def copies(study, tmp_path) -> list[Path]:
    """The same runs, to be changed."""
    return [Path(shutil.copytree(run, tmp_path / run.name)) for run in study]


def report(runs: list[Path]) -> tuple[dict[str, dict[str, str]], str, str]:
    """Rows of table.csv by name, report.md, and what was printed."""
    folder = runs[0].parent / "report"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(["report", *map(str, runs), "--output_dir", str(folder)]) == 0
    rows = csv.DictReader(io.StringIO((folder / "table.csv").read_text()))
    text = (folder / "report.md").read_text()
    return {row["name"]: row for row in rows}, text, printed.getvalue()


def test_numbers_of_the_table_are_those_of_the_evaluations(study, study_report):
    rows, text, printed = study_report
    assert list(rows) == ["SFT", FKL, RKL]
    of_sft, of_fkl = study[:2], study[2:4]
    alone = json.loads((study[4] / "evaluation.json").read_text())["metrics"]
    for name, metric in METRIC.items():
        if name == "bartscore":
            continue
        told = [float(rows[RKL][name + part]) for part in ("", "_low", "_high")]
        assert told == [alone[name][key] for key in ("mean", "low", "high")]
        mean, low, high = (f"{x:z.{metric.digits}f}" for x in told)
        assert f"{mean}<br>{low} to {high} |" in text

        for recipe, runs in (("SFT", of_sft), (FKL, of_fkl)):
            metrics = [json.loads((run / "evaluation.json").read_text())["metrics"] for run in runs]
            means = [of[name]["mean"] for of in metrics]
            assert float(rows[recipe][name]) == pytest.approx(statistics.mean(means))
            sd = float(rows[recipe][name + "_seed_sd"])
            assert sd == pytest.approx(statistics.stdev(means))
            assert f"seeds ±{sd:.{metric.digits}f}" in text
    assert f"{alone['rouge1']['mean']:.4f} ±" in printed


def test_interval_over_seeds_is_that_of_their_mean(study):
    recipe = read_rows(study[2:4])[0]
    runs = [json.loads((run / "evaluation.json").read_text()) for run in study[2:4]]
    weights = np.array(runs[0]["weights"]["reference_tokens"])
    values = np.array([run["metrics"]["forward_kl"]["values"] for run in runs])
    rng = np.random.default_rng(1)
    means = []
    for _ in range(4000):
        drawn = rng.integers(EXAMPLES, size=EXAMPLES)
        means.append((values[:, drawn] @ weights[drawn] / weights[drawn].sum()).mean())
    found = figure(recipe, METRIC["forward_kl"])
    low, high = np.quantile(means, [0.025, 0.975])
    assert found[1:3] == pytest.approx((low, high), abs=0.1 * (high - low))


@pytest.fixture
def no_pictures(monkeypatch) -> None:
    """For a test that reads tables alone: to draw takes a second."""
    monkeypatch.setattr("kd_lab.report.report.draw_all", lambda *_: {})


def test_best_is_marked_only_where_it_is_significant(tmp_path, no_pictures):
    one_example = np.where(np.arange(EXAMPLES) == 0, 10.0, -0.01)
    values = {  # of fkl-1, of fkl-2, of all others
        "coverage": (BASE + 0.1, BASE + 0.12, BASE),  # clearly best
        "rouge1": (BASE, BASE, BASE),  # all the same
        "rougeL": (BASE + one_example, BASE + one_example, BASE),  # for one example's sake
        "precision": (BASE + 0.3, BASE - 0.02, BASE),  # but not with every seed
        "hallucination": (BASE + 0.1, BASE + 0.1, BASE),  # the worst, and the others are level
        "forward_kl": (BASE - 0.1, BASE - 0.1, BASE),  # less is better
        "student_entropy": (BASE - 0.1, BASE - 0.1, BASE),  # neither way is better
    }
    runs = []
    for name in ("sft-1", "sft-2", "fkl-1", "fkl-2", "rkl-1"):
        which = {"fkl-1": 0, "fkl-2": 1}.get(name, 2)
        own = {metric: of[which] for metric, of in values.items()}
        runs.append(write_run(tmp_path / name, own))
    rows = read_rows(runs)
    best, _ = best_of_columns(rows)
    assert {cell for cell in best if cell[1] in values} == {(FKL, "coverage"), (FKL, "forward_kl")}
    cells, text, printed = report(runs)
    assert (cells[FKL]["coverage_best"], cells[FKL]["rougeL_best"]) == ("True", "False")
    assert f"**{float(cells[FKL]['coverage']):.3f}**" in text
    assert f"**{float(cells[FKL]['rougeL']):.4f}**" not in text
    assert f"*{float(cells[FKL]['coverage']):.3f} ±" in printed

    told = {(c.row.name, c.metric.name): c for c in differences_to_sft(rows)}
    assert told[FKL, "coverage"].significant
    assert told[FKL, "coverage"].difference.mean == pytest.approx(0.11)
    assert told[FKL, "precision"].adjusted_p < 0.05
    assert not told[FKL, "precision"].significant  # one seed says otherwise
    assert not told[RKL, "coverage"].significant


@pytest.mark.parametrize(
    ("p", "said"),
    [
        (0.0004, "< 0.001"),
        (0.0123, "0.012"),
        (0.048, "0.048"),
        (0.04996, "0.04996"),  # is significant
        (0.05, "0.050"),
        (0.0504, "0.050"),
        (1.0, "1.000"),
    ],
)
def test_a_p_value_is_printed_on_its_side_of_the_level(p, said):
    assert _p_value(p) == said


def test_a_difference_that_rounds_to_zero_has_no_sign():
    differences = -0.0004, 0.0004, 0.0, -0.0006, 0.1
    assert [_signed(x, 3) for x in differences] == ["0.000", "0.000", "0.000", "-0.001", "+0.100"]


def test_brackets_in_a_name_are_no_markup(tmp_path):
    rows = read_rows([write_run(tmp_path / "fkl-1", {}), write_run(tmp_path / "sft-1", {})])
    rows[0].name, rows[1].name = "[/x]", "q = [bold]y"
    printed = io.StringIO()
    print_table(Console(file=printed, width=100), rows, MAIN, set())
    assert "[/x]" in printed.getvalue()
    assert "q = [bold]y" in printed.getvalue()


def test_what_must_be_known_of_a_number_stands_below_its_table(tmp_path):
    rows, note = read_rows([write_run(tmp_path / "fkl-1", {})]), "up to 1.55/√N by chance"
    for table, is_there in (("Fidelity to the teacher", True), (MAIN, False)):
        printed = io.StringIO()
        print_table(Console(file=printed, width=200), rows, table, set())
        assert (note in printed.getvalue()) == is_there
        assert (note in markdown_table(rows, table, set())) == is_there


def test_many_comparisons_leave_room_for_significance(tmp_path):
    runs = [
        write_run(tmp_path / f"fkl-{i}", {"coverage": BASE - 0.05 * i}, f"--learning_rate={i}e-3")
        for i in range(1, 17)
    ]
    rows = read_rows(runs)
    best, number = best_of_columns(rows)
    assert number * 2 / 10_000 > 0.05  # with 10,000 resamples nothing could be
    assert (f"{FKL} (learning_rate 0.001)", "coverage") in best


def test_only_what_is_alike_is_compared(tmp_path):
    lower = {"forward_kl": BASE - 0.1, "coverage": BASE + 0.1}
    level = {"forward_kl": BASE, "coverage": BASE}
    sft = write_run(tmp_path / "sft-1", level)
    fkl = write_run(tmp_path / "fkl-1", lower, teacher={"name": "another", "sha256": "another"})
    rows = read_rows([sft, fkl])
    assert (FKL, "coverage") in best_of_columns(rows)[0]
    assert (FKL, "forward_kl") not in best_of_columns(rows)[0]  # to another teacher
    assert "forward_kl" not in {c.metric.name for c in differences_to_sft(rows)}
    elsewhere = write_run(tmp_path / "rkl-1", lower, "--model_name_or_path=runs/another_start")
    assert not differences_to_sft(read_rows([sft, elsewhere]))


def test_a_missing_metric_is_an_empty_cell_with_a_footnote(study_report):
    _, text, printed = study_report
    lines = text.splitlines()
    assert "¹ BARTScore: no BART model here." in lines
    head = next(line for line in lines if "BARTScore" in line).split(" | ")
    row = next(line for line in lines if "| SFT |" in line).split(" | ")
    assert row[head.index("BARTScore ↑")] == "¹"
    assert "BARTScore ↑" not in printed  # no empty column there, only why
    assert "¹ BARTScore: no BART model here." in printed


def test_published_rows_stand_beside_ours(study, tmp_path, no_pictures):
    assert with_published(rows := read_rows(study)) == rows
    ours = write_run(
        tmp_path / "rkl-2", {}, "--model_name_or_path=runs/qwen2.5/ultra_1.5b",
        "--teacher_model_name_or_path=Qwen/Qwen2.5-7B-Instruct",
    )  # fmt: skip
    rows = with_published(read_rows([*study, ours]))
    published = [row for row in rows if isinstance(row, PublishedRow)]
    assert {*published} == {*PUBLISHED}
    assert len(published) == len(PUBLISHED)
    beside = rows[[row.q for row in rows].index("ultra_1.5b") + 1]
    assert (beside.loss, beside.score("rouge1")) == (RKL, 0.5291)
    _, text, _ = report([ours, *study])
    assert (
        "| ultra_1.5b | Qwen2.5-7B-Instruct | 1.5B | 7B | 0.5 SFT + 0.5 dataset × FKL | "
        "token_fkl | *published* |  |  |  | 0.5404 | 0.2615 | 0.3463 | -2.5104 |"
    ) in text
    assert text.count("| *published* |") == len(PUBLISHED)


def test_pictures_show_the_runs(study, study_report):
    rows = read_rows(study)
    curves = logged_curves(rows[0])
    steps, values = curves["eval_reverse_kl"]
    assert steps.tolist() == [1, 2, 4]
    assert values.tolist() == [[2, 1, 0.5]] * 2  # of two seeds
    drawn = draw_all(rows, differences_to_sft(rows))
    assert list(drawn) == ["differences", "training_curves", "coverage_precision"]
    for name, files in drawn.items():
        assert set(files) == {f"{name}.png", f"{name}.svg"}
        picture = Image.open(io.BytesIO(files[f"{name}.png"]))
        assert min(picture.size) > 600
        alpha = picture.convert("RGBA").getchannel("A")
        assert alpha.getextrema() == (255, 255)  # opaque
        assert b"<svg" in files[f"{name}.svg"]
        for file, content in files.items():  # bit for bit
            assert (study[0].parent / "report" / file).read_bytes() == content


def test_a_report_without_the_toy_language_or_curves_says_so(copies):
    for run in copies:
        path = run / "evaluation.json"
        evaluation = json.loads(path.read_text())
        for metric in ("precision", "coverage", "hallucination"):
            del evaluation["metrics"][metric]
        path.write_text(json.dumps(evaluation))
        (run / "metrics.jsonl").unlink()
    _, text, _ = report(copies)
    assert "Known on the toy language only" in text
    assert "No run logged both divergences" in text
    assert "precision" not in text.partition("## Differences")[0]
    assert "| ROUGE-L ↑ | ROUGE-1 ↑ | ROUGE-2 ↑ |" in text  # what is compared in its place


@pytest.mark.slow
def test_from_training_to_the_report(tmp_path):
    for name, size in (("start", 16), ("teacher", 32)):
        toy_model(size, 1, seed=size).save_pretrained(tmp_path / name)
        TOKENIZER.save_pretrained(tmp_path / name)
    teacher = ["--teacher_model_name_or_path", str(tmp_path / "teacher")]
    test_set = ["--num_test_conversations", "16"]
    runs = [tmp_path / name for name in ("sft-1", "fkl-1")]
    for run in runs:
        assert main(
            ["train", "--model_name_or_path", str(tmp_path / "start"), *teacher, *test_set,
             "--output_dir", str(run), "--num_conversations", "32", "--max_steps", "2",
             "--eval_strategy", "steps", "--eval_steps", "1", "--use_cpu", "true",
             *RECIPES[run.name[:3]]]
        ) == 0  # fmt: skip
        words = [*teacher, *test_set, "--max_new_tokens", "8"]
        assert main(["evaluate", "--model_name_or_path", str(run), *words]) == 0
    rows, text, _ = report(runs)
    assert list(rows) == ["SFT", FKL]
    measured = json.loads((runs[1] / "evaluation.json").read_text())["metrics"]
    for name in ("rouge1", "reverse_kl", "coverage", "outside_mass"):
        assert float(rows[FKL][name]) == measured[name]["mean"]
    for picture in ("differences", "training_curves", "coverage_precision"):
        assert f"]({picture}.png)" in text
        assert (tmp_path / "report" / f"{picture}.svg").exists()
