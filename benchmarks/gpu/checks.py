"""All checks of ``make gpu``, in their order, with the minutes that each took on an H200."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

MOST_MINUTES = 25


@dataclass(frozen=True)
class Check:
    """A check: the function ``measure`` of the file with its name."""

    name: str
    minutes: float  # with 16 CPU cores, its process's imports included
    shows: str
    on_a_cpu: str  # what ``make gpu DEVICE=cpu`` measures of it; empty: it does not run
    computed: str = ""  # what was computed without a GPU, and by which file
    is_speed: bool = False  # left out by --quick
    needs_whole_memory: bool = False

    @property
    def alone(self) -> bool:
        """Whether another check beside it would change what it measures, or leave it no room."""
        return self.is_speed or self.needs_whole_memory

    @property
    def limit_seconds(self) -> float:
        """After so long it is stopped, and has failed."""
        return 300 * self.minutes + 60


CHECKS = (
    Check(
        name="preflight",
        minutes=0.1,
        shows="driver, bfloat16, free memory, one GPU, kernels chosen",
        on_a_cpu="",
        needs_whole_memory=True,
    ),
    Check(
        name="roofline",
        minutes=0.1,
        shows="memory's bandwidth, and the speed of the loss's products",
        on_a_cpu="that it runs",
        computed="693 TFLOP/s and 2.68 TB/s are taken for an H100 (`benchmarks/traffic.py`)",
        is_speed=True,
    ),
    Check(
        name="loss",
        minutes=1.5,
        shows="value and gradient against float64: all divergences, T, alpha, top-64, dtypes",
        on_a_cpu="all of it, by the plain passes",
        computed="Triton's interpreter runs the kernels (`tests/kd_lab/loss/test_kernels.py`)",
    ),
    Check(
        name="invariance",
        minutes=1.5,
        shows="chunks, order, padding, micro-batches, a NaN's position, the same bits twice",
        on_a_cpu="all of it, by the plain passes",
    ),
    Check(
        name="kernels",
        minutes=1.5,
        shows="Triton's kernels, the plain passes and those compiled agree",
        on_a_cpu="the plain passes against float64",
        computed="kernels are assembled for sm_80 and sm_90, without spills (the same tests)",
    ),
    Check(
        name="runs",
        minutes=2.1,
        shows="30 steps as on a CPU, in bfloat16, with compiled answers; a run resumed to the bit",
        on_a_cpu="the steps, and a run resumed to the bit",
    ),
    Check(
        name="host_reads",
        minutes=1.8,
        shows="how often a micro-batch waits: at most 6 times",
        on_a_cpu="the operations that would wait",
    ),
    Check(
        name="memory",
        minutes=0.5,
        shows="two steps of `qwen2.5/token_fkl` against `kd-lab plan`",
        on_a_cpu="that it runs",
        computed="the plan (`kd_lab/planning/`)",
        needs_whole_memory=True,
    ),
    Check(
        name="loss_speed",
        minutes=1.0,
        shows="microseconds a token and peaks: ours, the floor, Liger's and TRL's",
        on_a_cpu="that it runs; `make bench` for a CPU's speed",
        computed="times from counted bytes (`assets/results/traffic.json`)",
        is_speed=True,
    ),
    Check(
        name="shares",
        minutes=0.3,
        shows="the products' share of the loss's time",
        on_a_cpu="that it runs",
        computed="0.66 to 0.86 on an H100, from the same file",
        is_speed=True,
    ),
    Check(
        name="steps",
        minutes=0.7,
        shows="tokens a second and share of the peak; TRL's DistillationTrainer beside",
        on_a_cpu="that both trainers have the same loss",
        computed="40% of the peak is taken (`kd-lab plan`)",
        is_speed=True,
    ),
    Check(
        name="writing",
        minutes=0.9,
        shows="milliseconds a layer and token of written answers",
        on_a_cpu="that it runs",
        computed="1 ms is taken (`kd-lab plan`)",
        is_speed=True,
    ),
    Check(
        name="compiled_decode",
        minutes=3.0,
        shows="a compiled step of decoding: the plain step's answers, and its time over that",
        on_a_cpu="the answers, at small size",
        is_speed=True,
    ),
    Check(
        name="cache",
        minutes=1.8,
        shows="a teacher's cache killed and gone on; training from it as from the teacher",
        on_a_cpu="all of it",
    ),
    Check(
        name="launchers",
        minutes=1.8,
        shows="DDP, ZeRO-2, ZeRO-3 and FSDP2 over NCCL: one loss, and a saved model",
        on_a_cpu="DDP and ZeRO over gloo",
    ),
    Check(
        name="evaluation",
        minutes=1.8,
        shows="`kd-lab evaluate` as on a CPU",
        on_a_cpu="the same means twice",
    ),
)
BY_NAME = {check.name: check for check in CHECKS}


def groups(checks: Sequence[Check], device: str) -> Iterator[Sequence[Check]]:
    """What runs side by side: on a GPU the checks that measure neither its time nor its memory."""
    together = [check for check in checks if device == "cuda" and not check.alone]
    for check in checks:
        if check not in together:
            yield [check]
        elif check is together[0]:
            yield together
