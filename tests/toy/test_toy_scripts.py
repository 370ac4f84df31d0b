"""The scripts of Figures 1 and 2, as a reader runs them."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from toy import toy_example_fkl_rkl, toy_example_fkl_rkl_v2
from toy.mixture_fit import POST_TARGET, Mixture, fit
from toy.script import run_script

ROOT = Path(__file__).parents[2]
SCRIPTS = {"": toy_example_fkl_rkl, "_dual": toy_example_fkl_rkl_v2}


def test_a_script_is_run_by_its_path(tmp_path):
    command = [sys.executable, "toy/toy_example_fkl_rkl.py", "--steps", "2", "--out", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert_drawn(tmp_path, "", done.stdout)
    assert done.stderr == ""


def test_a_script_is_run_by_its_name(tmp_path, monkeypatch, capsys):
    """``python -m`` without a process of its own."""
    words = ["toy_example_fkl_rkl_v2.py", "--steps", "2", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_module("toy.toy_example_fkl_rkl_v2", run_name="__main__")
    said = capsys.readouterr()
    assert_drawn(tmp_path, "_dual", said.out)
    assert said.err == ""


def assert_drawn(folder, suffix, said):
    names = {f"fwd_kl{suffix}.gif", f"rev_kl{suffix}.gif"}
    assert {path.name for path in folder.iterdir()} == names
    *_, last = said.splitlines()
    assert last.startswith("wrote ")
    assert all(name in last for name in names)


def test_json_holds_every_step_from_the_posts_starts(tmp_path):
    path = tmp_path / "fits.json"
    toy_example_fkl_rkl.main(["--out", str(tmp_path), "--json", str(path)])
    written = json.loads(path.read_text())
    assert written == {
        "forward_kl": fit(POST_TARGET, [5.0], 5.0, steps=100).to_json(),
        "reverse_kl": fit(POST_TARGET, [5.0], 1.0, divergence="reverse_kl", steps=100).to_json(),
    }
    assert written["forward_kl"]["step"] == list(range(100))
    assert len(written["reverse_kl"]["mu"][99]) == 1


def test_the_second_figure_starts_at_minus_one_and_one(tmp_path):
    path = tmp_path / "fits.json"
    toy_example_fkl_rkl_v2.main(
        ["--out", str(tmp_path), "--json", str(path), "--post-numerics", "--steps", "6"]
    )
    written = json.loads(path.read_text())
    assert written["forward_kl"]["mu"][5][1] == pytest.approx(0.4291, abs=1e-3)
    assert written["reverse_kl"]["mu"][5][1] == pytest.approx(0.4121, abs=1e-3)


@pytest.mark.parametrize("suffix", SCRIPTS)
def test_another_divergence_is_one_flag_away(suffix, tmp_path):
    SCRIPTS[suffix].main(
        ["--out", str(tmp_path), "--steps", "3", "--divergence", "adaptive_kl", "jensen_shannon"]
    )
    for name in ("adaptive_kl", "jensen_shannon"):
        with Image.open(tmp_path / f"{name}{suffix}.gif") as gif:
            assert gif.n_frames == 3


def test_options_reach_the_fit(tmp_path):
    path = tmp_path / "fits.json"
    toy_example_fkl_rkl.main(
        f"--out {tmp_path} --json {path} --steps 4 --divergence reverse_kl --mu -2 0.5 --sigma 1 2 "
        "--target-mu 0 --target-sigma 2 --target-weight 1 --optimizer SGD --lr 0.01 "
        "--grid -30 30 601".split()
    )
    expected = fit(
        Mixture((0.0,), (2.0,), (1.0,)),
        [-2.0, 0.5],
        [1.0, 2.0],
        divergence="reverse_kl",
        optimizer="SGD",
        lr=0.01,
        steps=4,
    )
    assert json.loads(path.read_text())["reverse_kl"]["kl"] == pytest.approx(
        expected.to_json()["kl"], rel=1e-6
    )


def test_a_random_start_is_the_seeds(tmp_path):
    def first_means(seed):
        path = tmp_path / "fits.json"
        toy_example_fkl_rkl_v2.main(
            f"--out {tmp_path} --json {path} --steps 1 --seed {seed} --divergence forward_kl "
            "--mu random 1".split()
        )
        return json.loads(path.read_text())["forward_kl"]["mu"][0]

    assert first_means(3) == first_means(3)
    assert first_means(3)[0] != first_means(4)[0]
    assert first_means(3)[1] == pytest.approx(0.9) == first_means(4)[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--sigma 0", "sigma must be positive, not 0"),
        ("--target-sigma 0.5 -1", "sigma must be positive"),
        ("--target-weight 0.5 0.6", "sum to 1"),
        ("--target-mu 1 2 3", "3 mu, 2 sigma, 2 weight"),
        ("--divergence forward_kl reverse", "unknown divergence 'reverse'"),
        ("--optimizer adam", "did you mean 'Adam'"),
        ("--mu five", "numbers or the word 'random', not 'five'"),
        ("--sigma 30", "of the mass falls outside the grid"),
        ("--lr 0", "learning rate must be positive"),
        ("--out {folder}/fwd_kl.gif", "cannot write to output folder"),
        ("--json {folder}/fwd_kl.gif/fits.json", "cannot write to output folder"),
        ("--json {folder}/fwd_kl.gif", "fwd_kl.gif is where the figure goes: name another file"),
        ("--json {folder}", "is a folder: name a file"),
        ("--steps 0", "--steps must be at least 1, not 0"),
        ("--steps 99999999999999999999", "--steps must be at most 100,000, not 1e+20"),
        ("--steps nan", "--steps must be a whole number, not 'nan'"),
        ("--seed -1", "--seed must be at least 0, not -1"),
        ("--seed 4294967296", "--seed must be at most 4,294,967,295, not"),
        ("--lr nan", "--lr must be a number from -1e6 to 1e6, not 'nan'"),
        ("--sigma 1e308", "--sigma must be a number from -1e6 to 1e6"),
        ("--target-mu nan 3", "--target-mu must be a number"),
        ("--mu 1e30 --post-numerics", "not '1e30' (from -1e6 to 1e6)"),
        ("--mu 1e6", "step 0, start 0: no grid can follow mu 1e+06, sigma 5; try another start"),
        ("--grid -40 40 inf", "--grid must be a number"),
        ("--grid -40 40 1e9", "--grid must be a number"),
        ("--grid -40 40 1e6.5", "--grid must be a number"),
        ("--grid -40 40 100.5", "--grid takes from 2 to 1,000,000 points, not 100.5"),
        ("--grid 3 -3 100", "low < high"),
        ("--nonsense", "unrecognized arguments: --nonsense"),
    ],
)
def test_bad_input_is_one_line_and_leaves_the_old_figure(
    arguments, message, tmp_path, monkeypatch, capsys
):
    old = tmp_path / "fwd_kl.gif"
    old.write_bytes(b"the old figure")
    words = arguments.format(folder=tmp_path).split()
    monkeypatch.setattr(sys, "argv", ["toy_example_fkl_rkl.py", "--out", str(tmp_path), *words])
    with pytest.raises(SystemExit) as exit_:
        run_script(toy_example_fkl_rkl.main)
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("toy_example_fkl_rkl.py: error: ")
    assert message in line
    assert old.read_bytes() == b"the old figure"
    assert list(tmp_path.iterdir()) == [old]


@pytest.mark.parametrize("script", SCRIPTS.values())
def test_help_shows_how_to_call_it(script, capsys):
    with pytest.raises(SystemExit) as exit_:
        script.main(["--help"])
    assert exit_.value.code == 0
    assert f"python toy/{script.__name__.split('.')[-1]}.py" in capsys.readouterr().out


def test_ctrl_c_is_one_line(capsys, monkeypatch):
    def stopped(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["toy/audit.py"])
    with pytest.raises(SystemExit) as ended:
        run_script(stopped)
    assert ended.value.code == 130
    assert capsys.readouterr().err == "audit.py: stopped\n"
