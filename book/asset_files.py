"""Where the files lie that the notebooks read: in the project's folder, or in an installed wheel.

    asset("results/two_gaussians.json")    # assets/results/two_gaussians.json of the project

A notebook reads through it and nowhere else, so that it runs from any folder.
"""

from pathlib import Path

HERE = Path(__file__).resolve().parent
# In the project's folder assets/ stands beside this package, and in the wheel it lies within.
PLACES = (HERE.parent / "assets", HERE / "assets")


def asset(name: str) -> Path:
    """A file or a folder of ``assets/``, as an absolute path.

    Args:
        name: its path below ``assets/``, with slashes.
    Raises:
        FileNotFoundError: it lies in neither place.
    """
    for place in PLACES:
        if (path := place / name).exists():
            return path
    raise FileNotFoundError(
        f"there is no {name} in {' or '.join(map(str, PLACES))}: "
        "the wheel kd-lab-book holds what book/pyproject.toml lists"
    )
