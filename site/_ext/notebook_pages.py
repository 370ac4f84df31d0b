"""What a page of a notebook has more than the notebook, and what it cannot have.

More: a link to the notebook itself, under its title. The download is to be run, so it comes without
the outputs, which the page shows. Not: sliders, which need a running kernel. A
link to the figure of the site that moves stands in their place.
"""

import json
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

# The explorable that shows what a notebook's sliders do, by the notebook's number.
EXPLORABLES = {
    "01": ("gaussians", "Drag a Gaussian"),
    "02": ("gaussians", "Drag a Gaussian"),
    "03": ("ranks", "The rank study"),
    "04": ("tokens", "Two objectives, token by token"),
}


class NotebookPage(SphinxTransform):
    default_priority = 600

    def apply(self) -> None:
        if not self.env.docname.startswith("notebooks/"):
            return
        name = self.env.docname.split("/")[-1] + ".ipynb"
        link = addnodes.download_reference(
            "",
            "",
            nodes.inline("", "Download this notebook"),
            reftarget=name,
            refdoc=self.env.docname,
        )
        title = next(self.document.findall(nodes.title))
        title.parent.insert(1, nodes.paragraph("", "", link, classes=["notebook-download"]))
        for output in list(self.document.findall(nodes.literal_block)):
            if output.astext().startswith("VBox(children=("):
                output.replace_self(_instead_of_sliders(self.env.docname))


def _instead_of_sliders(docname: str) -> nodes.paragraph:
    page, title = EXPLORABLES[docname.split("/")[-1][:2]]
    return nodes.paragraph(
        "",
        "",
        nodes.Text("A running notebook has sliders here. On this site, "),
        nodes.reference("", title, refuri=f"../site/explore/{page}.html", internal=True),
        nodes.Text(" moves under your hand."),
        classes=["needs-kernel"],
    )


def clear_downloads(app: Sphinx, error: Exception | None) -> None:
    """Sphinx's build-finished event: notebooks to download have no outputs."""
    if error is None:
        for path in Path(app.outdir, "_downloads").glob("*/*.ipynb"):
            notebook = json.loads(path.read_text(encoding="utf-8"))
            for cell in notebook["cells"]:
                if cell["cell_type"] == "code":
                    cell |= {"outputs": [], "execution_count": None}
            path.write_text(json.dumps(notebook, ensure_ascii=False, indent=1), encoding="utf-8")


def setup(app: Sphinx) -> dict:
    app.connect("build-finished", clear_downloads)
    app.add_transform(NotebookPage)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
