"""The folder of a study, before anything is measured or copied: finished, whole, not of --quick."""

from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from shlex import quote

from kd_lab.demo import STUDIES
from kd_lab.study.schedule import read_record


def check_study(name: str, folder: Path, needed: Sequence[str] = ("*",)) -> None:
    """Refuse a folder whose results would replace better ones, or give none.

    A folder without records is judged by its files alone.

    Args:
        name: of a study of ``kd-lab demo``.
        folder: the study's folder.
        needed: patterns of the tasks that must be done. Default: all, of as many seeds as the
            study has.
    Raises:
        ValueError: there is no such folder, a task is not done, a record is damaged, or the study
            was made by ``--quick``; names the folder and the command that makes the whole study.
    """
    study = STUDIES[name]
    again = f"`kd-lab demo --study {name} --output_dir {quote(str(folder))}`"
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}: {again} makes it")
    tasks, short = (study.tasks(folder, study.seeds, quick) for quick in (False, True))
    records = [read_record(folder, task) for task in tasks]
    for task, shorter, record in zip(tasks, short, records, strict=True):
        of_quick = {*shorter.words} - {*task.words}
        if record and of_quick and of_quick <= {*record.words}:
            raise ValueError(
                f"{folder} is of --quick, which gives no results: remove the folder, and run "
                f"{again} to its end"
            )
    for task, record in zip(tasks, records, strict=True):
        if not any(fnmatch(task.name, pattern) for pattern in needed):
            continue
        if not task.result.is_file() or (record and record.seconds is None):
            raise ValueError(
                f"{folder} holds no finished {task.name!r}: run {again} to its end first"
            )
