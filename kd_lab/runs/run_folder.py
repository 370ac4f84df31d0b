"""A run's folder: its settings, versions and metrics, its models, and which of them are whole.

    config.yaml          every setting, resolved: a recipe that is this run again
    versions.json        Python, libraries, git commit, seed, devices, processes and hashes of rows
                         and teacher, per start; and what an earlier start had otherwise
    metrics.jsonl        one line per log event, in the order of the steps, none twice
    evaluation.json      what kd-lab evaluate measured of the final model
    checkpoint-N/        as transformers writes it, README.md (how it was distilled), and the marker
                         `complete` once all of it is there
    model.safetensors    the final model, with its README.md and its `complete`

A killed process leaves no marker on the part it was writing. So half a checkpoint is never taken
for a whole one:

    settings = resolved_config(*arguments)
    start_from = start_run(folder, resume_from_checkpoint, settings)   # before any model is loaded
    trainer = ...(callbacks=[MetricsWriter(folder), MarkWholeCheckpoints()])
    record_run(folder, settings, inputs)
    trainer.train(resume_from_checkpoint=start_from)
    trainer.save_model(folder)
    finish_run(folder)
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from kd_lab.files import SEAL, delete_remains, sealed, write_text
from kd_lab.machine.peak_memory import own_peak
from kd_lab.runs.evaluations import read_sealed, read_yaml
from kd_lab.runs.marker import mark_whole
from kd_lab.runs.model_card import model_card
from kd_lab.runs.resuming import changes, marked_checkpoints, step_of
from kd_lab.runs.run_files import COMPLETE, CONFIG, METRICS, VERSIONS, read_metrics
from kd_lab.runs.versions import run_versions

CHECKPOINTS = f"{PREFIX_CHECKPOINT_DIR}-*"


def record_run(
    folder: str | Path, config: Mapping[str, Any], inputs: Mapping[str, Any] | None = None
) -> None:
    """Write config.yaml and versions.json; every process calls it, the main one writes.

    Args:
        inputs: what identifies the rows and the teacher; see ``resuming.INPUTS``.
    """
    folder = Path(folder)
    versions = {**run_versions(config), "inputs": dict(inputs or {})}
    _wait_for_everyone()  # all have checked the folder before anything is in it
    if not _is_main_process():
        return
    path = folder / VERSIONS
    if path.exists():
        before = read_sealed(path)
        before.pop(SEAL, None)
        earlier = before.pop("earlier_starts", [])
        before["settings"] = {key: old for key, (old, _) in changes(folder, config).items()}
        versions["earlier_starts"] = [*earlier, before]
    (folder / COMPLETE).unlink(missing_ok=True)  # it vouches for the files of an earlier start
    write_text(path, json.dumps(sealed(versions), indent=2) + "\n")
    write_text(folder / CONFIG, yaml.safe_dump(dict(config), sort_keys=True, allow_unicode=True))


def finish_run(folder: str | Path) -> None:
    """Put the model card beside the final model and mark it as whole; every process calls it."""
    _mark_complete(Path(folder), run_folder=Path(folder))


class MetricsWriter(TrainerCallback):
    """metrics.jsonl: a line per log event, ``{"step", "seconds", ...}``, and a summary at the end.

    ``seconds`` is time spent in training, over all starts. A resumed run drops the lines after its
    first step, since it repeats those steps.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / METRICS
        self._began = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        kept = self._kept(state)
        seconds = kept[-1].get("seconds", 0.0) if kept else 0.0
        self._began = time.perf_counter() - seconds
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if not state.is_world_process_zero:
            return
        seconds = round(time.perf_counter() - self._began, 3)
        line = {"step": state.global_step, "seconds": seconds, **(logs or {})}
        if "train_runtime" in line:  # the summary
            line |= _peak_memory()
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, default=float) + "\n")

    def _kept(self, state: TrainerState) -> list[dict[str, Any]]:
        """The lines up to this step; the checkpoint has them too, and says which were changed."""
        # The summary at the end of training is written anew by the run that goes on.
        kept = [
            line
            for line in read_metrics(self.path.parent)
            if line["step"] <= state.global_step and "train_runtime" not in line
        ]
        logged = [entry for entry in state.log_history if "train_runtime" not in entry]
        if [_without_seconds(line) for line in kept] == [_without_seconds(e) for e in logged]:
            return kept
        print(
            f"kd-lab: {self.path} is not what was written: its lines up to step "
            f"{state.global_step} are taken from the checkpoint, without their seconds",
            file=sys.stderr,
        )
        return [{"step": entry["step"], **entry} for entry in logged]


class MarkWholeCheckpoints(TrainerCallback):
    """Marks each checkpoint once it is whole, and only then removes those beyond the limit.

    The Trainer would remove the old checkpoint before the new one is known to be whole. So
    ``save_total_limit`` is taken from it.
    """

    def __init__(self) -> None:
        self._limit: int | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._limit, args.save_total_limit = args.save_total_limit, None
        if state.is_world_process_zero and args.output_dir is not None:
            # Checkpoints beyond this step are written again, and are not whole meanwhile.
            for checkpoint in marked_checkpoints(Path(args.output_dir)):
                if step_of(checkpoint) > state.global_step:
                    (checkpoint / COMPLETE).unlink()
            (Path(args.output_dir) / COMPLETE).unlink(missing_ok=True)
            for written in (Path(args.output_dir), *Path(args.output_dir).glob(CHECKPOINTS)):
                delete_remains(written)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        assert args.output_dir is not None
        folder = Path(args.output_dir)
        checkpoint = folder / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        _mark_complete(checkpoint, run_folder=folder)
        if state.is_world_process_zero:
            rotate_checkpoints(
                output_dir=args.output_dir,
                save_total_limit=self._limit,
                best_model_checkpoint=state.best_model_checkpoint,
                use_mtime=False,  # by step
            )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        args.save_total_limit = self._limit


def _without_seconds(line: Mapping[str, Any]) -> str:
    """A logged line as text that says what was logged, and not when; NaN is NaN there."""
    return json.dumps({k: v for k, v in line.items() if k != "seconds"}, sort_keys=True)


def _mark_complete(model_folder: Path, *, run_folder: Path) -> None:
    _wait_for_everyone()  # each process writes a part
    if _is_main_process():
        config = read_yaml(run_folder / CONFIG)
        versions = read_sealed(run_folder / VERSIONS)
        card = model_card(config, versions, read_metrics(run_folder))
        write_text(model_folder / "README.md", card)
        mark_whole(model_folder)


def _is_main_process() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def _wait_for_everyone() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def _peak_memory() -> dict[str, float]:
    """The largest memory that this process has held, in GiB: resident, and on its GPU."""
    peak = {"peak_memory_gib": own_peak() / 2**30}
    if torch.cuda.is_available():
        peak["peak_gpu_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return peak
