"""Puts the root page of the sources, site/index.md, at the root of the built site: index.html."""

from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.builders.html import StandaloneHTMLBuilder


class FrontPageBuilder(StandaloneHTMLBuilder):
    """Sphinx's own HTML builder, with one page at another address."""

    def get_output_path(self, page_name: str, /) -> Path:
        return super().get_output_path(self._address(page_name))

    def get_target_uri(self, docname: str, typ: str | None = None) -> str:
        return super().get_target_uri(self._address(docname), typ)

    def index_page(self, pagename: str, doctree: nodes.document, title: str) -> None:
        """The search makes addresses out of names, so it leaves the moved page out."""
        if pagename != self.config.root_doc:
            super().index_page(pagename, doctree, title)

    def _address(self, docname: str) -> str:
        return "index" if docname == self.config.root_doc else docname


def setup(app: Sphinx) -> dict:
    app.add_builder(FrontPageBuilder, override=True)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
