"""``kd-lab cache``: store a teacher's signal on given answers, to train later without the teacher.

    kd-lab cache --teacher_model_name_or_path runs/teacher --output_dir runs/cache
    kd-lab train --config tiny/token_fkl --teacher_cache runs/cache

At each position whose next token is trained, it stores one of two signals:

    hidden   the last hidden state in bfloat16, and the LM head once: the whole distribution at any
             temperature (as KDFlow sends it between machines, arXiv 2603.01875); 2·H bytes a token
    topk     the k likeliest tokens with their log-probabilities, and the mass of all others: a
             distribution of k + 1 outcomes at one temperature; 4·k + 4 bytes a token, or 6·k + 4 in
             a vocabulary of more than 65,536

The token ids take 5 more bytes a token. The answers are those of the conversations, or the
teacher's own (``kd-lab generate``). A killed run goes on with its last shard. On several GPUs each
process takes its share of the shards:
``accelerate launch --num_processes 8 -m kd_lab cache ...``.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.progress import BarColumn, Progress, ProgressColumn, Task
from rich.text import Text
from safetensors.torch import save_file
from torch import Tensor

from kd_lab.data.conversations import DataArguments, as_split, check_data_arguments
from kd_lab.data.examples import say_rows_without_end
from kd_lab.data.packed_rows import PackedRows
from kd_lab.data.row_store import RowStore
from kd_lab.data.shards import Shard, ShardStore
from kd_lab.files import check_room, delete_remains, only_one_at_work
from kd_lab.loss import CHUNK_SIZE
from kd_lab.loss.plain_logits import TOKENS, check_plain_logits
from kd_lab.model_identity import (
    check_same_teacher,
    check_same_template,
    template_hash,
    tokenizer_hash,
)
from kd_lab.models import Model
from kd_lab.next_step import check_folder
from kd_lab.positions import check_positions
from kd_lab.states import trained_hidden_states
from kd_lab.teacher.arguments import TeacherArguments, check_teacher_arguments
from kd_lab.teacher.signals import topk_bytes, topk_distribution
from kd_lab.teacher.stored import HEAD, SIGNALS, stored_answers

if TYPE_CHECKING:  # importing transformers takes seconds, and only its types are needed
    from transformers import PreTrainedModel


@dataclass(kw_only=True)
class CacheArguments(TeacherArguments):
    """The signal to store, its teacher, and the folder."""

    output_dir: str = field(metadata={"help": "The folder to write or to finish."})
    teacher_model_name_or_path: str = field(
        metadata={"help": "The teacher: a folder, or a name on the model hub."}
    )
    teacher_signal: str = field(
        default="hidden",
        metadata={"help": "hidden (whole distributions) or topk (their likeliest tokens)."},
    )
    topk: int = field(default=64, metadata={"help": "topk only: tokens kept at each position."})
    distil_temperature: float = field(
        default=1.0, metadata={"help": "topk only: the temperature T of the later training."}
    )
    answers: str | None = field(
        default=None,
        metadata={"help": "A folder of kd-lab generate, instead of the conversations' answers."},
    )
    split: str = field(
        default="train", metadata={"help": "Split of the conversations: train or test."}
    )
    max_length: int | None = field(
        default=1024, metadata={"help": "Most tokens of a conversation; the rest is cut off."}
    )
    rows_per_shard: int = field(
        default=256, metadata={"help": "Rows in one file: a kill loses at most these."}
    )
    tokens_per_batch: int = field(
        default=8192, metadata={"help": "Tokens of a forward pass; memory grows with it."}
    )
    chunk_size: int = field(
        default=CHUNK_SIZE,
        metadata={"help": "topk only: positions with logits in memory at a time."},
    )


ARGUMENTS = (CacheArguments, DataArguments)


def run(args: CacheArguments, data: DataArguments) -> None:
    """Write or finish the cache and print its size; see ``cache_teacher``."""
    with only_one_at_work(Path(args.output_dir)):
        _run(args, data)


def _run(args: CacheArguments, data: DataArguments) -> None:
    from accelerate import PartialState

    started = time.perf_counter()
    store = cache_teacher(args, data)
    process = PartialState()
    process.wait_for_everyone()  # an exit while others still work can break them off
    if process.is_main_process:
        totals = store.finish()
        head = store.folder / HEAD
        once = f", and {head.stat().st_size / 1e6:,.1f} MB of head" if head.exists() else ""
        print(
            f"{store.folder}: {totals['rows']:,} rows, {totals['tokens']:,} trained tokens, "
            f"{totals['bytes_per_token']:,.1f} bytes each{once} "
            f"({time.perf_counter() - started:,.0f} s)"
        )
    process.destroy_process_group()


def check_cache_arguments(args: CacheArguments) -> None:
    """Check the options before anything is loaded.

    Raises:
        ValueError: a setting outside its range.
    """
    if args.teacher_signal not in SIGNALS:
        raise ValueError(
            f"teacher_signal must be one of {tuple(SIGNALS)}, not {args.teacher_signal!r}"
        )
    as_split(args.split)
    check_teacher_arguments(args)
    check_folder("answers", args.answers, "generate")
    for name in ("topk", "rows_per_shard", "tokens_per_batch", "chunk_size"):
        if getattr(args, name) < 1:
            raise ValueError(f"{name} must be at least 1, not {getattr(args, name)}")
    if not 0 < args.distil_temperature < float("inf"):
        raise ValueError(f"distil_temperature must be positive, not {args.distil_temperature}")
    if args.max_length is not None and args.max_length < 2:
        raise ValueError(f"max_length must be at least 2, not {args.max_length}")


def cache_teacher(args: CacheArguments, data: DataArguments) -> ShardStore:
    """Write the missing shards, or this process's share of them.

    The teacher is loaded only if a shard is missing.

    Raises:
        ValueError: an argument out of range, no such model or answers, answers of another teacher,
            a teacher that scales or caps its logits, or a folder that holds other files.
        FloatingPointError: the teacher's hidden states are infinite or NaN.
    """
    from accelerate import PartialState

    check_cache_arguments(args)
    check_data_arguments(data)
    # Without a GPU, accelerate would by default take each of several processes for the only
    # one. They wait for each other at the end, up to a shard's time.
    process = PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(days=1))
    with process.main_process_first():
        teacher = Model(
            args.teacher_model_name_or_path,
            args.teacher_revision,
            args.teacher_dtype,
            args.teacher_attn_implementation,
        )
        teacher.check()
        settings, rows = _describe(args, data, teacher)
        check_room(Path(args.output_dir), _bytes(args, teacher, rows), "the cache, whole,")
        store = ShardStore.create(
            args.output_dir,
            "cache",
            settings,
            len(rows.lengths),
            args.rows_per_shard,
            ".safetensors",
        )
        if process.is_main_process:
            delete_remains(store.folder)
    mine = [
        shard
        for shard in store.missing()
        if shard.index % process.num_processes == process.process_index
    ]
    needs_head = args.teacher_signal == "hidden" and process.is_main_process
    if mine or (needs_head and not store.has_attached(HEAD)):
        model = teacher.load().to(process.device)  # type: ignore[arg-type]
        check_plain_logits(model, torch.from_numpy(rows.input_ids[:TOKENS]).long())
        head, bias = _head(model, settings["vocab_size"])
        if needs_head:
            parts = {"weight": head} if bias is None else {"weight": head, "bias": bias}
            store.attach(HEAD, partial(save_file, {n: part.cpu() for n, part in parts.items()}))
        signal = partial(_signal, args, model, head, bias)
        _write_shards(store, mine, rows, signal, show_progress=process.is_main_process)
    return store


def _describe(
    args: CacheArguments, data: DataArguments, teacher: Model
) -> tuple[dict[str, Any], PackedRows]:
    """All that decides the stored signal, and the rows to store it for."""
    settings: dict[str, Any] = {
        "teacher_signal": args.teacher_signal,
        "teacher": teacher.identity,
        "dtype": teacher.dtype_name,
        "tokenizer_sha256": tokenizer_hash(teacher.tokenizer),
        "chat_template_sha256": template_hash(teacher.tokenizer),
        "vocab_size": teacher.vocab_size,
    }
    if args.teacher_signal == "topk":
        if args.topk > (size := teacher.vocab_size):
            raise ValueError(f"topk is {args.topk}, and the teacher has {size} tokens")
        settings |= {"k": args.topk, "temperature": args.distil_temperature}
    if args.answers is None:
        split = as_split(args.split)
        rows = PackedRows.of(
            RowStore(data, teacher.tokenizer, [split]).training_rows(split, args.max_length).rows
        )
        source = {**asdict(data), "split": args.split, "max_length": args.max_length}
    else:
        answers = ShardStore.open(args.answers, "answers", verify=False).settings
        check_same_teacher(answers["teacher"], teacher.identity)
        if answers["tokenizer_sha256"] != settings["tokenizer_sha256"]:
            raise ValueError(
                f"{args.answers} was written with another tokenizer than {teacher.name} has"
            )
        check_same_template(args.answers, answers.get("chat_template_sha256"), teacher.tokenizer)
        written = stored_answers(args.answers)
        say_rows_without_end(written, answers["eos_token_ids"], f"rows of {args.answers}")
        rows = PackedRows.of(written)
        source = {"answers": answers}
    longest = int(rows.lengths.max())
    check_positions(teacher.name, teacher.config, "the longest row", longest, "max_length")
    return settings | {"source": source, "rows_sha256": rows.sha256()}, rows


def _bytes(args: CacheArguments, teacher: Model, rows: PackedRows) -> int:
    """The size of the shards that are still to be written, about."""
    each = topk_bytes(args.topk, teacher.vocab_size)
    if args.teacher_signal == "hidden":
        each = 2 * teacher.config.get_text_config().hidden_size
    there = sum(path.stat().st_size for path in Path(args.output_dir).glob("shard-*.safetensors"))
    return int(rows.positions_per_row().sum()) * each - there


def _head(model: "PreTrainedModel", vocab_size: int) -> tuple[Tensor, Tensor | None]:
    """The LM head's rows that are tokens: weight [vocab_size, H] and bias or None."""
    head = model.get_output_embeddings()
    bias = getattr(head, "bias", None)
    return head.weight[:vocab_size], None if bias is None else bias[:vocab_size]


