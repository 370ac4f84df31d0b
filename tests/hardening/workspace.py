"""One small folder of each kind, written by the commands themselves, for what is done to them.

Data, a teacher, its answers, two caches, a trained run with three checkpoints, evaluations, a
report. Beside them lie an untrained model, and files that a command line may name. All names are
relative, so that a copy of the workspace is one as well.
"""

import json
from pathlib import Path

from tests.hardening.commands import ran
from tests.helpers.refusal import SHAPE
from tests.helpers.toy_pair import saved_toy_model

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
START = ("--model_name_or_path", "start", "--use_cpu", "true", "--max_steps", "1")
TALKS = ("--dataset", "toy", "--num_conversations", "8")
# Of each command the words that do something small, so that one more word is what is wrong.
RIGHT: dict[str, tuple[str, ...]] = {
    "data": (*TALKS, "--num_test_conversations", "4", "--output_dir", "out"),
    "questions": (
        *TEACHER, "--num_questions", "4", "--num_test_questions", "1", "--max_new_tokens", "8",
        "--output_dir", "out",
    ),
    "generate": (*TEACHER, *TALKS, "--max_new_tokens", "8", "--output_dir", "out"),
    "cache": (*TEACHER, *TALKS, "--output_dir", "out"),
    "train": (*START, *TEACHER, *TALKS, "--output_dir", "out"),
    "evaluate": (
        "--model_name_or_path", "start", *TEACHER, "--num_test_conversations", "4",
        "--max_new_tokens", "8", "--output_dir", "out",
    ),
    "report": ("run", "teacher", "--output_dir", "out"),
    "demo": ("--quick", "true", "--workers", "1", "--output_dir", "out"),
    "check": ("mine.py:loss", "--form", "logits"),
    "plan": (*START, *TEACHER, *TALKS, "--output_dir", "out"),
    "doctor": (),
}  # fmt: skip
LOSS = """\
def loss(student_logits, teacher_logits):
    p, q = teacher_logits.log_softmax(-1), student_logits.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean()
"""


def prepare(folder: Path) -> None:
    """Write the workspace, unless it is there: several kinds may share one."""
    if folder.is_dir():
        return
    folder.mkdir(parents=True)
    saved_toy_model(folder / "start", 32, 1, seed=1)
    for name, words in COMMANDS.items():
        said = ran(folder, words)
        if said.code != 0:
            raise RuntimeError(f"the workspace's {name} failed: {said.err}")
    (folder / "a_file").write_text("a file\n")
    (folder / "empty").mkdir()
    (folder / "mine.py").write_text(LOSS)
    talks = [{"prompt": f"What is {n}?", "completion": f"It is {n}."} for n in range(40)]
    (folder / "talks.jsonl").write_text("".join(json.dumps(talk) + "\n" for talk in talks))
