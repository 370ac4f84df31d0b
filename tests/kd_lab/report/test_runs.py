"""How a report reads its runs: what each row is called, and which runs are refused."""

import shutil
from pathlib import Path

import pytest

from kd_lab.cli import main, parse
from kd_lab.report.plots import styles
from kd_lab.report.published import PUBLISHED
from kd_lab.report.runs import read_rows
from kd_lab.runs.evaluations import read_config
from kd_lab.runs.marker import mark_whole
from kd_lab.runs.run_files import resolved_config
from kd_lab.runs.run_folder import record_run
from tests.helpers.written_runs import FKL, write_run, write_study


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> list[Path]:
    """Two seeds of SFT and of FKL, one of RKL; not to be changed."""
    return write_study(tmp_path_factory.mktemp("study"))


@pytest.fixture
def copies(study, tmp_path) -> list[Path]:
    """The same runs, to be changed."""
    return [Path(shutil.copytree(run, tmp_path / run.name)) for run in study]


@pytest.mark.parametrize(
    ("recipe", "q", "p", "loss"),
    [
        ("qwen2.5/token_fkl_from_instruct", *PUBLISHED[3][:2], PUBLISHED[3].loss),
        ("qwen2.5/token_fkl", *PUBLISHED[4][:2], PUBLISHED[4].loss),
        ("qwen2.5/token_fkl_0.8_sft", *PUBLISHED[5][:2], PUBLISHED[5].loss),
        ("qwen2.5/token_rkl", *PUBLISHED[6][:2], PUBLISHED[6].loss),
        ("qwen2.5/ultra_7b", *PUBLISHED[2][:2], PUBLISHED[2].loss),
        ("tiny/gkd", "start", "teacher", "mixed λ=0.5 × JSD(0.5)"),
        ("tiny/minillm", "start", "teacher", "student × RKL, policy gradient"),
        ("tiny/seqkd", "start", "answers", "teacher × SFT"),
        ("tiny/seq_fkl", "start", "teacher", "teacher × FKL"),
        ("tiny/sft", "start", "", "SFT"),
        ("tiny/teacher", "untrained", "", "SFT"),
    ],
)
def test_a_recipe_is_told_as_its_point_of_the_map(tmp_path, recipe, q, p, loss):
    folder = write_run(tmp_path / "sft-1", {})
    words = ["--config", recipe, "--bf16", "false", "--output_dir", str(folder)]
    record_run(folder, resolved_config(*parse("train", words)))
    row = read_rows([folder])[0]
    assert (row.q, row.p, row.loss) == (q, p, loss)


def test_rows_have_names_of_their_own(tmp_path):
    student = {"name": "start", "sha256": "of the start"}
    runs = [
        write_run(tmp_path / "sft-1", {}),
        write_run(tmp_path / "sft-2", {}, "--model_name_or_path=runs/other", student=student),
        write_run(tmp_path / "fkl-1", {}),
        write_run(tmp_path / "fkl-2", {}, "--distil_temperature=2", "--max_steps=7"),
        write_run(tmp_path / "fkl-3", {}, "--max_steps=9"),
        write_run(tmp_path / "rkl-1", {}, student={"name": "up", "sha256": "of the teacher"}),
    ]
    (runs[5] / "config.yaml").unlink()  # a model that was not trained here
    rows = read_rows(runs)
    assert [recipe.name for recipe in rows] == [
        "up",
        "start",
        "SFT",
        f"{FKL} (max_steps -1)",
        f"{FKL}, T=2",
        f"{FKL} (max_steps 9)",
    ]
    assert [recipe.is_teacher for recipe in rows] == [True] + [False] * 5
    looks = [tuple(map(str, look.values())) for look in styles(rows).values()]
    assert len(set(looks)) == len(looks)


NOWHERE = {"model_name_or_path": ""}


