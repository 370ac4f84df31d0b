"""The API: pages of site/api/ name modules, and get their docstrings.

A line ``{modules} kd_lab.divergences kd_lab.evaluation`` stands for a section with ``automodule``
for each module named, and for each module inside a package that is named, those first that the line
names on their own. Docstrings are plain text; ``plain_docstrings`` makes them what Sphinx reads.
"""

import re
from functools import cache
from pathlib import Path

from sphinx.application import Sphinx

LINE = re.compile(r"^\{modules\} (.+)$", re.M)


def modules_of(names: str, repository: Path) -> list[str]:
    """The modules that a ``{modules}`` line stands for.

    Raises:
        ValueError: the repository has no such module.
    """
    modules: list[str] = []
    for name in names.split():
        path = repository / name.replace(".", "/")
        if path.with_suffix(".py").is_file():
            modules.append(name)
        elif (path / "__init__.py").is_file():
            modules.append(name)
            modules += [f"{name}.{file.stem}" for file in sorted(path.glob("[!_]*.py"))]
        else:
            raise ValueError(f"site/api/ names {name}, and there is no such module")
    return list(dict.fromkeys(modules))


@cache
def documented_modules(repository: Path) -> frozenset[str]:
    """Every module that has its place in site/api/."""
    return frozenset(
        module
        for page in Path(repository, "site", "api").glob("*.md")
        for names in LINE.findall(page.read_text(encoding="utf-8"))
        for module in modules_of(names, Path(repository))
    )


def _section(module: str, repository: Path) -> str:
    path = module.replace(".", "/")
    is_package = (repository / path).is_dir()
    title = f"## `{path}/`" if is_package else f"## `{path}.py`"
    text = f"{path}/__init__.py" if is_package else f"{path}.py"
    source = f'<a class="module-source" href="../../_sources/{text}.txt">source</a>'
    # A package only hands on what its modules hold, and these have sections of their own.
    options = "   :no-members:\n" if is_package else ""
    return f"{title}\n\n{source}\n\n```{{eval-rst}}\n.. automodule:: {module}\n{options}```\n"


def expand(app: Sphinx, docname: str, source: list[str]) -> None:
    """Sphinx's source-read event."""
    if docname.startswith("site/api/"):
        repository = Path(app.srcdir)
        source[0] = LINE.sub(
            lambda line: "\n".join(
                _section(module, repository) for module in modules_of(line[1], repository)
            ),
            source[0],
        )


def setup(app: Sphinx) -> dict:
    app.connect("source-read", expand)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
