"""Puts two pages at the root of the built site, where servers look for them.

The root page of the sources, site/index.md, becomes index.html, and site/not_found.md 404.html.
"""

from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.builders.html import StandaloneHTMLBuilder

NOT_FOUND = "site/not_found"


class FrontPageBuilder(StandaloneHTMLBuilder):
    """Sphinx's own HTML builder, with two pages at other addresses."""

    def get_output_path(self, page_name: str, /) -> Path:
        return super().get_output_path(self._address(page_name))

    def get_target_uri(self, docname: str, typ: str | None = None) -> str:
        return super().get_target_uri(self._address(docname), typ)

    def index_page(self, pagename: str, doctree: nodes.document, title: str) -> None:
        """The search makes addresses out of names, so it leaves the moved pages out."""
        if pagename == self._address(pagename):
            super().index_page(pagename, doctree, title)

    def _address(self, docname: str) -> str:
        return {self.config.root_doc: "index", NOT_FOUND: "404"}.get(docname, docname)


def setup(app: Sphinx) -> dict:
    app.add_builder(FrontPageBuilder, override=True)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
