"""Names of models, folders and runs where other programs read them: text, and never markup."""

import html


def in_markdown(text: str) -> str:
    """One line without HTML, and without a bar that would end a table's cell."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|")


def in_csv(text: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def in_plot(text: str) -> str:
    """A label in which matplotlib sees no formula."""
    return text.replace("$", r"\$")
