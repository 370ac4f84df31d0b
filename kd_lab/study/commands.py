"""The commands that studies are made of, as tasks whose runs lie side by side in one folder.

A run NAME is the folder FOLDER/NAME: the files of ``kd-lab train``, and ``evaluation.json``. The
answers of evaluations go to FOLDER/answers; there all students share their teacher's answers.
"""

from collections.abc import Sequence
from pathlib import Path

from kd_lab.data.shards import MANIFEST
from kd_lab.evaluation.evaluate import RESULT
from kd_lab.runs.run_files import COMPLETE
from kd_lab.study.schedule import Task


def train(
    folder: Path, name: str, *words: str, kind: str = "", after: Sequence[str] = (), seconds: float
) -> Task:
    """``kd-lab train WORDS``: the run NAME, resumed from its last whole checkpoint."""
    whole = (
        "train",
        *words,
        *("--output_dir", str(folder / name)),
        *("--resume_from_checkpoint", "true"),
        *("--disable_tqdm", "true"),
    )
    return Task(
        f"train {name}", whole, folder / name / COMPLETE, tuple(after), f"train {kind}", seconds
    )


def generate(
    folder: Path, name: str, *words: str, after: Sequence[str] = (), seconds: float
) -> Task:
    """``kd-lab generate WORDS``: answers stored in FOLDER/NAME."""
    whole = ("generate", *words, "--output_dir", str(folder / name))
    return Task(
        f"generate {name}", whole, folder / name / MANIFEST, tuple(after), "generate", seconds
    )


def evaluate(
    folder: Path,
    name: str,
    *words: str,
    model: str | None = None,
    after: Sequence[str] = (),
    seconds: float,
) -> Task:
    """``kd-lab evaluate WORDS``: of the run NAME, or of ``model``, in the row NAME."""
    whole = (
        "evaluate",
        *words,
        *("--model_name_or_path", model or str(folder / name)),
        *("--output_dir", str(folder / name)),
        *("--answers_dir", str(folder / "answers")),
    )
    return Task(
        f"evaluate {name}", whole, folder / name / RESULT, tuple(after), "evaluate", seconds
    )