def _signal(
    args: CacheArguments,
    model: "PreTrainedModel",
    head: Tensor,
    bias: Tensor | None,
    rows: PackedRows,
    advance: Callable[[int], object],
) -> dict[str, Tensor]:
    """The stored signal of rows, on the CPU."""
    hidden = trained_hidden_states(model, rows, args.tokens_per_batch, advance)
    if args.teacher_signal == "hidden":
        return {"hidden": hidden.bfloat16().cpu()}
    return topk_distribution(
        hidden,
        head,
        bias,
        k=args.topk,
        temperature=args.distil_temperature,
        chunk_size=args.chunk_size,
    )


def _write_shards(
    store: ShardStore,
    shards: list[Shard],
    rows: PackedRows,
    signal: Callable[[PackedRows, Callable[[int], object]], dict[str, Tensor]],
    show_progress: bool,
) -> None:
    """Compute and store ``shards``; one goes to disk while the next is computed."""
    total = sum(int(rows.select(shard.rows).lengths.sum()) for shard in shards)
    columns = "{task.description}", "{task.completed:,.0f} of {task.total:,.0f} tokens"
    pending: Future[None] | None = None
    with (
        Progress(*columns, BarColumn(), TokensPerSecond(), disable=not show_progress) as progress,
        ThreadPoolExecutor(1) as writer,
    ):
        task = progress.add_task("caching", total=total)
        for shard in shards:
            part = rows.select(shard.rows)
            tensors = signal(part, partial(progress.advance, task))
            tokens = len(next(iter(tensors.values())))
            tensors |= {name: torch.from_numpy(array) for name, array in part._asdict().items()}
            if pending is not None:
                pending.result()
            pending = writer.submit(store.write, shard, partial(save_file, tensors), tokens)
        if pending is not None:
            pending.result()


class TokensPerSecond(ProgressColumn):
    """The speed, and the time left."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed or 0
        left = f", {task.time_remaining:,.0f} s left" if task.time_remaining else ""
        return Text(f"{speed:,.0f} tokens/s{left}")
