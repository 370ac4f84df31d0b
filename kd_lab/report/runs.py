"""The runs of a report: read, checked to be comparable, and grouped into rows.

A run is a folder with ``evaluation.json`` (kd-lab evaluate) beside ``config.yaml`` and
``metrics.jsonl`` (kd-lab train). A model that was not trained here has only ``evaluation.json``.
Runs whose settings differ in nothing but their seed are one row.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from kd_lab.evaluation.metrics import METRICS
from kd_lab.methods import METHODS, Point, method_of
from kd_lab.model_identity import OF_BASE, described, recorded_identity
from kd_lab.next_step import MODEL_FILES, evaluation_of, written_by
from kd_lab.runs import run_files
from kd_lab.runs.evaluations import read_config, read_evaluation, read_inputs
from kd_lab.runs.marker import check_whole, vouched_files
from kd_lab.runs.run_files import CONFIG, RESULT, evaluation_settings, read_metrics

SEEDS = ("seed", "data_seed")
# Settings in which the runs of one row may differ.
NOT_OF_A_ROW = {
    *SEEDS, "output_dir", "run_name", "resume_from_checkpoint", "disable_tqdm", "report_to",
    "do_eval", "per_device_eval_batch_size", "dataloader_num_workers", "num_test_conversations",
    "rollout_batch_size", "compile_decode", "chunk_size", "log_level", "local_rank", "project",
}  # fmt: skip
BEGINNINGS_NOT_OF_A_ROW = ("logging_", "save_", "eval_", "hub_", "push_to_hub", "trackio_")
# Settings of an evaluation that decide what its figures mean.
OF_THE_EVALUATION = (
    "sampling_temperature", "top_p", "top_k", "max_new_tokens", "answers_per_prompt",
    "max_prompt_length", "max_length", "bart_model",
)  # fmt: skip
DTYPES = ("dtype", "teacher_dtype")
NOT_TRAINED = "not trained here"


@dataclass(frozen=True)
class Run:
    """One evaluated model."""

    folder: Path
    evaluation: Mapping[str, Any]
    config: Mapping[str, Any]  # empty: not trained here
    log: Sequence[Mapping[str, Any]]  # the lines of metrics.jsonl
    # What identifies its teacher and rows; empty where it is not on record.
    inputs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def seed(self) -> tuple[Any, ...]:
        return tuple(self.config.get(key) for key in SEEDS)

    def weights(self, metric: str) -> list[float] | None:
        """The weights of a metric's examples; None if all are equal, or it was not measured."""
        name = self.evaluation["metrics"].get(metric, {}).get("weights")
        return name and self.evaluation["weights"][name]

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that all seeds of a row share."""
        return {
            key: value
            for key, value in self.config.items()
            if key not in NOT_OF_A_ROW and not key.startswith(BEGINNINGS_NOT_OF_A_ROW)
        } or {"model": _identity(self.evaluation["student"])}


@dataclass(eq=False)
class Row:
    """The runs of one row of the table, and its words."""

    runs: list[Run]
    is_teacher: bool  # of another run in the report
    gives: str  # its own name, where it is the p or q of another run in the report
    q: str  # the student before this training
    p: str  # the teacher; empty where the training had none
    point: Point | None  # on the map; None: not trained here
    remark: str = ""  # the difference from rows that are otherwise alike
    name: str = ""  # unique among the rows

    @property
    def loss(self) -> str:
        """The point of the map in words, and the remark."""
        return (self.point.short if self.point else NOT_TRAINED) + self.remark

    @property
    def method(self) -> str:
        """The named method at its point; "" where there is none, and for a model that gives."""
        return method_of(self.point) or "" if self.point and not self.gives else ""

    @property
    def config(self) -> Mapping[str, Any]:
        return self.runs[0].config

    @property
    def speed(self) -> Mapping[str, Any]:
        return self.runs[0].evaluation["speed"]

    @property
    def parameters(self) -> int:
        return self.speed["student"]["parameters"]

    @property
    def teacher_parameters(self) -> int | None:
        return self.speed.get("teacher", {}).get("parameters")

    def has(self, metric: str) -> bool:
        """Whether all its runs have a metric."""
        return all(metric in run.evaluation["metrics"] for run in self.runs)

    @property
    def teacher(self) -> str | None:
        """The teacher of its fidelity figures; None without one."""
        identity = self.runs[0].evaluation["teacher"]
        return identity and _identity(identity)

    @property
    def start(self) -> str:
        """The model before training; rows of one start differ in their method only."""
        keys = ("model_name_or_path", "model_revision", "keep_every", "model_shape")
        return json.dumps([self.config.get(key) for key in keys])

    @property
    def is_sft(self) -> bool:
        """Whether it is a control: trained on answers alone, the dataset's or a teacher's."""
        return self.point is not None and self.point.is_sft and not self.is_teacher


def read_rows(folders: Sequence[str | Path]) -> list[Row]:
    """The rows of a report: teachers and starts, then runs without a teacher, then distilled ones.

    Raises:
        ValueError: a folder has no evaluation or is given twice; two runs have one recipe and seed;
            seeds of one row have other teachers or dtypes; or evaluations cannot be compared. The
            message is one line.
    """
    runs = [_read_run(Path(folder)) for folder in folders]
    if not runs:
        raise ValueError("give the folders of the runs to report on")
    _check_comparable(runs)
    groups: dict[str, list[Run]] = {}
    for run in runs:
        group = groups.setdefault(json.dumps(run.settings, sort_keys=True), [])
        if twin := next((other for other in group if other.seed == run.seed), None):
            raise ValueError(
                f"{twin.folder} and {run.folder} are one recipe and one seed: give one of them, or "
                "train with another --seed"
            )
        for other in group:
            _check_one_row(other, run)
        group.append(run)
    rows = []
    for group in groups.values():
        teachers = [one for one in group if any(_is_teacher_of(one, run) for run in runs)]
        starts = [one for one in group if any(_is_start_of(one, run) for run in runs)]
        gives = next((_own_name(one) for one in (*teachers, *starts)), "")
        rows.append(Row(group, bool(teachers), gives, *_words(group[0])))
    rows.sort(key=lambda row: (not row.is_teacher, not row.gives, row.p != ""))
    _tell_apart(rows)
    return rows


def _is_run(folder: Path) -> bool:
    """Whether a folder holds a run's settings, or did so when it was marked as whole."""
    return (folder / CONFIG).is_file() or CONFIG in vouched_files(folder)


