"""A name is text wherever it is written, whatever it looks like; in whole reports: hardening."""

import re

import pytest

from kd_lab.runs.safe_text import in_csv, in_markdown, in_plot
from tests.hardening.names import NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_one_line_without_markup(name):
    text = in_markdown(name)
    assert "\n" not in text
    assert "<" not in text
    assert not re.search(r"(?<!\\)\|", text)


def test_a_formula_is_no_formula_in_a_spreadsheet_or_a_plot():
    assert in_csv("=1+2") == "'=1+2"
    assert in_csv("start") == "start"
    assert in_plot("$x$") == r"\$x\$"
