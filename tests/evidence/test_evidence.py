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
    TOKENIZER.save_pretrained(project / "runs" / "teacher")
    monkeypatch.setattr("torch.set_num_threads", lambda threads: None)
    assert main(["stored_teacher", "runs"]) == 0
    written = Path("assets/results/stored_teacher.json")
    assert capsys.readouterr().out.splitlines()[-1] == f"wrote {written}"
    found = json.loads((project / written).read_text("utf-8"))
    assert found["toy"]["hidden"] > 64  # two bytes for each of 32 units, and the rows


def test_runs_that_are_not_there_are_one_line_and_nothing_is_written(project, capsys):
    assert main(["topk_tail", "runs/no"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("evidence: error: runs/no holds no finished token_fkl-1")
    assert error.count("\n") == 1
    assert not list(Path("assets/results").iterdir())


@pytest.mark.parametrize("words", [["claims"], ["listing", "runs"], ["publish", "toy", "runs"]])
def test_elsewhere_it_is_refused(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert "there is no assets/results here" in capsys.readouterr().err


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_study_is_published_whole_or_not_at_all(project, capsys, name):
    files = PUBLISHED[name].files
    assert all((ROOT / "assets" / place).is_file() for place in files.values())
    for file in files:
        assert main(["publish", name, "runs"]) == 2  # the last file is still missing
        path = project / "runs" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.encode())
    assert "run `kd-lab " in capsys.readouterr().err
    assert not [path for path in Path("assets").rglob("*") if path.is_file()]
    assert main(["publish", name, "runs"]) == 0
    for file, place in files.items():
        assert (project / "assets" / place).read_bytes() == file.encode()
