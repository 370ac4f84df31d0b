"""``kd-lab generate``: the teacher answers every prompt once, and its answers are stored.

    kd-lab generate --teacher_model_name_or_path runs/teacher --output_dir runs/answers
    kd-lab train --config tiny/seqkd --answers runs/answers
    kd-lab cache --answers runs/answers ...          # with the teacher's distribution at each token

A prompt is a conversation without its last answer. The answers are JSONL shards, one line each:

    {"row": 0, "messages": [..., the answer], "prompt_ids": [...], "completion_ids": [...],
     "finished": true}                               # false: cut off at max_new_tokens

An answer depends on the seed and its row, not on the batches. So a killed run goes on with its last
shard and ends with the same answers. On several GPUs each process takes its share of the shards,
with either engine: ``accelerate launch --num_processes 8 -m kd_lab generate ...``.

A teacher too large for this machine answers from a vLLM server (served_teacher.py):

    kd-lab generate --teacher_model_name_or_path TEACHER --engine server --base_url URL ...
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from datasets import Dataset
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from kd_lab.data.conversations import DataArguments, as_split, check_data_arguments
from kd_lab.data.examples import say_rows_without_end
from kd_lab.data.messages import json_row
from kd_lab.data.row_store import RowStore
from kd_lab.data.shards import Shard, ShardStore
from kd_lab.files import delete_remains, only_one_at_work, sha256_of
from kd_lab.model_identity import template_hash, tokenizer_hash
from kd_lab.models import Model
from kd_lab.positions import check_positions
from kd_lab.rollout.engine_arguments import check_address, check_vllm
from kd_lab.rollout.sampling import Completion, Sampling
from kd_lab.rollout.sampling_arguments import SamplingArguments, check_compiled, sampling_of
from kd_lab.rollout.served_teacher import ServedModel, connect
from kd_lab.teacher.arguments import TeacherArguments, check_teacher_arguments
from kd_lab.teacher.stored import stored_answers

if TYPE_CHECKING:  # importing transformers takes seconds, and only its type is needed
    import torch

ENGINES = ("transformers", "vllm", "server")


@dataclass(kw_only=True)
class GenerateArguments(TeacherArguments, SamplingArguments):
    """The model that answers, its sampling, and the folder of the answers."""

    output_dir: str = field(metadata={"help": "The folder to write or to finish."})
    teacher_model_name_or_path: str = field(
        metadata={"help": "The teacher: a folder, or a name on the model hub."}
    )
    engine: str = field(
        default="transformers",
        metadata={"help": "transformers; vllm, on GPUs; or server, a vLLM server at base_url."},
    )
    base_url: str | None = field(
        default=None,
        metadata={"help": "engine server: its address, such as http://127.0.0.1:8000."},
    )
    split: str = field(
        default="train", metadata={"help": "Split of the conversations: train or test."}
    )
    max_prompt_length: int | None = field(
        default=1024, metadata={"help": "Longer prompts, in tokens, are left out."}
    )
    generation_seed: int = field(default=0, metadata={"help": "Seed of the answers."})
    rows_per_shard: int = field(
        default=512, metadata={"help": "Answers in one file: a kill loses at most these."}
    )


ARGUMENTS = (GenerateArguments, DataArguments)


class Assignment(NamedTuple):
    """The prompts to answer, and all that decides the answers."""

    settings: dict[str, Any]  # all that decides the stored answers, as JSON values
    prompts: Dataset  # of the columns messages and prompt_ids
    teacher: Model
    sampling: Sampling


def run(args: GenerateArguments, data: DataArguments) -> None:
    """Write or finish the answers and print their numbers; see ``generate``."""
    with only_one_at_work(Path(args.output_dir)):
        _run(args, data)


def _run(args: GenerateArguments, data: DataArguments) -> None:
    from accelerate import PartialState

    started = time.perf_counter()
    store = generate(args, data)
    process = PartialState()
    process.wait_for_everyone()  # an exit while others still work can break them off
    if process.is_main_process:
        totals = store.finish()
        print(
            f"{store.folder}: {totals['rows']:,} answers, {totals['tokens']:,} tokens, "
            f"{totals['tokens'] / totals['rows']:,.1f} each "
            f"({time.perf_counter() - started:,.0f} s)"
        )
        say_rows_without_end(
            stored_answers(store.folder, verify=False),
            store.settings["eos_token_ids"],
            f"answers of {store.folder} (max_new_tokens is {args.max_new_tokens:,})",
        )
    process.destroy_process_group()


def check_generate_arguments(args: GenerateArguments) -> Sampling:
    """Check the options before anything is loaded.

    Raises:
        ValueError: a setting outside its range, or vllm is not installed.
    """
    if args.engine not in ENGINES:
        raise ValueError(f"engine must be one of {ENGINES}, not {args.engine!r}")
    as_split(args.split)
    if args.rows_per_shard < 1:
        raise ValueError(f"rows_per_shard must be at least 1, not {args.rows_per_shard}")
    check_teacher_arguments(args)
    if args.engine == "vllm" and args.teacher_attn_implementation is not None:
        raise ValueError("engine vllm has its own attention: leave teacher_attn_implementation out")
    if args.engine != "transformers" and args.compile_decode:
        raise ValueError(
            f"compile_decode would have no effect with engine {args.engine}, which compiles its "
            "own steps: leave it out"
        )
    if args.compile_decode:
        check_compiled("teacher_attn_implementation", args.teacher_attn_implementation)
    if not 0 <= args.generation_seed < 2**64:
        raise ValueError(f"generation_seed must lie in [0, 2^64), not {args.generation_seed}")
    if args.engine == "vllm":
        try:
            check_vllm()
        except ValueError as error:
            raise ValueError(f"engine vllm: {error}") from error
    if (args.engine == "server") != (args.base_url is not None):
        raise ValueError("engine server and base_url go together: give both, or neither")
    if args.base_url is not None:
        check_address("base_url", args.base_url)
    return sampling_of(args)


def generate(args: GenerateArguments, data: DataArguments) -> ShardStore:
    """Write the missing shards, or this process's share of them.

    The teacher is loaded only if a shard is missing.

    Raises:
        ValueError: an argument out of range, no such model, prompts that the tokenizer cannot
            write, or a folder that holds other files.
        FloatingPointError: the teacher's logits are infinite or NaN.
    """
    import torch
    from accelerate import PartialState

    sampling = check_generate_arguments(args)
    check_data_arguments(data)
    # Without a GPU, accelerate would by default take each of several processes for the only
    # one. They wait for each other at the end, up to a shard's time.
    process = PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(days=1))
    with process.main_process_first():
        assignment = _describe(args, data, sampling)
        store = ShardStore.create(
            args.output_dir,
            "answers",
            assignment.settings,
            len(assignment.prompts),
            args.rows_per_shard,
            ".jsonl",
        )
        if process.is_main_process:
            delete_remains(store.folder)
    missing = store.missing()
    mine = [
        shard for shard in missing if shard.index % process.num_processes == process.process_index
    ]
    if mine or (missing and args.engine == "vllm"):  # its engines start together, or not at all
        write = _writer(args, assignment, process.device)
        _write_shards(store, mine, assignment, write, show_progress=process.is_main_process)
    return store


def _describe(args: GenerateArguments, data: DataArguments, sampling: Sampling) -> Assignment:
    name, revision = args.teacher_model_name_or_path, args.teacher_revision
    is_served = args.engine == "server"
    teacher = (
        ServedModel(name, revision)
        if is_served
        else Model(name, revision, args.teacher_dtype, args.teacher_attn_implementation)
    )
    teacher.check()
    tokenizer = teacher.tokenizer
    split = as_split(args.split)
    prompts, dropped, _ = RowStore(data, tokenizer, [split]).prompts(split, args.max_prompt_length)
    longest = max(map(len, prompts["prompt_ids"]))
    check_positions(
        teacher.name, teacher.config, "the longest prompt", longest,
        "max_new_tokens or max_prompt_length", args.max_new_tokens,
    )  # fmt: skip
    settings = {
        "teacher": teacher.identity,
        "dtype": teacher.dtype_name,
        "tokenizer_sha256": tokenizer_hash(tokenizer),
        "chat_template_sha256": template_hash(tokenizer),
        "vocab_size": teacher.vocab_size,
        "eos_token_ids": teacher.end_tokens,
        "engine": args.engine,
        "sampling": asdict(sampling),
        "generation_seed": args.generation_seed,
        "source": {
            **asdict(data),
            "split": args.split,
            "max_prompt_length": args.max_prompt_length,
            "dropped": dropped,
        },
        "prompts_sha256": sha256_of(json.dumps(prompts["prompt_ids"][:])),
    }
    return Assignment(settings, prompts, teacher, sampling)


def _writer(
    args: GenerateArguments, assignment: Assignment, device: "torch.device"
) -> Callable[..., list[Completion]]:
    """``write_answers`` of the engine, with all arguments but prompts, first_row and progress."""
    if args.engine == "vllm":
        from kd_lab.rollout import vllm_engine

        longest = max(map(len, assignment.prompts["prompt_ids"]))
        llm = vllm_engine.load(
            assignment.teacher.name,
            assignment.teacher.revision,
            dtype=assignment.settings["dtype"],
            max_length=longest + args.max_new_tokens,
            batch_size=args.rollout_batch_size,
        )
        write = partial(vllm_engine.write_answers, llm)
    elif isinstance(assignment.teacher, ServedModel):
        from kd_lab.rollout import vllm_server

        server = connect(
            args.base_url or "", assignment.teacher, assignment.prompts, assignment.sampling
        )
        write = partial(
            vllm_server.write_answers,
            server,
            batch_size=args.rollout_batch_size,
            rows=assignment.teacher.head_rows,
        )
    else:
        from kd_lab.rollout import transformers_engine

        write = partial(
            transformers_engine.write_answers,
            assignment.teacher.load().to(device),  # type: ignore[arg-type]
            batch_size=args.rollout_batch_size,
            compiled=args.compile_decode,
        )
    return partial(
        write,
        sampling=assignment.sampling,
        eos_token_ids=assignment.settings["eos_token_ids"],
        seed=args.generation_seed,
        vocab_size=assignment.settings["vocab_size"],
    )


def _write_shards(
    store: ShardStore,
    shards: list[Shard],
    assignment: Assignment,
    write: Callable[..., list[Completion]],
    show_progress: bool,
) -> None:
    columns = (
        TextColumn("{task.description}, {task.completed:,.0f} of {task.total:,.0f} answers"),
        BarColumn(),
        TextColumn("{task.fields[speed]:,.0f} tokens/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=not show_progress) as bar:
        total = sum(len(shard.rows) for shard in shards)
        task = bar.add_task("writing", total=total, speed=0.0)
        started, tokens = time.perf_counter(), 0

        def advance(finished: int, written: int) -> None:
            nonlocal tokens
            tokens += written
            speed = tokens / (time.perf_counter() - started)
            bar.update(task, advance=finished, speed=speed)

        for shard in shards:
            rows = assignment.prompts.select(shard.rows)
            completions = write(
                prompts=rows["prompt_ids"][:], first_row=shard.rows.start, progress=advance
            )
            lines = [
                json.dumps(_answer(row, question, completion, assignment), ensure_ascii=False)
                + "\n"
                for row, question, completion in zip(shard.rows, rows, completions, strict=True)
            ]
            store.write(
                shard,
                partial(Path.write_text, data="".join(lines), encoding="utf-8"),
                tokens=sum(len(completion.tokens) for completion in completions),
            )


def _answer(
    row: int, question: dict[str, Any], completion: Completion, assignment: Assignment
) -> dict[str, Any]:
    """One line: a conversation as any other, with the tokens themselves."""
    content = assignment.teacher.tokenizer.decode(completion.tokens, skip_special_tokens=True)
    messages = [*question["messages"], {"role": "assistant", "content": content}]
    return {
        "row": row,
        **json_row(messages, question.get("tools")),
        "prompt_ids": question["prompt_ids"],
        "completion_ids": completion.tokens,
        "finished": completion.finished,
    }
