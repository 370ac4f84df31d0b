"""Formulas as MathML, written into the page at build time: no script, no network.

latex2mathml does the converting, and site.css names the mathematics font. What latex2mathml does
not know it passes through as text, and a reader would find ``\\foo`` in the middle of a page. Here
that is a warning, which ends a build with -W, and it names the formula and its place.
"""

import re

from docutils import nodes
from latex2mathml import exceptions
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

logger = logging.getLogger(__name__)

# What authors write and latex2mathml does not know, in words that it knows.
SPELT_OTHERWISE = {
    r"\arg": r"\operatorname{arg}",
    r"\begin{aligned}": r"\begin{split}",
    r"\end{aligned}": r"\end{split}",
}

# What a browser would set wrongly as latex2mathml writes it, and what stands there instead.
OPENS = r"<mo[^>]*>(?:&#x00028;|\[|\{|&#x0003D;|&#x0002C;|,)</mo>"
THIN = '<mspace width="0.1667em" />'
SET_RIGHT = (
    (r"<mo>([A-Za-z]{2,})</mo>", r"<mi>\1</mi>"),  # a function's name, and no operator
    # A thin space before a function, as TeX leaves, and after it where no bracket follows.
    (r"(</(?:mi|mn|msub|msup|mfrac|mrow)>)(?=<mi>(?:log|ln|exp)</mi>)", rf"\1{THIN}"),
    (
        r"(<mi>(?:log|ln|exp)</mi>)(?!<mo[^>]*>(?:&#x00028;|\[))(?=<)(?!</)",
        rf"\1<mo>&#x02061;</mo>{THIN}",
    ),
    # A sign is no subtraction.
    (rf"({OPENS})<mo>&#x02212;</mo>", r'\1<mo form="prefix">&#x02212;</mo>'),
    (r"<mi>&#x0007E;</mi>", "<mo>&#x0223C;</mo>"),  # "is drawn from"
)

TAG = re.compile(r"\\tag\{([^}]*)\}")  # its number, which belongs at the right of the line

# latex2mathml's errors have no common parent but Exception.
CANNOT_CONVERT = tuple(
    error
    for error in vars(exceptions).values()
    if isinstance(error, type) and issubclass(error, Exception)
)


def mathml(latex: str, display: str) -> str:
    """The MathML of a formula.

    Args:
        latex: the formula, without dollar signs.
        display: "inline" or "block".
    Raises:
        ValueError: the formula cannot be converted, or only in part.
    """
    for command, otherwise in SPELT_OTHERWISE.items():
        whole_command = re.escape(command) + (r"(?![A-Za-z])" if command[-1].isalpha() else "")
        latex = re.sub(whole_command, otherwise.replace("\\", r"\\"), latex)
    try:
        converted = convert(latex, display=display)
    except CANNOT_CONVERT as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if "\\" in converted:
        unknown = converted[converted.index("\\") :].split("<")[0]
        raise ValueError(f"latex2mathml does not know {unknown}")
    for wrong, right in SET_RIGHT:
        converted = re.sub(wrong, right, converted)
    return converted


def _write(translator: HTML5Translator, node: nodes.Element, display: str) -> None:
    latex = node.astext()
    numbers = "".join(f'<span class="number">({number})</span>' for number in TAG.findall(latex))
    latex = TAG.sub("", latex)
    try:
        converted = mathml(latex, display)
    except ValueError as error:
        logger.warning("this formula is not MathML: %s: %s", latex, error, location=node)
        converted = f"<code>{translator.encode(latex)}</code>"
    if display == "block":
        converted = f'<div class="math-block">{converted}{numbers}</div>'
    translator.body.append(converted)
    raise nodes.SkipNode


def visit_math(translator: HTML5Translator, node: nodes.math) -> None:
    _write(translator, node, "inline")


def visit_math_block(translator: HTML5Translator, node: nodes.math_block) -> None:
    _write(translator, node, "block")


def setup(app: Sphinx) -> dict:
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
