import pytest

from book import asset_files
from book.asset_files import asset


def test_in_the_project_a_stored_result_is_found_from_any_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert asset("results/two_gaussians.json").is_file()
    assert asset("results/toy_study").is_absolute()


def test_in_a_wheel_it_lies_within_the_package(monkeypatch, tmp_path):
    places = (tmp_path / "assets", tmp_path / "book" / "assets")
    (places[1] / "results").mkdir(parents=True)
    (places[1] / "results" / "a.json").write_text("{}")
    monkeypatch.setattr(asset_files, "PLACES", places)
    assert asset("results/a.json").read_text() == "{}"


def test_what_is_not_there_is_named_with_the_places():
    with pytest.raises(FileNotFoundError, match=r"no results/none\.json in .*assets.*pyproject"):
        asset("results/none.json")
