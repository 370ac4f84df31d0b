"""What a page says of itself in its head: a description, and what a chat or a feed shows of a link.

The description is the first paragraph of the page. The page for addresses that do not exist also
finds its way: it is served at any depth, and its links are those of the root.
"""

from html import escape
from typing import Any

from docutils import nodes
from front_page import NOT_FOUND
from sphinx.application import Sphinx

LONGEST = 200  # characters of a description
FROM_ANYWHERE = """<script>{
  // The site may stand in a folder of its server: what is before one of its own is its root.
  const path = location.pathname;
  const inside = path.search(/\\/(notebooks|site|assets|_[a-z]+)\\//);
  const root = inside < 0 ? path.replace(/[^/]*$/, "") : path.slice(0, inside + 1);
  document.head.append(Object.assign(document.createElement("base"), { href: root }));
}</script>"""


def describe(doctree: nodes.document) -> str:
    """The first paragraph of running text, cut at a word; empty where a page has none."""
    for paragraph in doctree.findall(nodes.paragraph):
        running = isinstance(paragraph.parent, nodes.section)
        if running and "notebook-download" not in paragraph["classes"]:
            text = " ".join(paragraph.astext().split())
            return text if len(text) <= LONGEST else text[: LONGEST - 1].rsplit(" ", 1)[0] + " …"
    return ""


def add_tags(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Sphinx's html-page-context event; pages such as the search have no doctree."""
    if doctree is None:
        return
    title = next(doctree.findall(nodes.title)).astext()
    properties = {"og:title": title, "og:site_name": app.config.html_title, "og:type": "article"}
    tags = []
    if text := describe(doctree):
        tags.append(f'<meta name="description" content="{escape(text)}">')
        properties["og:description"] = text
    tags += [
        f'<meta property="{name}" content="{escape(value)}">' for name, value in properties.items()
    ]
    if page == NOT_FOUND:
        tags.append(FROM_ANYWHERE)
    context["metatags"] = context.get("metatags", "") + "\n".join(tags)


def setup(app: Sphinx) -> dict:
    app.connect("html-page-context", add_tags)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
