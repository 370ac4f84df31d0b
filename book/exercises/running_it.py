"""Checks of notebook 8's exercises, by the planner that the notebook shows."""

from book.exercises.expected import expect
from kd_lab.cli import parse
from kd_lab.planning.planned_memory import plan_memory
from kd_lab.planning.planned_run import Job, make_job
from kd_lab.planning.planned_time import plan_time

USABLE = 0.9  # of a GPU's memory


def _job(*more: str) -> Job:
    return make_job(*parse("plan", ["--config", "qwen2.5/token_fkl", *more]))


def fits(answer: tuple[bool, bool]) -> None:
    """Whether the recipe fits four GPUs of 40 GB with ddp, and with zero3."""
    four = ("--gpus", "4", "--gpu_memory_gb", "40", "--zero_stage")
    for way, stage, said in zip(("ddp", "zero3"), "03", answer, strict=True):
        if said not in (False, True):
            raise AssertionError(f"with {way}: expected True or False, got {said:g}")
        peak = plan_memory(_job(*four, stage)).peak
        if bool(said) != (peak < USABLE * 40e9):
            raise AssertionError(f"with {way} it takes {peak / 1e9:.0f} GB of each GPU's 40")


def largest_teacher(answer: tuple[float, float]) -> None:
    """Billions of parameters of the largest teacher on eight GPUs, and how many times the hours."""
    size, times = answer
    eight = ("--gpus", "8", "--zero_stage", "3")
    large = _job(*eight, "--teacher_model_name_or_path", "Qwen/Qwen2.5-72B-Instruct")
    if plan_memory(large).peak < USABLE * 80e9:
        expect(size, 72.0, "billions of parameters; the 72B fits", rtol=0.02)
    hours = plan_time(large).hours / plan_time(_job(*eight)).hours
    expect(times, hours, "times the hours", rtol=0.1)


def what_the_cache_saves(answer: tuple[float, float]) -> None:
    """GB of one GPU's memory that a teacher's cache saves, and GB of disk that it takes."""
    memory, disk = answer
    saved = plan_memory(_job()).peak - plan_memory(_job("--teacher_cache", "cache")).peak
    expect(memory, saved / 1e9, "GB of memory", rtol=0.1)
    stored = 20_000 * 1_200 * 0.8 * (6 * 64 + 4)  # conversations, tokens, trained ones, bytes
    mistakes = {
        "all tokens are counted there, not the trained ones": stored / 0.8 / 1e9,
        "the bytes of 64 words are 6 each, and 4": 20_000 * 1_200 * 0.8 * 6 / 1e9,
    }
    expect(disk, stored / 1e9, "GB of disk", mistakes, rtol=0.1)
