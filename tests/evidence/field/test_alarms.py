"""The rate of false alarms: its interval, and what is kept of a check that is done."""

import pytest

from evidence.field.alarms import _Done, clopper_pearson


def test_the_interval_is_exact():
    none, some = clopper_pearson(0, 200), clopper_pearson(3, 200)
    assert none == {"low": 0.0, "high": pytest.approx(1 - 0.025 ** (1 / 200))}
    assert (some["low"], some["high"]) == pytest.approx((0.0031, 0.0432), abs=1e-4)


def test_what_is_done_is_not_repeated(tmp_path):
    path = tmp_path / "done.json"
    assert _Done(path).get("one", lambda: {"said": "this"}) == {"said": "this"}
    assert _Done(path).get("one", lambda: {"said": "that"}) == {"said": "this"}
    assert _Done(path).seconds >= 0


@pytest.mark.parametrize("content", ["{", "[]", '{"one": {}}', '{"one": {"said": {}}}'])
def test_a_damaged_file_is_named_with_what_mends_it(tmp_path, content):
    path = tmp_path / "done.json"
    path.write_text(content)
    with pytest.raises(
        ValueError, match=r"done.json is damaged \(.*\): remove it and give the same"
    ):
        _Done(path)
