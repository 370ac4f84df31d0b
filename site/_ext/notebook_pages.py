"""What a page of a notebook has more than the notebook, and what it cannot have.

More: links to the notebook itself and to the wheels that it installs, under its title, and to Colab
where conf.py knows the repository. Not: sliders, which need a running kernel. A link to the figure
of the site that moves stands in their place.
"""

import json

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

from book.notebook_top import WHEELS_OF_SITE, colab_address
from book.wheels import wheel_names

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
        name = self.env.docname.split("/")[-1]
        paragraph = nodes.paragraph("", classes=["notebook-download"])
        paragraph += addnodes.download_reference(
            "",
            "",
            nodes.inline("", "Download this notebook"),
            reftarget=f"{name}.ipynb",
            refdoc=self.env.docname,
        )
        if repository := self.config.repository_on_github:
            address = colab_address(name, repository)
            paragraph += [
                nodes.Text(", or "),
                nodes.reference("", "open it in Colab", refuri=address),
            ]
        if not self.config.html_baseurl:  # a download that knows the site takes them from there
            paragraph += nodes.Text(". Outside the project put two wheels beside it: ")
            links = [
                nodes.reference("", wheel.split("-")[0], refuri=f"../{WHEELS_OF_SITE}{wheel}")
                for wheel in wheel_names()
            ]
            paragraph += [links[0], nodes.Text(" and "), links[1]]
        paragraph += nodes.Text(".")
        title = next(self.document.findall(nodes.title))
        title.parent.insert(1, paragraph)
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


def forget_widgets(app: Sphinx, docname: str, source: list[str]) -> None:
    """Sphinx's source-read event: nothing on a page reads what the sliders were set to."""
    if docname.startswith("notebooks/"):
        notebook = json.loads(source[0])
        notebook["metadata"].pop("widgets", None)
        source[0] = json.dumps(notebook, ensure_ascii=False)


def setup(app: Sphinx) -> dict:
    app.add_config_value("repository_on_github", "", "env", str)
    app.connect("source-read", forget_widgets)
    app.add_transform(NotebookPage)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
