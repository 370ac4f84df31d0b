"""From results and texts to the page of claims: placeholders, and what refuses a typed number."""

import json

import pytest

from evidence.claims.page import POST, untraced_numbers, write_page
from evidence.claims.results import Results

CLAIM = """\
## A part

### Reverse KL stays
Says: “it will stay 17 steps” (Figure 1).
Verdict: holds under conditions
Number: <<race.json: races/reverse/never/share | .1%>> of starts
 never arrive
Figure: assets/a.png | what is to be seen
Repeat: `make audit --starts 1024`

It fails from <<race.json: races/reverse/never | .1%>> of starts.

- at rank 2 it is <<race.json: gap/*/rank=2/rate=0.1 | {mean:+.1f} [{low:+.1f}, {high:+.1f}]>>
"""


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    race = {
        "axes": {"rank": [2, 4], "rate": [0.001, 0.1]},
        "gap": {
            "mean": [[1.0, -200.21], [3.0, 4.0]],
            "low": [[0.0, -206.8], [2.0, 3.0]],
            "high": [[2.0, -194.1], [4.0, 5.0]],
        },
        "races": {"reverse": {"never": {"share": 0.27051, "interval": [0.2432, 0.2979]}}},
        "points": [{"kind": "stable", "mu": 3.0}, {"kind": "saddle", "mu": 0.875}],
        "settings": {"starts": 1024},
    }
    (folder / "race.json").write_text(json.dumps(race))
    (folder / "table.csv").write_text(
        "name,size,precision,precision_low,precision_high\nSFT,57536,0.9231,0.915,0.931\n"
        '"a, b",1,2,3,4\n'
    )
    return Results(folder)


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "introduction.md").write_text(
        "# Claims\n\nCOUNT, of <<race.json: settings/starts | ,d>> starts.\n"
    )
    (folder / "1_part.md").write_text(CLAIM)
    return folder


@pytest.mark.parametrize(
    ("placeholder", "told"),
    [
        ("<<race.json: settings/starts | ,d>>", "1,024"),
        ("<<race.json: races/reverse/never | .1%>>", "27.1% [24.3%, 29.8%]"),
        ("<<race.json: races/reverse/never/interval | {0[1]:.2f}>>", "0.30"),
        ("<<race.json: points/kind=saddle/mu | .3f>>", "0.875"),
        ("<<race.json: points/0/mu | g>>", "3"),
        ("<<race.json: gap/low/rank=4/rate=0.001 | .1f>>", "2.0"),
        ("<<table.csv: name=SFT/precision | .3f>>", "0.923 [0.915, 0.931]"),
        ("<<table.csv: name=SFT/size | ,.0f>>", "57,536"),
        ("<<table.csv: name=a, b/precision/high | g>>", "4"),
    ],
)
def test_placeholders(results, placeholder, told):
    spoken = []
    assert results.fill(f"so {placeholder}.", spoken) == f"so {told}."
    assert spoken == [told]


@pytest.mark.parametrize(
    "placeholder",
    [
        "<<race.json: races/forward/never | .1%>>",
        "<<race.json: points/kind=unstable/mu | .1f>>",
        "<<race.json: settings | .1f>>",
        "<<race.json: gap/low/rank=3/rate=0.1 | .1f>>",
        "<<gone.json: settings/starts | d>>",
    ],
)
def test_a_placeholder_that_nothing_stands_behind_is_named(results, placeholder):
    with pytest.raises(ValueError, match=placeholder[2:10]):
        results.fill(placeholder)


def test_a_page(results, texts):
    text = write_page(results, texts).text
    top = "# Claims\n\n1 hold under conditions, of 1,024 starts.\n\n**A part**\n\n| the post's"
    assert text.startswith(top)
    row = "| [Reverse KL stays](#reverse-kl-stays) | holds under conditions | 27.1% of starts never"
    assert row in text
    assert f"[post]({POST}#:~:text=it%20will%20stay%2017%20steps):" in text
    assert "**Holds under conditions.** It fails from 27.1% [24.3%, 29.8%] of starts." in text
    assert "\n- at rank 2 it is -200.2 [-206.8, -194.1]\n" in text
    assert "![what is to be seen](assets/a.png)" in text
    assert text.endswith("Repeat: `make audit --starts 1024`\n")


@pytest.mark.parametrize("typed", ["0.271", "27%", "3 seeds", "1,025", "-200.3"])
def test_a_number_that_was_typed_is_refused(results, texts, typed):
    path = texts / "1_part.md"
    path.write_text(path.read_text().replace("It fails", f"With {typed} it fails"))
    number = typed.removesuffix(" seeds").removeprefix("-")
    with pytest.raises(ValueError, match=rf"no result stands behind: {number} \(Reverse KL stays"):
        write_page(results, texts)


def test_a_number_of_another_claim_does_not_count(results, texts):
    other = CLAIM.replace("### Reverse KL stays", "### Another").replace(
        "It fails from <<race.json: races/reverse/never | .1%>>", "It fails from -200.2, and 27.1%"
    )
    (texts / "2_part.md").write_text(other.replace("\n- at rank 2", "\nAt rank 2"))
    write_page(results, texts)  # 27.1% stands in its own Number
    (texts / "2_part.md").write_text(other.partition("\n- at rank 2")[0])
    with pytest.raises(ValueError, match=r"200.2 \(Another\)"):
        write_page(results, texts)


def test_a_page_that_was_edited_by_hand(results, texts):
    page = write_page(results, texts)
    assert untraced_numbers(page.text, page.spoken) == []
    edited = page.text.replace("from 27.1%", "from 17.1%").replace("1,024", "2,048", 1)
    assert untraced_numbers(edited, page.spoken) == ["2,048 (top)", "17.1% (Reverse KL stays)"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Verdict: holds under conditions", "Verdict: mostly holds", "a verdict is one of"),
        ("Repeat: `make audit --starts 1024`\n", "", "a claim has Says, Verdict"),
        ("Says:", "Said:", "a claim has Says, Verdict"),
    ],
)
def test_a_claim_that_is_not_well_formed(results, texts, old, new, message):
    path = texts / "1_part.md"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match=rf"1_part.md, 'Reverse KL stays': {message}"):
        write_page(results, texts)
