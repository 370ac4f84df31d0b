"""Pictures: small, of known size, loaded when they are near, and with words for who cannot see.

PNG and GIF become WebP without loss, at half and a quarter of the size. A GIF moves, and a reader
may have asked for less motion: such a reader gets its last frame. What is wider than a phone opens
at its full size.

The output of a notebook's cell has no alt text of its own. It gets the section it stands in and the
call that drew it; the notebooks' house rule puts what there is to see into the text next to it.
"""

from pathlib import Path

from docutils import nodes
from PIL import Image
from sphinx.application import Sphinx
from sphinx.builders.html import StandaloneHTMLBuilder
from sphinx.transforms import SphinxTransform
from sphinx.util.images import get_image_size
from sphinx.writers.html5 import HTML5Translator

PHONE = 360  # CSS pixels
CONVERTED = (".png", ".gif")


class Pictures(SphinxTransform):
    """Gives every image its size, its alt text, and the loading of far pictures later."""

    default_priority = 800

    def apply(self) -> None:
        for image in self.document.findall(nodes.image):
            if not image.get("alt"):
                image["alt"] = _of_a_cell(image)
            path = Path(self.app.srcdir, self.env.relfn2path(image["uri"], self.env.docname)[0])
            size = get_image_size(path)
            if size:
                width = int(image.get("width") or size[0])
                image["width"], image["height"] = str(width), str(round(size[1] * width / size[0]))
            image["loading"] = "lazy"


def _of_a_cell(image: nodes.image) -> str:
    """Alt text for what a cell drew; empty where the image is no cell's."""
    cell = section = None
    above = image.parent
    while above is not None and section is None:
        if "cell" in above.get("classes", []):
            cell = above
        if isinstance(above, nodes.section):
            section = above
        above = above.parent
    if cell is None or section is None:
        return ""
    code = next(iter(cell.findall(nodes.literal_block))).astext().splitlines()
    last_call = [line for line in code if line and not line.startswith((" ", ")"))][-1]
    title = next(iter(section.findall(nodes.title))).astext()
    return (
        f"Figure of the section “{title}”, drawn by {last_call.split('(')[0].split(' = ')[-1]}; "
        "the text beside it says what it shows"
    )


def visit_image(translator: HTML5Translator, node: nodes.image) -> None:
    builder, source = translator.builder, node["uri"]
    before, after = "", ""
    if source in builder.env.images and Path(source).suffix in CONVERTED:
        if source.endswith(".gif"):
            before = (
                '<picture><source media="(prefers-reduced-motion: reduce)" '
                f'srcset="{_converted(builder, source, still=True)}">'
            )
            after = "</picture>"
        node["uri"] = _converted(builder, source)
        builder.images.pop(source, None)  # or Sphinx would copy the original too
        if int(node.get("width", 0)) > PHONE and not isinstance(node.parent, nodes.reference):
            before, after = f'<a class="enlarge" href="{node["uri"]}">{before}', f"{after}</a>"
    translator.body.append(before)
    HTML5Translator.visit_image(translator, node)
    translator.body.append(after)


def depart_image(translator: HTML5Translator, node: nodes.image) -> None:
    HTML5Translator.depart_image(translator, node)


def _converted(builder: StandaloneHTMLBuilder, source: str, still: bool = False) -> str:
    """Writes a picture as WebP into the site, unless it is there; its address from this page."""
    original = Path(builder.srcdir, source)
    name = Path(builder.env.images[source][1]).stem + ("-still.webp" if still else ".webp")
    copy = Path(builder.outdir, builder.imagedir, name)
    if not copy.exists() or copy.stat().st_mtime < original.stat().st_mtime:
        copy.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(original) as picture:
            frames = getattr(picture, "n_frames", 1)
            if still:
                picture.seek(frames - 1)
            picture.save(copy, lossless=True, method=3, save_all=frames > 1 and not still)
    return f"{builder.imgpath}/{name}"


def setup(app: Sphinx) -> dict:
    app.add_transform(Pictures)
    app.add_node(nodes.image, override=True, html=(visit_image, depart_image))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
