"""Six points by the page's own code: seeds are kept one by one, and the picture shows all six."""

import json
import shutil
from pathlib import Path

import pytest

from toy import one_page_map
from toy.one_page_map import MEASURES, POINTS, main, summarise


@pytest.mark.slow
def test_seeds_that_are_there_are_not_measured_again(tmp_path, monkeypatch, capsys):
    quick = ["--quick", "--out", str(tmp_path)]
    main([*quick, "--seeds", "1"])
    file = tmp_path / "results" / "one_page.json"
    first = json.loads(file.read_text())
    assert set(first["models"]) == {"teacher", "start", "SFT", *POINTS}
    assert (tmp_path / "one_page.png").stat().st_size > 10_000

    measured = []
    values = {name: [0.5, 0.25] for name in first["models"]}
    monkeypatch.setattr(
        one_page_map, "measure", lambda seed, quick: measured.append(seed) or values
    )
    main([*quick, "--seeds", "2"])
    assert measured == [2]
    both = json.loads(file.read_text())["models"]["SFT"]["precision"]["values"]
    assert both == [*first["models"]["SFT"]["precision"]["values"], 0.5]


ROOT = Path(__file__).parents[2]


@pytest.fixture
def full(tmp_path, monkeypatch):
    """A copy of the committed results, where nothing is measured again."""
    file = tmp_path / "results" / "one_page.json"
    file.parent.mkdir()
    shutil.copy(ROOT / "assets" / "results" / "one_page.json", file)
    monkeypatch.setattr(one_page_map, "measure", None)
    monkeypatch.setattr(one_page_map, "draw", lambda results: str(results["seeds"]).encode())
    return file


def test_fewer_seeds_leave_those_that_were_measured(full):
    before = full.read_bytes()
    main(["--seeds", "1", "--out", str(full.parents[1])])
    assert full.read_bytes() == before
    assert (full.parents[1] / "one_page.png").read_bytes() == b"3"


def test_quick_results_do_not_replace_full_ones(full, monkeypatch):
    before = full.read_bytes()
    with pytest.raises(ValueError, match=r"--quick would replace full results in .*one_page.json"):
        main(["--quick", "--out", str(full.parents[1])])
    assert full.read_bytes() == before
    monkeypatch.chdir(full.parents[1])
    monkeypatch.setattr(one_page_map, "measure", lambda seed, quick: {
        name: [0.5, 0.5] for name in ("teacher", "start", "SFT", *POINTS)
    })  # fmt: skip
    main(["--quick", "--seeds", "1"])
    assert Path("build/one_page/results/one_page.json").is_file()


@pytest.mark.parametrize(
    "damage",
    [
        lambda found: "[]",
        lambda found: json.dumps(found)[:500],
        lambda found: json.dumps({**found, "quick": None}),
        lambda found: json.dumps({**found, "seeds": 4}),
        lambda found: json.dumps({**found, "seeds": "3"}),
        lambda found: json.dumps({**found, "seeds": 0}),
        lambda found: json.dumps({**found, "models": {**found["models"], "SFT": 1}}),
        lambda found: json.dumps({**found, "models": {"SFT": found["models"]["SFT"]}}),
        lambda found: json.dumps(found).replace('"values": [0.', '"values": [NaN, 0.', 1),
        lambda found: json.dumps(found).replace('"values": [0.', '"values": ["x", 0.', 1),
        lambda found: json.dumps(found).replace('"values": [0.', '"values": [1.', 1),
    ],
)
def test_damaged_results_are_named_with_what_mends_them(full, damage):
    full.write_text(damage(json.loads(full.read_text())))
    with pytest.raises(ValueError, match=r"^[^\n]*$") as refusal:
        main(["--out", str(full.parents[1])])
    assert str(refusal.value).startswith(f"{full} is damaged (")
    assert "bring it back by `git checkout`, or remove it" in str(refusal.value)


def test_an_interval_is_over_seeds_and_one_seed_has_none():
    seeds = [{"SFT": [0.2, 0.4]}, {"SFT": [0.4, 0.4]}]
    found = summarise(seeds)["models"]["SFT"]
    assert found["precision"]["mean"] == pytest.approx(0.3)
    # t of one degree of freedom, 12.706, times the standard error, 0.1
    assert found["precision"]["high"] == pytest.approx(0.3 + 1.2706, abs=1e-4)
    assert found["coverage"]["low"] == pytest.approx(0.4)
    assert summarise(seeds[:1])["models"]["SFT"]["precision"]["low"] is None
    assert MEASURES == ("precision", "coverage")


def test_no_seed_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--seeds must be at least 1, not 0"):
        main(["--seeds", "0", "--out", str(tmp_path)])