def _read_run(folder: Path) -> Run:
    if folder.is_file():
        raise ValueError(f"{folder} is a file: give the folder of the run")
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}{written_by(folder)}")
    path = folder / RESULT
    if not path.is_file():
        config = read_config(folder)
        if not config and not any((folder / name).is_file() for name in MODEL_FILES):
            raise ValueError(f"{folder} is no run: it holds neither {RESULT} nor a model")
        raise ValueError(f"{folder} holds no {RESULT}; first run `{evaluation_of(folder, config)}`")
    evaluation = read_evaluation(path)
    # An evaluation may lie apart from the model that it is of.
    places = (folder, Path(str(evaluation["settings"].get("model_name_or_path"))))
    trained = next((place for place in places if _is_run(place)), None)
    if trained is None:
        return Run(folder, evaluation, {}, [])
    check_whole(trained, only=(CONFIG, run_files.METRICS))
    _check_model(path, trained, evaluation["student"])
    log, inputs = read_metrics(trained), read_inputs(trained)
    return Run(folder, evaluation, read_config(trained), log, inputs)


def _check_model(path: Path, trained: Path, student: Mapping[str, str]) -> None:
    """Refuse an evaluation beside another model than the one that it was made of."""
    if not vouched_files(trained):
        return  # a run of the first edition, or one without its model
    recorded = recorded_identity(trained)
    both = {*OF_BASE.values()} & recorded.keys() & student.keys()
    if any(recorded.get(key) != student.get(key) for key in ("sha256", *both)):
        raise ValueError(
            f"{path} is of another model than {trained} holds now: evaluate it again with "
            f"`{evaluation_of(trained, read_config(trained))}`"
        )


def _check_comparable(runs: Sequence[Run]) -> None:
    """Check that all runs answered the same prompts: differences are by example."""
    first = runs[0]
    seen: dict[Path, Path] = {}
    for run in runs:
        if seen.setdefault(run.folder.resolve(), run.folder) is not run.folder:
            raise ValueError(f"{run.folder} is given twice")
        if run.evaluation["test_set"] != first.evaluation["test_set"]:
            raise ValueError(
                f"{first.folder} and {run.folder} were evaluated on different test prompts: "
                "evaluate them on the same prompts, or report on them apart"
            )
        for key in OF_THE_EVALUATION:
            mine, other = (evaluation_settings(each.evaluation).get(key) for each in (run, first))
            if mine != other:
                raise ValueError(
                    f"{first.folder} was evaluated with {key} {other} and {run.folder} with {mine}:"
                    " evaluate them alike, or report on them apart"
                )
        for metric in METRICS:
            weights = [run.weights(metric.name), first.weights(metric.name)]
            if None not in weights and weights[0] != weights[1]:
                raise ValueError(
                    f"{metric.name} of {first.folder} and of {run.folder} has different weights: "
                    "evaluate them on the same references"
                )


