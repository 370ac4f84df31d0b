"""The command of the audit: one name, one folder of runs, one JSON."""

import json
import subprocess
import sys
from inspect import signature
from pathlib import Path
from pkgutil import resolve_name

import pytest

from evidence.__main__ import main
from evidence.measurements import MEASUREMENTS
from evidence.publish import PUBLISHED
from kd_lab.demo import STUDIES
from kd_lab.study.schedule import record_path
from tests.helpers.toy_pair import TOKENIZER, toy_model

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project to write into, the working directory."""
    (tmp_path / "assets" / "results").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_a_measurement_is_a_function_of_runs_and_its_results_are_committed(name):
    measurement = MEASUREMENTS[name]
    first, *others = signature(resolve_name(measurement.function)).parameters.values()
    assert first.name == "runs"
    assert all(other.default is not other.empty for other in others)
    module = measurement.function.partition(":")[0].rpartition(".")[2]
    assert name in (module, f"{module}_{measurement.study}")
    assert measurement.study in STUDIES
    assert (ROOT / "assets" / "results" / f"{name}.json").is_file()


def test_the_list_and_the_page_need_none_of_the_heavy_libraries():
    asked = "import sys, evidence.__main__; print({'torch', 'transformers'} & {*sys.modules})"
    told = subprocess.run([sys.executable, "-c", asked], cwd=ROOT, capture_output=True, check=True)
    assert told.stdout.strip() == b"set()"


def test_without_a_name_all_are_listed(capsys):
    assert main([]) == 0
    words = capsys.readouterr().out.split()
    assert {*MEASUREMENTS, "publish", "claims"} <= {*words}


@pytest.mark.slow
def test_a_measurement_becomes_the_json_of_its_name(project, monkeypatch, capsys):
    toy_model(32).save_pretrained(project / "runs" / "teacher")
    (project / "runs" / "teacher" / "complete").touch()
    TOKENIZER.save_pretrained(project / "runs" / "teacher")
    monkeypatch.setattr("torch.set_num_threads", lambda threads: None)
    assert main(["stored_teacher", "runs"]) == 0
    written = Path("assets/results/stored_teacher.json")
    assert capsys.readouterr().out.splitlines()[-1] == f"wrote {written}"
    found = json.loads((project / written).read_text("utf-8"))
    assert found["toy"]["hidden"] > 64  # two bytes for each of 32 units, and the rows


@pytest.mark.parametrize("words", [["claims"], ["listing", "runs"], ["publish", "toy", "runs"]])
def test_elsewhere_it_is_refused(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert "there is no assets/results here" in capsys.readouterr().err


def whole_study(name, folder, *, quick=False, seeds=None):
    """A study's folder as its end leaves it, but for the content of its results."""
    study = STUDIES[name]
    for task in study.tasks(folder, seeds or study.seeds, quick):
        task.result.parent.mkdir(parents=True, exist_ok=True)
        task.result.touch()
        record = {"words": task.words, "fingerprint": "x", "seconds": 1.5}
        record_path(folder, task).parent.mkdir(exist_ok=True)
        record_path(folder, task).write_text(json.dumps(record), encoding="utf-8")


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_study_is_published_whole_or_not_at_all(project, capsys, name):
    files = PUBLISHED[name].files
    if name in STUDIES:
        whole_study(name, Path("runs"))
    for file, place in files.items():
        assert main(["publish", name, "runs"]) == 2  # the last file is still missing
        path = project / "runs" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((ROOT / "assets" / place).read_bytes())
    assert "run `kd-lab " in capsys.readouterr().err
    assert not [path for path in Path("assets").rglob("*") if path.is_file()]
    assert main(["publish", name, "runs"]) == 0
    for place in files.values():
        written = (project / "assets" / place).read_bytes()
        assert written == (ROOT / "assets" / place).read_bytes()


def refused(capsys, *words):
    """The one line of a refusal; nothing is written."""
    assert main([str(word) for word in words]) == 2
    assert not [path for path in Path("assets").rglob("*") if path.is_file()]
    [line] = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name in STUDIES])
def test_no_quick_or_partial_study_is_published(project, capsys, name):
    for file, place in PUBLISHED[name].files.items():
        (project / "runs" / file).parent.mkdir(parents=True, exist_ok=True)
        (project / "runs" / file).write_bytes((ROOT / "assets" / place).read_bytes())
    again = f"run `kd-lab demo --study {name} --output_dir runs` to its end"
    whole_study(name, Path("runs"), seeds=1)
    assert again in refused(capsys, "publish", name, "runs")
    whole_study(name, Path("runs"), quick=True)
    line = refused(capsys, "publish", name, "runs")
    assert line.startswith("evidence: error: runs is of --quick")
    assert again in line
    whole_study(name, Path("runs"))
    for file in PUBLISHED[name].files:
        path = project / "runs" / file
        if path.name == f"study_{name}.json":
            path.write_text('{"seeds": 1}')
        elif path.suffix == ".csv":
            path.write_text("name,seeds\nstart,1\n")
    assert "is of 1 seeds, not " in refused(capsys, "publish", name, "runs")


@pytest.mark.parametrize(("step", "more"), [(50, {}), (2, {"train_runtime": 1.0})])
def test_no_partial_training_is_published(project, capsys, step, more):
    Path("runs").mkdir()
    Path("runs/metrics.jsonl").write_text(json.dumps({"step": step, **more}) + "\n")
    line = refused(capsys, "publish", "smol_token_fkl", "runs")
    again = "run `kd-lab train --config smol/token_fkl --output_dir runs` to its end first"
    assert line == f"evidence: error: runs holds {step} steps of 50: {again}"


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_a_folder_that_cannot_be_measured_is_one_line_with_its_command(project, capsys, name):
    study = MEASUREMENTS[name].study
    command = f"`kd-lab demo --study {study} --output_dir runs`"
    missing = refused(capsys, name, "runs")
    assert missing == f"evidence: error: there is no folder runs: {command} makes it"
    Path("runs").mkdir()
    assert refused(capsys, name, "runs").endswith(f": run {command} to its end first")
    whole_study("temperature", Path("runs"))  # another one, which has a teacher too
    if name != "stored_teacher":
        assert refused(capsys, name, "runs").endswith(f": run {command} to its end first")
    whole_study(study, Path("runs"), quick=True)
    assert f"runs is of --quick, which gives no results: remove the folder, and run {command}" in (
        refused(capsys, name, "runs")
    )
    whole_study(study, Path("runs"))
    needed = MEASUREMENTS[name].needed[0].replace(" ", "-")
    record = sorted(Path("runs/tasks").glob(f"{needed}.json"))[0]
    whole = record.read_text()
    record.write_text(json.dumps(json.loads(whole) | {"seconds": None}))  # stopped, started again
    assert refused(capsys, name, "runs").endswith(f": run {command} to its end first")
    record.write_text(whole[:20])
    assert refused(capsys, name, "runs").startswith(f"evidence: error: {record} is damaged (")
