"""One small folder of each kind, written by the commands themselves, for what is done to them.

Data, a teacher, its answers, two caches, a trained run with three checkpoints, evaluations, a
report. All names are relative, so that a copy of the workspace is one as well.
"""

from pathlib import Path

from tests.hardening.commands import ran
from tests.helpers.refusal import SHAPE

DATA = ("--dataset", "data")
TEACHER = ("--teacher_model_name_or_path", "teacher")
SHORT = ("--max_new_tokens", "6", "--rows_per_shard", "8")
STUDENT = (
    "train", "--model_shape", SHAPE, "--use_cpu", "true", "--disable_tqdm", "true",
    "--per_device_train_batch_size", "4", "--learning_rate", "1e-2", "--logging_steps", "1",
    "--lr_scheduler_type", "constant",
)  # fmt: skip
COMMANDS = {
    "data": (
        "data", "--dataset", "toy", "--num_conversations", "20", "--num_test_conversations", "6",
        "--output_dir", "data",
    ),
    "teacher": (
        *STUDENT, *DATA, "--alpha", "0", "--max_steps", "2", "--save_strategy", "no",
        "--output_dir", "teacher", "--seed", "1",
    ),
    "answers": ("generate", *TEACHER, *DATA, *SHORT, "--output_dir", "answers"),
    "hidden": (
        "cache", *TEACHER, *DATA, "--rows_per_shard", "8", "--output_dir", "hidden",
    ),
    "topk": (
        "cache", *TEACHER, "--answers", "answers", "--rows_per_shard", "8", "--output_dir", "topk",
        "--teacher_signal", "topk", "--topk", "16",
    ),
    "run": (
        *STUDENT, *TEACHER, *DATA, "--max_steps", "3", "--save_steps", "1", "--output_dir", "run",
        "--save_only_model", "false",
    ),
    "evaluate": (
        "evaluate", "--model_name_or_path", "run", *TEACHER, *DATA, "--max_new_tokens", "6",
    ),
    "evaluate the teacher": (
        "evaluate", "--model_name_or_path", "teacher", *TEACHER, *DATA, "--max_new_tokens", "6",
    ),
    "report": ("report", "run", "teacher", "--output_dir", "report"),
}  # fmt: skip


def prepare(folder: Path) -> None:
    """Write the workspace, unless it is there: several kinds may share one."""
    if folder.is_dir():
        return
    folder.mkdir(parents=True)
    for name, words in COMMANDS.items():
        said = ran(folder, words)
        if said.code:
            raise RuntimeError(f"the workspace's {name} failed: {said.text[-2000:]}")
