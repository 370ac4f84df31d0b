"""Where a run goes on, and whether it is still the same run.

A run resumes as itself: its settings, training rows, teacher and number of processes. What changes
its result is refused by name; what may change is listed here, and nowhere else. The settings of
earlier starts stay in versions.json.
"""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from kd_lab.runs.evaluations import read_sealed, read_yaml
from kd_lab.runs.marker import Damaged, check_whole
from kd_lab.runs.run_files import COMPLETE, CONFIG, METRICS, VERSIONS, read_metrics
from kd_lab.runs.versions import process_count

# How far a run goes, what it saves, logs and evaluates, and how its process works.
MAY_CHANGE = frozenset(
    {
        "max_steps", "num_train_epochs", "output_dir", "resume_from_checkpoint", "run_name",
        "project", "report_to", "disable_tqdm", "do_eval", "per_device_eval_batch_size",
        "load_best_model_at_end", "metric_for_best_model", "greater_is_better", "ddp_timeout",
        "local_rank", "debug", "skip_memory_metrics", "include_num_input_tokens_seen",
        "dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers",
        "dataloader_prefetch_factor", "dataloader_multiprocessing_context",
        "model_revision", "teacher_revision",  # what they name is compared
        "vllm_server_base_url", "vllm_gpu_memory_utilization",
    }
)  # fmt: skip
BEGINNINGS_THAT_MAY_CHANGE = ("save_", "logging_", "log_", "hub_", "push_to_hub", "trackio_")
# The student's share follows the evaluations where it has a step.
OF_EVALUATION = ("eval_", "num_test_conversations", "test_dataset")
HOW_FAR = ("max_steps", "num_train_epochs")
INPUTS = {  # of versions.json -> what has changed, where it differs
    "rows": "its training rows are others (the data, tokenizer or chat template has changed)",
    "start": "its start is another model",
    "base": "the base of its LoRA weights is another model",
    "teacher": "its teacher is another model",
    "teacher_cache": "its teacher_cache was written anew",
    "processes": "it has another number of processes, and so another batch",
}
REVISIONS = {"start": "model_revision", "teacher": "teacher_revision"}
STATE = "trainer_state.json"  # of every checkpoint
# What training writes into its folder, and the manifest of the folders of other commands.
_WRITTEN = re.compile(
    r"README\.md|.*\.safetensors|.*\.bin|(config|generation_config|tokenizer.*|special_tokens_map"
    r"|vocab|adapter_config|manifest|versions|trainer_state)\.json|merges\.txt|.*\.jinja"
    r"|config\.yaml|metrics\.jsonl"
)
NUMBERED = re.compile(PREFIX_CHECKPOINT_DIR + r"-\d+")


def start_run(
    folder: str | Path, resume_from_checkpoint: str | bool | None, settings: Mapping[str, Any]
) -> Path | None:
    """Where training goes on: a whole checkpoint, or None for the first step.

    Args:
        resume_from_checkpoint: "true" takes the last whole checkpoint of ``folder``, and starts
            from the first step where there is none yet; a path takes that one.
        settings: the settings of this start, from ``resolved_config``.
    Raises:
        ValueError: the folder already holds a run and nothing is to be resumed; the checkpoint is
            missing, damaged or was never finished; or the run that would go on is another one.
    """
    folder = Path(folder)
    resume = str(resume_from_checkpoint or "false")
    if resume.lower() == "false":
        if has_trained(folder):
            what, go_on = "a run", ", or go on with --resume_from_checkpoint true"
            if (folder / COMPLETE).exists():
                what = "a finished run"
                go_on = go_on if marked_checkpoints(folder) else ""
            raise ValueError(f"{folder} already holds {what}: give another --output_dir{go_on}")
        return None
    if resume.lower() == "true":
        checkpoint = last_whole_checkpoint(folder)
        if checkpoint is None and has_trained(folder):
            check_same_run(folder, settings)
    else:
        checkpoint = Path(resume)
        if not checkpoint.is_dir():
            raise ValueError(f"no such checkpoint: {checkpoint}")
        begun = (checkpoint / STATE).is_file() or NUMBERED.fullmatch(checkpoint.name)
        if begun and not (checkpoint / COMPLETE).exists():
            raise ValueError(f"{checkpoint} is not whole: the run was cut off while it was written")
        check_whole(checkpoint)
        if not (checkpoint / STATE).is_file():
            raise ValueError(
                f"resume_from_checkpoint: {checkpoint} is no checkpoint: give one of a run's "
                f"{PREFIX_CHECKPOINT_DIR}-N, or true for the last one of output_dir"
            )
    if checkpoint is not None:
        check_whole(checkpoint.parent, only=(CONFIG, VERSIONS, METRICS))
        check_same_run(checkpoint.parent, settings)
        _check_not_beyond(checkpoint, settings)
        if not any((*checkpoint.glob("optimizer*"), *checkpoint.glob("global_step*"))):
            raise ValueError(
                f"{checkpoint} holds a model without its optimizer (save_only_model), from which "
                "no run goes on: train anew in another --output_dir"
            )
    return checkpoint


