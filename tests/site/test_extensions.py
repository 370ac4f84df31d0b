"""The site's own Sphinx extensions, without a build."""

import ast
import re
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
OUR_FILES = [
    path
    for package in ("book", "evidence", "kd_lab", "toy")
    for path in sorted((REPOSITORY / package).rglob("*.py"))
]


@pytest.fixture(autouse=True)
def extensions(monkeypatch):
    pytest.importorskip("sphinx")
    monkeypatch.syspath_prepend(str(REPOSITORY / "site" / "_ext"))
    yield
    for name in (
        "api_pages",
        "folded_code",
        "mathml",
        "narrow_pages",
        "plain_docstrings",
        "repository_files",
        "verdicts",
    ):
        sys.modules.pop(name, None)


def test_a_formula_becomes_mathml():
    from mathml import mathml

    fraction = mathml(r"\frac{p}{q}", "block")
    assert "<mfrac>" in fraction
    assert 'display="block"' in fraction
    assert ">arg<" in mathml(r"\arg\min_\theta D", "inline")


def test_a_formula_is_set_as_tex_would():
    from mathml import mathml

    thin = '<mspace width="0.1667em" />'
    assert f"<mi>p</mi>{thin}<mi>log</mi><mo>&#x02061;</mo>{thin}" in mathml(r"p \log q", "inline")
    assert "<mi>log</mi><mo stretchy" in mathml(r"\log(q)", "inline")
    assert "<mi>softmax</mi><mo stretchy" in mathml(r"\operatorname{softmax}(z)", "inline")
    assert '<mo form="prefix">&#x02212;' in mathml(r"g = -p", "inline")
    assert "form=" not in mathml(r"q - p", "inline")
    assert "<mo>&#x0223C;</mo>" in mathml(r"x \sim q", "inline")
    lines = mathml(r"\begin{aligned} a &= b \\ &+ c \end{aligned}", "block")
    assert lines.count("<mtr>") == 2
    assert "&amp;" not in lines


@pytest.mark.parametrize("latex", [r"x^2^3", r"\nosuchcommand x", r"x_1_2"])
def test_a_formula_that_cannot_be_converted_is_refused(latex):
    from mathml import mathml

    with pytest.raises(ValueError, match=r".+"):
        mathml(latex, "inline")


@pytest.mark.parametrize(
    ("plain", "rst"),
    [
        ("D(a|b) of θ_ and *p* times 2 * 3", r"D(a\|b) of θ\_ and *p* times 2 \* 3"),
        ("``a|b*`` stays", "``a|b*`` stays"),
        ("Wu, arXiv 2404.02657", "Wu, `arXiv 2404.02657 <https://arxiv.org/abs/2404.02657>`__"),
        ("see ``toy.mixture``", "see :py:obj:`toy.mixture`"),
        ("So:\n    a | b\n    c | d\nand on", "So:\n\n::\n\n    a | b\n    c | d\n\nand on"),
        ("Three:\n- one\n  and more\n- two", "Three:\n\n- one\n  and more\n- two"),
        ("Args:\n    x: [N|M].", "Args:\n    x: [N\\|M]."),
        ("Returns:\n    ``a``: one.", ":returns:\n    ``a``: one."),
    ],
)
def test_plain_docstrings_keep_their_meaning(plain, rst):
    from plain_docstrings import to_rst

    assert "\n".join(to_rst(plain.split("\n"))) == rst


def test_code_in_a_docstring_is_indented():
    """The formatter takes the indentation away where nothing after the summary is without it."""
    code = re.compile(r"^(?:\S.*\S {2,}\S.*|(?:python|kd-lab) -.*|\w+\(.*\))$", re.M)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    found = [
        f"{path.relative_to(REPOSITORY)}: {line}"
        for path in OUR_FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, documented)
        for line in code.findall(ast.get_docstring(node) or "")
    ]
    assert not found, "\n".join(found)


def test_every_module_has_its_place_in_the_api():
    """A module that is missing belongs on a ``{modules}`` line of a page in site/api/."""
    from api_pages import documented_modules

    modules = {
        ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
        for path in OUR_FILES
        if path.name != "__main__.py"
    }
    assert not sorted(modules - documented_modules(REPOSITORY) - {"kd_lab"})


def test_a_module_that_is_not_there_is_named():
    from api_pages import modules_of

    with pytest.raises(ValueError, match=r"kd_lab\.nowhere"):
        modules_of("kd_lab.nowhere", REPOSITORY)


