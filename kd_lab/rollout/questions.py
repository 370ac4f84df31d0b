"""``kd-lab questions``: a chat model writes questions, which it can then answer.

    kd-lab questions --teacher_model_name_or_path MODEL --output_dir runs/questions
    kd-lab generate --teacher_model_name_or_path MODEL --dataset runs/questions ...

An aligned model continues its chat template's user header with a user's question: Magpie (arXiv
2406.08464). So a model without a data set can write one. We keep a question once, if it is
finished, has one line and at least a few words.

The command writes train.jsonl, test.jsonl, of {"messages": [{"role": "user", ...}]}, and
manifest.json.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from kd_lab.data.manifest import KIND, MANIFEST, check_manifest
from kd_lab.data.messages import prompt_key
from kd_lab.files import (
    check_replaceable,
    is_empty,
    only_one_at_work,
    sealed,
    sha256_of_file,
    whole_folder,
)
from kd_lab.models import Model
from kd_lab.positions import check_positions
from kd_lab.rollout.sampling import Sampling
from kd_lab.rollout.sampling_arguments import TOP_P, SamplingArguments, check_compiled, sampling_of
from kd_lab.teacher.arguments import TeacherArguments, check_teacher_arguments

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedTokenizerBase

FEWEST_WORDS = 4
FIRST_WORDS = 5  # two questions that begin with the same so many words are taken for one


@dataclass(kw_only=True)
class QuestionArguments(TeacherArguments, SamplingArguments):
    """The model that asks, and the number of questions."""

    output_dir: str = field(metadata={"help": "The folder to write."})
    teacher_model_name_or_path: str = field(
        metadata={"help": "A chat model: a folder, or a name on the model hub."}
    )
    num_questions: int = field(default=1000, metadata={"help": "Questions of the training split."})
    num_test_questions: int = field(default=100, metadata={"help": "Questions of the test split."})
    max_new_tokens: int = field(
        default=48, metadata={"help": "Most tokens of a question; longer ones are left out."}
    )
    top_p: float = field(default=0.9, metadata={"help": TOP_P})
    question_seed: int = field(default=0, metadata={"help": "Seed of the questions."})


ARGUMENTS = (QuestionArguments,)


def run(args: QuestionArguments) -> None:
    """Write the questions, unless they exist.

    Raises:
        ValueError: an argument out of range, no such model, no chat template, or a folder that
            holds other files. Or the model writes no new questions any more.
        FloatingPointError: the model's logits are infinite or NaN.
    """
    sampling = check_question_arguments(args)
    with only_one_at_work(Path(args.output_dir)):
        _write(args, sampling)


def _write(args: QuestionArguments, sampling: Sampling) -> None:
    folder = Path(args.output_dir)
    teacher = Model(
        args.teacher_model_name_or_path,
        args.teacher_revision,
        args.teacher_dtype,
        args.teacher_attn_implementation,
    )
    teacher.check()
    wanted = {
        "kind": KIND,
        "teacher": teacher.identity,
        "settings": {key: value for key, value in asdict(args).items() if key != "output_dir"},
    }
    if not is_empty(folder):
        there = check_manifest(folder) or {}
        if {key: there.get(key) for key in wanted} != wanted:
            raise ValueError(
                f"{folder} holds something else, by its {MANIFEST} or without one: give another "
                "--output_dir"
            )
        print(f"{folder}: there already")
        return
    check_replaceable(folder)
    questions, written, cut = _ask(args, teacher, sampling)
    test = args.num_test_questions
    files = {}
    with whole_folder(folder) as part:
        for name, chosen in ("train", questions[test:]), ("test", questions[:test]):
            path = part / f"{name}.jsonl"
            rows = [{"messages": [{"role": "user", "content": question}]} for question in chosen]
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            path.write_text(text, encoding="utf-8")
            files[path.name] = {"conversations": len(rows), "sha256": sha256_of_file(path)}
        manifest = sealed({**wanted, "written": written, "files": files})
        (part / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    print(
        f"{folder}: {len(questions):,} questions, of {written:,} that the model wrote; {cut:,} "
        "were cut at max_new_tokens and left out"
    )


def check_question_arguments(args: QuestionArguments) -> Sampling:
    """Check the options before anything is loaded.

    Raises:
        ValueError: a setting outside its range.
    """
    check_teacher_arguments(args)
    if args.compile_decode:
        check_compiled("teacher_attn_implementation", args.teacher_attn_implementation)
    for name in ("num_questions", "num_test_questions"):
        if getattr(args, name) < 1:
            raise ValueError(f"{name} must be at least 1, not {getattr(args, name)}")
    if not 0 <= args.question_seed < 2**64:
        raise ValueError(f"question_seed must lie in [0, 2^64), not {args.question_seed}")
    return sampling_of(args)


def user_header(tokenizer: "PreTrainedTokenizerBase") -> str:
    """The chat template up to the user's first words.

    Raises:
        ValueError: there is no chat template, or it does not write the user's words as they are.
    """
    if tokenizer.chat_template is None:
        raise ValueError("the tokenizer has no chat template, so no user turn to go on from")
    words = "What the user says."
    whole = tokenizer.apply_chat_template([{"role": "user", "content": words}], tokenize=False)
    header, found, _ = str(whole).partition(words)
    if not found:
        raise ValueError("the chat template does not write the user's words as they are")
    return header


def is_question(text: str) -> bool:
    """Whether the model's text in the user's place is a question: one line, a few words."""
    return len(text.splitlines()) == 1 and len(text.split()) >= FEWEST_WORDS


def _ask(args: QuestionArguments, teacher: Model, sampling: Sampling) -> tuple[list[str], int, int]:
    """The wanted number of different questions, how many were written, and how many were cut."""
    from kd_lab.rollout.transformers_engine import write_answers

    tokenizer = teacher.tokenizer
    prompt = tokenizer(user_header(tokenizer), add_special_tokens=False)["input_ids"]
    check_positions(
        teacher.name, teacher.config, "the chat template's user header", len(prompt),
        "max_new_tokens", args.max_new_tokens,
    )  # fmt: skip
    wanted, batch = args.num_questions + args.num_test_questions, args.rollout_batch_size
    written = cut = 0
    found: dict[tuple[str, ...], str] = {}
    with _progress(wanted) as advance:
        while len(found) < wanted:
            before = len(found)
            for tokens, finished in write_answers(
                teacher.model, [prompt] * batch, sampling, eos_token_ids=teacher.end_tokens,
                seed=args.question_seed, batch_size=batch, vocab_size=len(tokenizer),
                first_row=written, compiled=args.compile_decode,
            ):  # fmt: skip
                cut += not finished
                text = str(tokenizer.decode(tokens, skip_special_tokens=True)).strip()
                if finished and is_question(text):
                    key = prompt_key([{"role": "user", "content": text}]).split()[:FIRST_WORDS]
                    found.setdefault(tuple(key), text)
            written += batch
            advance(min(len(found), wanted) - before)
            if len(found) == before and written >= 10 * batch:
                raise ValueError(
                    f"{teacher.name} has asked {before:,} different questions and, in the last "
                    f"{batch}, nothing new: ask for fewer than {wanted:,}, or raise "
                    "sampling_temperature"
                )
    return [*found.values()][:wanted], written, cut


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    columns = TextColumn("asking"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total)
        yield lambda found: bar.update(task, advance=found)
