"""Links to files of the repository, as README, CLAIMS and the notebooks write them, on the site.

A Python file of the packages leads to its place in the API, with its source one step further; a
folder to the page that conf.py names for it; any other file that is no page is a download. A link
to something that is not there stays as it is and MyST warns about it.
"""

from pathlib import Path

from api_pages import documented_modules
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform


class RepositoryLinks(SphinxTransform):
    default_priority = 700

    def apply(self) -> None:
        modules = documented_modules(self.app.srcdir)
        for link in list(self.document.findall(addnodes.download_reference)):
            module = _module(self._path(link["reftarget"]))
            if module in modules:
                _to_module(link, module)
        for link in list(self.document.findall(addnodes.pending_xref)):
            if link.get("reftype") != "myst" or link.get("refdomain"):
                continue
            path = self._path(link["reftarget"])
            if path in self.config.repository_folders:
                link["refdomain"] = "doc"
                link["reftarget"] = self.config.repository_folders[path]
                link["reftargetid"] = None
            elif _module(path) in modules:
                _to_module(link, _module(path))

    def _path(self, target: str) -> str:
        """From the repository's root."""
        return Path(self.env.relfn2path(target, self.env.docname)[0]).as_posix().rstrip("/")


def _module(path: str) -> str:
    return path.removesuffix(".py").replace("/", ".")


def _to_module(link: nodes.Element, module: str) -> None:
    inside = nodes.inline("", "", *link.children)
    reference = {"refdomain": "py", "reftype": "mod", "reftarget": module, "refexplicit": True}
    link.replace_self(addnodes.pending_xref("", inside, **reference))


def setup(app: Sphinx) -> dict:
    app.add_config_value("repository_folders", {}, "env", dict)
    app.add_transform(RepositoryLinks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
