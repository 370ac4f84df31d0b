"""The script of Figure 4, called as a reader would call it."""

import json
import runpy
import sys

import pytest
from PIL import Image

from toy import softmax_rank
from toy.rank_race import METRICS, race, teacher_weights
from toy.softmax_rank import main

SMALL = ["--ranks", "2", "64", "--steps", "40"]


def test_pictures_have_the_posts_names_and_size(tmp_path, capsys):
    main([*SMALL, "--out", str(tmp_path)])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "kl_cmp_rank2.jpg",
        "kl_cmp_rank64.jpg",
    ]
    said = capsys.readouterr().out
    for path in tmp_path.iterdir():
        with Image.open(path) as picture:
            assert (picture.format, picture.size) == ("JPEG", (640, 480))
        assert str(path) in said


def test_json_holds_every_value_of_the_race(tmp_path):
    path = tmp_path / "race.json"
    main([*SMALL, "--out", str(tmp_path), "--json", str(path), "--seed", "4", "--lr", "0.01"])
    written = json.loads(path.read_text())
    log = race(
        teacher_weights([2, 64], seed=4), ["forward_kl", "reverse_kl"], [0.01], steps=40, seed=4
    )
    assert written["step"] == log.step == [0, 40]
    for index, rank in enumerate([2, 64]):
        for divergence in log.divergences:
            for metric in METRICS:
                assert written["ranks"][str(rank)][divergence][metric] == pytest.approx(
                    log.curve(metric, divergence, index), rel=1e-5
                )


def test_post_numerics_change_the_race(tmp_path):
    curves = []
    for flag in ([], ["--post-numerics"]):
        path = tmp_path / "race.json"
        main([*SMALL, *flag, "--out", str(tmp_path), "--json", str(path)])
        curves.append(json.loads(path.read_text())["ranks"]["64"]["reverse_kl"]["weight_distance"])
    assert curves[0][0] == curves[1][0]
    assert curves[0][-1] != pytest.approx(curves[1][-1], rel=1e-3)


def test_other_divergences_race_too(tmp_path):
    names = ["adaptive_kl", "jensen_shannon", "skew_forward_kl", "skew_reverse_kl"]
    main([*SMALL, "--divergence", *names, "--sharpness", "unit", "--out", str(tmp_path)])
    assert (tmp_path / "kl_cmp_rank2.jpg").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--divergence", "forward_k"], "unknown divergence 'forward_k'; did you mean"),
        (["--divergence", "jensen_shannon", "--post-numerics"], "--post-numerics off for jensen"),
        (["--ranks", "65"], "1 to 64, not 65"),
        (["--seed", "-1"], "--seed must be at least 0, not -1"),
        (["--steps", "99999999999999999999"], "--steps must be at most 10,000,000, not 1e\\+20"),
        (["--json", "{out}/kl_cmp_rank2.jpg"], "rank2.jpg is where the figure goes"),
        (["--lr", "-1"], "learning rate must be positive, not -1"),
        (["--lr", "1e30"], "no longer finite"),
        (["--out", "/proc/none"], "cannot write to output folder /proc/none"),
    ],
)
def test_bad_input_is_refused_and_leaves_the_old_picture(tmp_path, arguments, message):
    old = tmp_path / "kl_cmp_rank2.jpg"
    old.write_bytes(b"old")
    words = [word.format(out=tmp_path) for word in arguments]
    with pytest.raises(ValueError, match=message):
        main(["--ranks", "2", "--steps", "20", "--out", str(tmp_path), *words])
    assert old.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [old]


@pytest.mark.parametrize("run", [runpy.run_path, runpy.run_module])
def test_script_refuses_in_one_line_with_code_2(run, monkeypatch, capsys):
    """As ``python toy/softmax_rank.py`` and ``python -m toy.softmax_rank`` run it."""
    script = softmax_rank.__file__ if run is runpy.run_path else softmax_rank.__name__
    monkeypatch.setattr(sys, "argv", [softmax_rank.__file__, "--ranks", "0"])
    with pytest.raises(SystemExit) as ended:
        run(script, run_name="__main__")
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "softmax_rank.py: error: a rank of a 64x64 matrix lies in 1 to 64, not 0\n"
    )