def _check_one_row(first: Run, run: Run) -> None:
    """Check that two seeds can be averaged: they have the same teachers and dtypes."""

    def refuse(how: str, one: object, other: object, again: str) -> NoReturn:
        raise ValueError(
            f"{first.folder} and {run.folder} are seeds of one row, and were {how} {one} and "
            f"{other}: {again} them alike, or report on them apart"
        )

    measured = [of.evaluation["teacher"] for of in (first, run)]
    trained = [of.inputs.get("teacher") or {} for of in (first, run)]
    compared = [("evaluated", measured, "evaluate")]
    if all({"sha256", "commit"} & teacher.keys() for teacher in trained):  # not by name alone
        compared.append(("trained", trained, "train"))
    for done, teachers, again in compared:
        if len({teacher and _identity(teacher) for teacher in teachers}) > 1:
            one, other = (described(teacher) if teacher else "none" for teacher in teachers)
            refuse(f"{done} with the teachers", one, other, again)
    for key in DTYPES:
        one, other = (evaluation_settings(of.evaluation).get(key, "auto") for of in (first, run))
        if one != other:
            refuse(f"evaluated with {key}", one, other, "evaluate")


def _is_teacher_of(run: Run, other: Run) -> bool:
    mine, teacher = run.evaluation["student"], other.evaluation["teacher"]
    if teacher is None or _identity(other.evaluation["student"]) == _identity(mine):
        return False  # a model measured against itself is no teacher
    return _identity(teacher) == _identity(mine)


def _is_start_of(run: Run, other: Run) -> bool:
    return _last(other.config.get("model_name_or_path") or "") == _own_name(run)


def _own_name(run: Run) -> str:
    return _last(run.evaluation["student"]["name"])


def _words(run: Run) -> tuple[str, str, Point | None]:
    """The words for q and p, and the point."""
    config = run.config
    if not config:
        return _last(run.evaluation["student"]["name"]), "", None
    q = "untrained" if config.get("model_shape") else _last(config["model_name_or_path"])
    if (config.get("keep_every") or 1) > 1:
        q += f", 1 layer in {config['keep_every']}"
    keys = ("teacher_model_name_or_path", "teacher_cache", "answers")
    teachers = [_last(config[key]) for key in keys if config.get(key)]
    point = Point.of(config)
    return q, "" if point == METHODS["sft"].point or not teachers else teachers[0], point


def _tell_apart(rows: Sequence[Row]) -> None:
    """Add what differs to the loss of rows that read alike, and give every row a name."""
    for row in rows:
        if row.gives and row.config:
            row.remark += f" (gives {row.gives})"
    for alike in _alike(rows, lambda r: (r.q, r.p, r.parameters, r.loss)):
        settings = [row.runs[0].settings for row in alike]
        keys = sorted({key for one in settings for key in one})
        differing = [key for key in keys if len({json.dumps(s.get(key)) for s in settings}) > 1]
        for row, its_settings in zip(alike, settings, strict=True):
            values = (f"{key} {_short(its_settings.get(key))}" for key in differing)
            row.remark += f" ({', '.join(values)})"
    for row in rows:
        row.name = row.gives or (row.loss if row.config else row.q)
    words: tuple[Callable[[Row], str], ...] = (
        lambda row: row.q and f"q = {row.q}",
        lambda row: row.p and f"p = {row.p}",
        lambda row: count(row.parameters),
    )
    for word in words:
        for alike in _alike(rows, lambda row: row.name):
            if len({word(row) for row in alike}) > 1:
                for row in alike:
                    row.name = ", ".join(filter(None, [row.name, word(row)]))


def count(parameters: int) -> str:
    """A model's size as tables write it: 58k, 135M, 1.54B."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if parameters >= size:
            return f"{parameters / size:.3g}{letter}"
    return str(parameters)


def _alike(rows: Sequence[Row], words: Callable[[Row], Any]) -> list[list[Row]]:
    """The groups of more than one with the same words."""
    counts = Counter(map(words, rows))
    return [
        [row for row in rows if words(row) == same] for same, count in counts.items() if count > 1
    ]


def _short(value: Any) -> str:
    return _last(value) if isinstance(value, str) else json.dumps(value)


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _identity(model: Mapping[str, str]) -> str:
    """A model's identity, wherever its files lie."""
    if "sha256" in model:
        return model["sha256"] + "".join(model.get(key, "") for key in OF_BASE.values())
    return f"{model['name']} {model['commit']}"
