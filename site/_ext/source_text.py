"""The source of every documented module as text, and a link from each name to its line in it.

A rendered page for each of a hundred modules would be a third of the site. A text file is enough to
read, and the link's fragment tells the browser which words to look for. The mark at its beginning
says that it is UTF-8, which a server of plain files does not.
"""

from pathlib import Path
from urllib.parse import quote

from api_pages import documented_modules
from sphinx.application import Sphinx

REPOSITORY = Path(__file__).resolve().parents[2]
FROM_API_PAGES = "../../_sources"


def source_file(module: str) -> Path:
    """From the repository's root."""
    path = Path(*module.split("."))
    is_package = (REPOSITORY / path).is_dir()
    return path / "__init__.py" if is_package else path.with_suffix(".py")


def address(module: str, fragment: str = "") -> str:
    """Of a module's text, from a page in site/api/."""
    return f"{FROM_API_PAGES}/{source_file(module).as_posix()}.txt{fragment}"


def linkcode_resolve(domain: str, info: dict[str, str]) -> str | None:
    """What sphinx.ext.linkcode asks of conf.py: where a function or class is written."""
    if not info["module"]:  # what autodoc could not name
        return None
    source = (REPOSITORY / source_file(info["module"])).read_text(encoding="utf-8")
    name = info["fullname"].split(".")[-1]
    for definition in (f"def {name}(", f"class {name}"):
        if definition in source:
            return address(info["module"], f"#:~:text={quote(definition.rstrip('('))}")
    return None


def write(app: Sphinx, error: Exception | None) -> None:
    """Sphinx's build-finished event."""
    if error is None:
        for module in documented_modules(app.srcdir):
            copy = Path(app.outdir, "_sources", f"{source_file(module)}.txt")
            copy.parent.mkdir(parents=True, exist_ok=True)
            text = (REPOSITORY / source_file(module)).read_text(encoding="utf-8")
            copy.write_text(text, encoding="utf-8-sig")


def setup(app: Sphinx) -> dict:
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