def is_finished(folder: Path, settings: Mapping[str, Any]) -> bool:
    """Whether a run to be resumed has ended as asked, and kept no checkpoint to go on from.

    Raises:
        ValueError: it is to go further, or a file of it is damaged.
    """
    if not (folder / COMPLETE).exists() or marked_checkpoints(folder):
        return False
    check_whole(folder)
    further = {key: change for key, change in changes(folder, settings).items() if key in HOW_FAR}
    if further:
        [(key, (before, now)), *_] = further.items()
        raise ValueError(
            f"{folder} is finished with {key} {before}, and has no checkpoint to go on from to "
            f"{now}: train anew in another --output_dir, with save_strategy steps"
        )
    return True


def _check_not_beyond(checkpoint: Path, settings: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that has trained more steps than are asked for."""
    asked = settings.get("max_steps", -1)
    trained = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))["global_step"]
    if 0 < asked < trained:
        raise ValueError(
            f"{checkpoint} has trained {trained:,} steps and max_steps is {asked:,}: ask for as "
            "many steps or more, or name an earlier checkpoint"
        )


def check_no_other_files(folder: Path) -> None:
    """Refuse to train where files would be written over, or lie beside, that no run wrote.

    Raises:
        ValueError: names the folder and a file; or the run's settings, where they are missing.
    """
    check_whole(folder, only=(CONFIG,))
    if not folder.is_dir() or _is_of_a_run(folder):
        return
    others = sorted(path.name for path in folder.iterdir() if _WRITTEN.fullmatch(path.name))
    if others:
        raise ValueError(
            f"output_dir: {folder} holds {others[0]}, which no run wrote there: give another folder"
        )


def _is_of_a_run(folder: Path) -> bool:
    """Whether kd-lab train has begun there: it writes versions.json and then config.yaml."""
    path = folder / VERSIONS
    if not path.is_file():
        return (folder / COMPLETE).is_file() or (
            (folder / CONFIG).is_file() and (folder / METRICS).is_file()
        )
    try:
        versions = json.loads(path.read_bytes())
    except ValueError:
        return True  # damaged, which is told where it is read
    return isinstance(versions, dict) and "libraries" in versions


def has_trained(folder: Path) -> bool:
    """Whether a folder belongs to a run: one that failed before its first step does not own it."""
    if (folder / COMPLETE).exists() or any(folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*")):
        return True
    return any(line.get("step", 0) > 0 for line in read_metrics(folder))


def last_whole_checkpoint(folder: str | Path) -> Path | None:
    """The checkpoint of the highest step that is as it was written; None if there is none.

    A damaged one is named on stderr, and the one before it is taken.
    """
    for checkpoint in reversed(marked_checkpoints(Path(folder))):
        try:
            check_whole(checkpoint)
        except Damaged as damage:
            print(f"kd-lab: {damage}; the checkpoint before it is taken", file=sys.stderr)
            continue
        return checkpoint
    return None


def marked_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints that have a marker, by their steps; a copy by another name is none."""
    marked = (path.parent for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*/{COMPLETE}"))
    return sorted((path for path in marked if NUMBERED.fullmatch(path.name)), key=step_of)


def step_of(checkpoint: Path) -> int:
    """The N of checkpoint-N."""
    return int(checkpoint.name.rpartition("-")[2])


def check_same_run(folder: Path, settings: Mapping[str, Any]) -> None:
    """Compare the settings of this start with those that the run's folder has on record.

    Raises:
        ValueError: names each key that would make it another run, with both values.
    """
    changed = {
        key: values
        for key, values in changes(folder, settings).items()
        if not may_change(key, settings)
    }
    if changed:
        differing = (f"{key} was {old!r} and is {new!r}" for key, (old, new) in changed.items())
        listed = "; ".join(differing)
        raise ValueError(
            f"{folder} would go on as another run: {listed}. Resume it with its own settings "
            f"(--config {folder / CONFIG}), or train anew in another --output_dir"
        )


def changes(folder: Path, settings: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The settings on record that differ from the present ones: key -> old and new."""
    path = folder / CONFIG
    recorded = read_yaml(path) if path.is_file() else {}
    if not isinstance(recorded, dict):
        raise ValueError(f"{path} was not written by kd-lab train: it holds no mapping")
    return {
        key: (old, settings[key])
        for key, old in recorded.items()
        if key in settings and settings[key] != old
    }


def may_change(key: str, settings: Mapping[str, Any]) -> bool:
    """Whether a setting may differ between the starts of a run that has these settings."""
    if key.startswith(OF_EVALUATION):
        return not settings.get("student_share_step")
    return key in MAY_CHANGE or key.startswith(BEGINNINGS_THAT_MAY_CHANGE)


def check_same_inputs(folder: Path, inputs: Mapping[str, Any]) -> None:
    """Compare what this start reads with what the run's folder has on record.

    A run that failed before its first step does not own its folder, and passes.

    Args:
        inputs: of this start, as ``record_run`` takes them.
    Raises:
        ValueError: names each input that would make it another run.
    """
    path = folder / VERSIONS
    if not path.is_file() or not has_trained(folder):
        return
    versions = read_sealed(path)
    before = {"processes": versions.get("processes"), **versions.get("inputs", {})}
    now = {"processes": process_count(), **inputs}
    changed = {
        what: f" (--{REVISIONS[name]} {before[name]['commit']} is the one it began with)"
        if name in REVISIONS and "commit" in before[name]
        else ""
        for name, what in INPUTS.items()
        if before.get(name) is not None and before[name] != now.get(name)
    }
    if changed:
        listed = "; ".join(what + mend for what, mend in changed.items())
        raise ValueError(
            f"{folder} would go on as another run: {listed}. Resume it with what it began with, or "
            "train anew in another --output_dir"
        )
