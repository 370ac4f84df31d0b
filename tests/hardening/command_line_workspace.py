"""What bad command lines begin from: small models, stored answers and runs, and damaged ones."""

import json
import shutil
from pathlib import Path

from tests.hardening.one_command import run_command

STUDENT = ("--model_name_or_path", "start", "--use_cpu", "true", "--max_steps", "1")
TEACHER = ("--teacher_model_name_or_path", "teacher")
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
    "train": (*STUDENT, *TEACHER, *TALKS, "--output_dir", "out"),
    "evaluate": (
        "--model_name_or_path", "run", *TEACHER, "--num_test_conversations", "4",
        "--max_new_tokens", "8", "--output_dir", "out",
    ),
    "report": ("sft-1", "fkl-1", "--output_dir", "out"),
    "demo": ("--quick", "true", "--workers", "1", "--output_dir", "out"),
    "check": ("mine.py:loss", "--form", "logits"),
    "plan": (*STUDENT, *TEACHER, *TALKS, "--output_dir", "out"),
    "doctor": (),
}  # fmt: skip

LOSS = """\
def loss(student_logits, teacher_logits):
    p, q = teacher_logits.log_softmax(-1), student_logits.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean()
"""


def prepare(place: Path) -> None:
    """Write the models, folders and files that command lines name, right ones and damaged ones."""
    from tests.helpers.toy_pair import TOKENIZER, toy_model
    from tests.helpers.written_runs import write_run

    place.mkdir(parents=True, exist_ok=True)
    for name, seed in (("teacher", 0), ("start", 1)):
        toy_model(32, seed=seed).save_pretrained(place / name)
        TOKENIZER.save_pretrained(place / name)
    _succeed(place, "train", *RIGHT["train"], "--save_steps", "1", "--output_dir", "run")
    _succeed(place, "generate", *RIGHT["generate"], "--output_dir", "answers")
    _succeed(place, "cache", *RIGHT["cache"], "--output_dir", "stored")
    for name in ("sft-1", "fkl-1"):
        write_run(place / name, {})
    (place / "a_file").write_text("a file\n")
    (place / "empty").mkdir()
    (place / "mine.py").write_text(LOSS)
    (place / "talks.jsonl").write_text(
        "".join(
            json.dumps({"prompt": f"What is {n}?", "completion": f"It is {n}."}) + "\n"
            for n in range(40)
        )
    )


def clear(place: Path) -> None:
    """Delete what a command left that should not have done anything."""
    shutil.rmtree(place / "out", ignore_errors=True)


def _succeed(place: Path, *words: str) -> None:
    ended = run_command([*words], place)
    assert ended.code == 0, f"kd-lab {' '.join(words)}: {ended.err or ended.out}"
