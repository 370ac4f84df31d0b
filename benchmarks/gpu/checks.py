"""All checks of ``make gpu``, in their order, with the minutes that each takes on one H100."""

from dataclasses import dataclass

MOST_MINUTES = 25


@dataclass(frozen=True)
class Check:
    """A check: the function ``measure`` of the file with its name."""

    name: str
    minutes: float  # an estimate, its process's imports included
    shows: str
    without_a_gpu: str  # what ``make gpu DEVICE=cpu`` shows of it; empty: nothing
    is_speed: bool = False  # left out by --quick

    @property
    def limit_seconds(self) -> float:
        """After so long it is stopped, and has failed."""
        return 120 * self.minutes + 60


CHECKS = (
    Check("preflight", 0.4, "driver, bfloat16, free memory, one GPU, kernels chosen", ""),
    Check(
        "roofline", 0.6, "memory's bandwidth; the loss's four products", "its code runs", True
    ),
    Check(
        "loss", 3.0, "value and gradient against float64: divergences, T, alpha, top-64, dtypes",
        "all of it, by the plain passes",
    ),
    Check(
        "invariance", 1.0, "chunks, order, padding, micro-batches, NaN, no token, the same bits",
        "all of it, by the plain passes",
    ),
    Check(
        "kernels", 1.2, "Triton = plain passes = torch.compile",
        "the plain passes against float64",
    ),
    Check(
        "runs", 2.2, "CPU = GPU over 30 steps, bfloat16 beside, a run resumed to the bit",
        "a run resumed to the bit",
    ),
    Check("host_reads", 0.5, "how often a micro-batch waits", "operations that would wait"),
    Check(
        "memory", 1.5, "two steps of qwen2.5/token_fkl against kd-lab plan", "its code runs"
    ),
    Check(
        "loss_speed", 3.0, "microseconds a token beside Liger, TRL and the floor; peaks",
        "its code runs", True,
    ),
    Check("shares", 0.6, "the products' share of the loss's time", "its code runs", True),
    Check(
        "steps", 3.5, "tokens a second and MFU, TRL's DistillationTrainer beside",
        "both trainers have the same loss", True,
    ),
    Check("writing", 1.5, "milliseconds a token and layer of written answers", "its code runs", True),
    Check(
        "cache", 1.2, "a teacher's cache, killed and gone on; training from it",
        "all of it",
    ),
    Check(
        "launchers", 2.6, "DDP, ZeRO-2, ZeRO-3 and FSDP2 over NCCL: losses, and a saved model",
        "DDP and ZeRO over gloo",
    ),
    Check("evaluation", 0.7, "kd-lab evaluate: CPU = GPU", "twice the same"),
)  # fmt: skip
BY_NAME = {check.name: check for check in CHECKS}
