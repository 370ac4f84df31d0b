"""teach/slides.md on the site: one page without navigation, a slide a screen and a printed page.

The numbers come from ``book.slides``. Every heading begins a slide, and a quotation holds the notes
for the speaker, folded. site/_templates/slides.html is the frame, slides.css and slides.js the look
and the arrow keys.
"""

from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx

from book.slides import page
from evidence.claims.results import PLACEHOLDER, Results

SLIDES = "teach/slides"


def fill(app: Sphinx, docname: str, source: list[str]) -> None:
    """Sphinx's source-read event."""
    if docname == SLIDES:
        results = Path(app.srcdir, "assets", "results")
        for file, *_ in PLACEHOLDER.findall(source[0]):
            app.env.note_dependency(str(results / file.strip()))
        app.env.note_dependency(str(Path(app.srcdir, "evidence", "claims", "results.py")))
        source[0] = page(Results(results), Path(app.env.doc2path(docname)))


def box(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Sphinx's doctree-resolved event: a box for each slide, its notes folded.

    Pictures are there when the page is printed, however far down they are.
    """
    if docname != SLIDES:
        return
    whole = next(doctree.findall(nodes.section))
    second = next(i for i, child in enumerate(whole) if isinstance(child, nodes.section))
    for slide in whole[second:]:
        slide["classes"].append("slide")
    # The first slide is the page's own heading, whose section holds all others.
    whole.insert(second, _html("</div>"))
    whole.insert(0, _html('<div class="slide front">'))
    for quotation in list(doctree.findall(nodes.block_quote)):
        opened = _html('<details class="notes"><summary>Notes</summary>')
        quotation.replace_self([opened, *quotation.children, _html("</details>")])
    for image in doctree.findall(nodes.image):
        image["loading"] = "eager"


def _html(text: str) -> nodes.raw:
    return nodes.raw("", text, format="html")


def frame(app: Sphinx, pagename: str, *_: object) -> str | None:
    """Sphinx's html-page-context event: the template of the slides."""
    return "slides.html" if pagename == SLIDES else None


def setup(app: Sphinx) -> dict:
    app.connect("source-read", fill)
    app.connect("html-page-context", frame)
    app.connect("doctree-resolved", box)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
