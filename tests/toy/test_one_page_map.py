"""Six points by the page's own code: seeds are kept one by one, and the picture shows all six."""

import json

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