@pytest.mark.parametrize(
    ("break_it", "told"),
    [
        (
            lambda run: (run / "evaluation.json").unlink(),
            "fkl-1 holds no evaluation.json; first run `kd-lab evaluate --model_name_or_path",
        ),
        (lambda run: (run / "evaluation.json").write_text("{"), "is not JSON"),
        (lambda run: (run / "evaluation.json").write_text("{}"), "not written by kd-lab evaluate"),
        (lambda run: write_run(run, {}, test_set={}), "different test prompts"),
        (lambda run: write_run(run, {}, settings={**NOWHERE, "sampling_temperature": 0.0}),
         "with sampling_temperature 1.0 and"),
        (lambda run: write_run(run, {}, settings={**NOWHERE, "temperature": 0.0}),
         "with sampling_temperature 1.0 and"),  # as it was called before
        (lambda run: run.rename(run.with_name("gone")), "there is no folder"),
        (lambda run: [file.unlink() for file in run.iterdir()], "fkl-1 is no run: it holds"),
        (lambda run: (run.rename(run.with_name("gone")), run.touch()), "fkl-1 is a file: give"),
        (lambda run: (mark_whole(run), (run / "config.yaml").unlink()), "config.yaml is missing"),
    ],
)  # fmt: skip
def test_a_run_that_cannot_be_reported_on_is_one_line(copies, capsys, break_it, told):
    out = copies[0].parent / "report"
    out.mkdir()
    (out / "report.md").write_text("an earlier report")
    break_it(copies[2])
    assert main(["report", *map(str, copies), "--output_dir", str(out)]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert told in line
    assert [path.name for path in out.glob("[!.]*")] == ["report.md"]
    assert (out / "report.md").read_text() == "an earlier report"


def test_a_row_gives_whichever_of_its_seeds_does(tmp_path):
    given = [write_run(tmp_path / name, {}) for name in ("sft-1", "sft-2")]
    taught = write_run(tmp_path / "fkl-1", {}, teacher={"name": "sft-2", "sha256": "sft-2"})
    begun = write_run(tmp_path / "rkl-1", {}, "--model_name_or_path", str(given[1]))
    for seeds in (given, given[::-1]):
        for other, is_teacher in ((taught, True), (begun, False)):
            row = read_rows([*seeds, other])[0]
            assert (row.gives, row.is_teacher, len(row.runs)) == ("sft-2", is_teacher, 2)


ANOTHER = {"name": "teacher", "sha256": "of another"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"teacher": ANOTHER}, "evaluated with the teachers teacher (SHA-256 of the teach...) and "
         "teacher (SHA-256 of another...): evaluate them alike"),
        ({"teacher": None}, "(SHA-256 of the teach...) and none: evaluate them alike"),
        ({"settings": {**NOWHERE, "sampling_temperature": 1.0, "dtype": "bfloat16"}},
         "evaluated with dtype auto and bfloat16: evaluate them alike"),
        ({"settings": {**NOWHERE, "sampling_temperature": 1.0, "teacher_dtype": "float16"}},
         "evaluated with teacher_dtype auto and float16: evaluate them alike"),
    ],
)  # fmt: skip
def test_seeds_measured_otherwise_are_no_row(tmp_path, capsys, change, told):
    runs = [write_run(tmp_path / "fkl-1", {}), write_run(tmp_path / "fkl-2", {}, **change)]
    for given in (runs, runs[::-1]):
        assert main(["report", *map(str, given), "--output_dir", str(tmp_path / "report")]) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert f"{given[0]} and {given[1]} are seeds of one row" in line
        assert told in line or given != runs
    other = write_run(tmp_path / "rkl-2", {}, **change)
    assert len(read_rows([runs[0], other])) == 2  # of two rows, what differs is not averaged


def test_seeds_of_other_teachers_are_no_row(tmp_path):
    runs = [write_run(tmp_path / name, {}) for name in ("fkl-1", "fkl-2", "fkl-3", "fkl-4")]
    moved, unmarked = {"name": "moved", "sha256": "of a teacher"}, {"name": "teacher"}
    teachers = ({**moved, "name": "teacher"}, moved, unmarked, ANOTHER)
    for run, teacher in zip(runs, teachers, strict=True):
        record_run(run, read_config(run), {"rows": "any", "teacher": teacher})
    assert len(read_rows(runs[:3])) == 1  # known by its contents, where these are on record
    with pytest.raises(ValueError, match=r"fkl-1 and .*fkl-4 are seeds .* trained with the teach"):
        read_rows([runs[2], runs[0], runs[3]])


def test_runs_given_twice_and_seeds_run_twice_are_refused(study, tmp_path, capsys):
    again = write_run(tmp_path / "again" / "sft-1", {})
    for runs, told in (
        ([study[0], study[0]], "is given twice"),
        ([study[0], again], "are one recipe and one seed"),
        ([], "the following arguments are required: --runs"),
    ):
        assert main(["report", *map(str, runs)]) == 2
        assert told in capsys.readouterr().err