def test_every_result_is_told_in_words():
    from repository_files import NUMBERS, words_of_files

    results = REPOSITORY / "assets" / "results"
    files = {path.name for path in results.iterdir() if path.suffix in NUMBERS}
    assert words_of_files(results).keys() == files


def test_a_signature_of_a_hundred_options_is_cut_short():
    from plain_docstrings import shorten

    assert shorten(None, "class", "Config", None, None, f"({'a: int = 0, ' * 100})", "") == (
        "(...)",
        "",
    )
    short = "(p, q)", "Tensor"
    assert shorten(None, "function", "forward_kl", None, None, *short) == short


@pytest.mark.parametrize(
    ("default", "shown"),
    [
        ("<factory>", "..."),
        ("<built-in function iter>", "iter"),
        ("<function forward_kl at 0x7f00>", "forward_kl"),
        ("<function Scorer.<lambda> at 0x7f00>", "..."),
        ("<class 'torch.nn.Module'>", "Module"),
        (f"PosixPath('{REPOSITORY}/teach/slides.md')", "Path('teach/slides.md')"),
    ],
)
def test_a_signature_whose_default_has_no_spelling_is_python(default, shown):
    from plain_docstrings import shorten

    signature, returns = shorten(None, "class", "Loss", None, None, f"(s: dict = {default})", "")
    assert (signature, returns) == (f"(s: dict = {shown})", "")


def test_numpy_s_names_are_shown_and_not_what_they_stand_for():
    from numpy import float64
    from numpy.typing import ArrayLike, NDArray
    from plain_docstrings import shorten
    from sphinx.util.typing import stringify_annotation

    values, result = (stringify_annotation(t, "smart") for t in (ArrayLike, NDArray[float64]))
    assert shorten(None, "function", "mean", None, None, f"(values: {values})", result) == (
        "(values: ~numpy.typing.ArrayLike)",
        "~numpy.typing.NDArray[~numpy.float64]",
    )


def test_what_matplotlib_writes_into_our_class_is_left_out():
    from plain_docstrings import skip

    from kd_lab.house_style import Figure

    assert skip(None, "class", "set", Figure.set, False, None)
    assert skip(None, "class", "png", Figure.png, False, None) is None


def test_code_in_cells_and_headings_breaks_after_its_signs():
    from narrow_pages import with_breaks

    path = '<span class="pre">kd_lab/methods.py</span>'
    broken = path.replace("kd_lab/methods.py", "kd_<wbr>lab/<wbr>methods.py")
    page = '<p>{0} a/b</p><td>{1} a/b <span class="pre">token_fkl</span></td><h2>{1}</h2>'
    assert with_breaks(page.format(path, path)) == page.format(path, broken)
    option = '<span class="pre">--teacher_dtype_</span>'
    whole = '<span class="pre"><span class="whole">--teacher</span>_{}dtype_</span>'
    page = "<p>{}</p><td>{}</td>"
    assert with_breaks(page.format(option, option)) == page.format(
        whole.format(""), whole.format("<wbr>")
    )


@pytest.mark.parametrize("kind", ["property", "method"])
def test_a_colon_in_a_property_s_docstring_is_no_type(kind):
    from plain_docstrings import rewrite
    from sphinx.ext.napoleon import Config, GoogleDocstring

    lines = ["Share of rows: of the evaluations."]
    rewrite(None, kind, "share", None, None, lines)
    shown = str(GoogleDocstring(lines, Config(), what=kind, name="share"))
    assert shown.removeprefix("..").strip() == "Share of rows: of the evaluations."


def test_what_shows_or_checks_is_folded_and_what_teaches_stays_open():
    from folded_code import parts

    cell = (
        "import math\nimport torch\nfrom toy import mixture\n\np = mixture(3)\n"
        "# the value\nvalue = p.sum()\n\nfor name in p:\n    assert name\nprint(value)\n"
        "plt.show()\nassert value == 3"
    )
    assert parts(cell) == [
        (True, "import math\nimport torch\nfrom toy import mixture"),
        (False, "p = mixture(3)\n# the value\nvalue = p.sum()"),
        (True, "for name in p:\n    assert name\nprint(value)\nplt.show()\nassert value == 3"),
    ]
    assert parts("x = 1\nassert x") == [
        (False, "x = 1\nassert x")
    ]  # a fold would hide less than it takes
    assert parts("!ls\n%time x") == [(False, "!ls\n%time x")]
