"""Changes that make a run fit; the planner's own arithmetic tries each.

The planner tries changes alone, then in pairs and threes, until one fits on the planned number of
GPUs. It lists no set of changes if a part of that set fits already. A person chooses: LoRA and
shorter rows train something else. ZeRO and fewer rows at a time do not: accumulation keeps the
conversations of a step. Where those do not divide among the GPUs, the advice names the new batch.
"""

from collections.abc import Iterator, Mapping
from copy import copy
from itertools import combinations
from typing import Any, NamedTuple

from kd_lab.planning.planned_memory import plan_memory
from kd_lab.planning.planned_run import GB, Job
from kd_lab.planning.planned_time import plan_time

# Allocators lose some memory to fragments: a run that needs more than this share may fail.
FITS = 0.9
GPUS = (2, 4, 8, 16)
SHORTEST = 256  # tokens of a row
MOST_TOGETHER = 3
CACHE = "DIR"  # the folder of a stored teacher
ROWS, ACCUMULATION = "per_device_train_batch_size", "gradient_accumulation_steps"


class Change(NamedTuple):
    """Options that would make a run smaller."""

    kind: str  # a set has at most one change of a kind
    what: str
    options: Mapping[str, Any]


class Fit(NamedTuple):
    """Changes with which a run fits."""

    changes: tuple[Change, ...]
    settings: Mapping[str, Any]  # of all of them together
    peak: float  # bytes of one GPU
    hours: float
    new_batch: int | None  # conversations of a step, where the changes could not keep them

    @property
    def options(self) -> str:
        """Its options on the command line, ``--max_length 1024 --gpus 8``."""
        words = [
            f"--{key} {str(value).lower() if isinstance(value, bool) else value}"
            for key, value in self.settings.items()
        ]
        return " ".join(words)

    @property
    def what(self) -> str:
        words = ", ".join(change.what for change in self.changes)
        return words if self.new_batch is None else f"{words}, a batch of {self.new_batch:,}"


def fits(job: Job) -> bool:
    """Whether a run fits and leaves the allocator its share of the GPU."""
    return plan_memory(job).peak <= FITS * job.plan.gpu_memory_gb * GB


def what_would_fit(job: Job) -> list[Fit]:
    """The smallest sets of changes with which a run fits, of at most three changes.

    Returns:
        for each kind, or combination of kinds, the first that fits; the fewest changes come first.
    """
    fitting: list[Fit] = []
    offered = list(changes(job))
    for together in range(1, MOST_TOGETHER + 1):
        for chosen in combinations(offered, together):
            kinds = {change.kind for change in chosen}
            if len(kinds) < together or any(_kinds(fit) <= kinds for fit in fitting):
                continue
            tried = changed(job, chosen)
            if fits(tried):
                batch = None if _batch(tried) == _batch(job) else _batch(tried)
                peak, hours = plan_memory(tried).peak, plan_time(tried).hours
                fitting.append(Fit(chosen, settings(job, chosen), peak, hours, batch))
        if any("gpus" not in _kinds(fit) for fit in fitting):  # one that needs no more GPUs
            break
    return fitting


def changes(job: Job) -> Iterator[Change]:
    """The changes open to this run; each kind begins with its mildest."""
    plan, config, arguments = job.plan, job.config, job.student_arguments
    if not config.bf16:
        yield Change("bf16", "mixed precision", {"bf16": True})
    if not config.gradient_checkpointing:
        yield Change("checkpoints", "activations again", {"activation_checkpointing": True})
    rows = config.per_device_train_batch_size
    while rows > 1 and rows % 2 == 0:
        rows //= 2
        yield Change("batch", "fewer rows at a time", {ROWS: rows})  # and more times
    if job.writers and job.engine == "transformers" and config.rollout_batch_size > 8:
        yield Change("rollout", "fewer answers at a time", {"rollout_batch_size": 8})
    if config.chunk_size > 256:
        yield Change("chunk", "smaller chunks", {"chunk_size": 256})
    # A cache holds the rows of a dataset, not answers written during training.
    if job.teacher is not None and not config.written_share and not job.teacher_writes:
        yield Change("teacher", "stored teacher", {"teacher_cache": CACHE})
    if not arguments.use_peft:
        lora = {"use_peft": True, "dtype": "bfloat16"}
        yield Change("lora", f"LoRA of rank {arguments.lora_r}", lora)
    length = config.max_length or 0
    while length // 2 >= SHORTEST:
        length //= 2
        yield Change("length", "shorter rows", {"max_length": length})
    for stage in (2, 3):
        for gpus in GPUS:
            if gpus >= plan.gpus and stage > plan.zero_stage:
                options = {"gpus": gpus, "zero_stage": stage}
                yield Change("gpus", f"{gpus} GPUs, ZeRO-{stage}", options)


def settings(job: Job, chosen: tuple[Change, ...]) -> dict[str, Any]:
    """The options of these changes, and of rows and accumulation that keep a step's conversations.

    Where those do not divide among the GPUs, each GPU keeps its own, and the step grows.
    """
    options = {key: value for change in chosen for key, value in change.options.items()}
    config, batch, gpus = job.config, _batch(job), options.get("gpus", job.plan.gpus)
    rows = options.get(ROWS, config.per_device_train_batch_size)
    of_a_gpu = batch // gpus if batch % gpus == 0 else job.rows_per_step
    rows = next(fewer for fewer in range(rows, 0, -1) if of_a_gpu % fewer == 0)
    for key, value in ((ROWS, rows), (ACCUMULATION, of_a_gpu // rows)):
        if value != getattr(config, key):
            options[key] = value
    return options


def changed(job: Job, chosen: tuple[Change, ...]) -> Job:
    """The same run with these changes."""
    plan, arguments, config = copy(job.plan), copy(job.student_arguments), copy(job.config)
    teacher = job.teacher
    for key, value in settings(job, chosen).items():
        if key == "teacher_cache":
            teacher = None
            continue
        # A configuration turns activation_checkpointing into this one.
        name = "gradient_checkpointing" if key == "activation_checkpointing" else key
        owner = next(of for of in (plan, config, arguments) if hasattr(of, name))
        setattr(owner, name, value)
    return job._replace(plan=plan, student_arguments=arguments, config=config, teacher=teacher)


def _batch(job: Job) -> int:
    """Conversations of a step, on all GPUs together."""
    return job.rows_per_step * job.plan.gpus


def _kinds(fit: Fit) -> set[str]:
    return {change.kind for change in fit.changes}
