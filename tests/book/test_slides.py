"""The slides: their form, and numbers that are read from the results."""

import re
from pathlib import Path

import pytest

from book.cheat_sheet import ESTIMATORS
from book.slides import page, print_pdf, read_slides, typed_numbers
from evidence.claims.results import Results

ROOT = Path(__file__).parents[2]
RESULTS = Results(ROOT / "assets" / "results")
ROW = re.compile(r"^\| (\d+) \| (?:none|(\d+) to (\d+)) \|", re.M)


def source(tmp_path, *slides):
    path = tmp_path / "slides.md"
    path.write_text("\n---\n".join(slides), encoding="utf-8")
    return path


FIRST = "# Two lectures\n\nWelcome.\n\n> Say it.\n"


def test_two_lessons_have_their_slides():
    slides = read_slides()
    assert 20 <= len(slides) <= 30
    assert sum(slide.title.startswith("Lesson") for slide in slides) == 4  # first and last of each
    assert not [slide.title for slide in slides if not slide.notes.strip()]


def test_every_number_on_a_slide_is_read_from_the_results():
    filled = page(RESULTS)
    assert "<<" not in filled
    assert "\n---\n" not in filled
    assert (
        f"{RESULTS.value('toy_study/table.csv', 'method=token_rkl/precision/mean'):.3f}" in filled
    )


@pytest.mark.parametrize(
    ("body", "typed"),
    [
        ("It is 0.964 here.", ["0.964"]),
        ("Of 300 questions, 7% fail.", ["300", "7%"]),
        ("It is <<one_page.json: models/teacher/precision/mean | .3f>> here.", []),
        ("Problems 1 to 5, notebook 3, k2, $T = 2$, `1e-10`, Wu et al. 2024.", []),
    ],
)
def test_a_typed_number_is_found_and_a_name_is_none(tmp_path, body, typed):
    _, slide = read_slides(source(tmp_path, FIRST, f"## One\n\n{body}\n\n> Notes.\n"))
    assert typed_numbers(slide) == typed


def test_a_typed_number_is_refused_with_its_place(tmp_path):
    path = source(tmp_path, FIRST, "## One\n\nNothing.\n\n> It was 0.964.\n")
    with pytest.raises(ValueError, match=r"slides\.md, slide 2 \(One\).*0\.964"):
        page(RESULTS, path)


@pytest.mark.parametrize(
    ("slide", "why"),
    [("No heading.\n\n> Notes.\n", "slide 2 begins with no heading"),
     ("# A second title\n\n> Notes.\n", "slide 2 begins with no heading"),
     ("## One\n\nNo notes.\n", "slide 2 .* has no notes")],
)  # fmt: skip
def test_a_slide_has_a_heading_and_notes(tmp_path, slide, why):
    with pytest.raises(ValueError, match=why):
        read_slides(source(tmp_path, FIRST, slide))


def test_the_estimators_on_the_slide_are_those_of_the_cheat_sheet():
    table = next(slide.body for slide in read_slides() if "| k1 |" in slide.body)
    for name, formula, value, gradient, _ in ESTIMATORS:
        cells = next(line for line in table.splitlines() if line.startswith(f"| {name} |"))
        _, shown, mean, trains = (cell.strip() for cell in cells.strip("|").split("|"))
        assert shown == f"${formula}$"
        assert value.startswith(mean)
        assert trains in gradient or (trains, gradient[:4]) == ("nothing", "zero")


def test_the_plan_of_the_lessons_goes_through_all_slides_in_90_minutes_each():
    plan = (ROOT / "site" / "teach.md").read_text(encoding="utf-8")
    lessons = plan.split("## Lesson ")[1:]
    lessons[-1] = lessons[-1].split("\n## ")[0]
    numbers, begins = [], []
    for lesson in lessons:
        rows = ROW.findall(lesson)
        assert sum(int(minutes) for minutes, *_ in rows) == 90
        begins.append(len(numbers))
        for _, first, last in rows:
            if first:
                numbers += range(int(first), int(last) + 1)
    slides = read_slides()
    assert numbers == list(range(1, len(slides) + 1))
    assert slides[begins[1]].title.startswith("Lesson 2: ")


def test_a_missing_page_or_browser_names_the_command_that_makes_it(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="make site"):
        print_pdf(tmp_path / "slides.html", tmp_path / "slides.pdf")
    (tmp_path / "slides.html").write_text("<p>slides</p>")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="make browser"):
        print_pdf(tmp_path / "slides.html", tmp_path / "slides.pdf")
