"""``kd-lab recipe``: every recipe, the steps it needs first, and about how long it takes.

Times are estimates. On a CPU they come from the speed of runs kept in assets/results/, on GPUs from
the arithmetic of ``kd-lab plan``. Nothing here imports torch, so the list appears at once.
"""

import importlib.util
import math
import textwrap
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

from kd_lab.machine import cores
from kd_lab.methods import Point
from kd_lab.model_shapes import model_shape
from kd_lab.next_step import Step, hub_models, needs, steps
from kd_lab.planning.planned_run import Job, PlanArguments, make_job
from kd_lab.planning.planned_time import plan_time
from kd_lab.recipe import recipes

WIDTH, NAME_WIDTH = 100, 33
# What runs on two cores of a server took: the imports, what a step costs beside its arithmetic, and
# the arithmetic a core does (53 to 72e9 a second in runs of smol/token_fkl).
START_SECONDS, STEP_SECONDS, CORE_FLOPS = 8.0, 0.012, 60e9
MOST_CORES = 16  # more of them do not make such small models faster
# A conversation of the toy language, in tokens, and the share that is trained.
TOY = {"runs/tiny": (29, 0.42), "models": (51, 0.2)}
# The settings that a recipe omits; a test compares them with the arguments' own defaults.
DEFAULTS: dict[str, Any] = {
    "model_name_or_path": None, "model_shape": None, "keep_every": 1, "use_peft": False,
    "teacher_model_name_or_path": None, "teacher_dtype": "auto", "teacher_cache": None,
    "answers": None, "dataset": "toy", "num_conversations": 20_000, "num_test_conversations": 1000,
    "divergence": "forward_kl", "alpha": 0.5, "distil_temperature": 1.0,
    "prefixes": "dataset", "student_share": 0.0, "student_share_step": 0.0,
    "max_new_tokens": 256, "rollout_batch_size": 64, "policy_gradient": False,
    "updates_per_rollout": 1, "dataloader_drop_last": False,
    "compile_decode": False, "teacher_mix": 0.2, "max_length": 1024,
    "max_steps": -1, "num_train_epochs": 3.0, "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1, "activation_checkpointing": False, "eval_strategy": "no",
    "eval_steps": None, "logging_steps": 10, "eval_on_start": False, "eval_delay": 0,
    "use_cpu": False,
}  # fmt: skip
# Of the two commands that store a teacher's answers or signal.
STORING = {"max_new_tokens": 512, "rollout_batch_size": 64, "teacher_signal": "hidden"}


class Cost(NamedTuple):
    """About how long a recipe takes, on this machine or on the GPUs that it is meant for."""

    seconds: float
    on_gpus: bool

    def __str__(self) -> str:
        if self.on_gpus:
            return f"{_round(self.seconds / 3600)} GPU hours"
        if self.seconds < 90:
            return f"{math.ceil(self.seconds / 5) * 5} s"
        return f"{_round(self.seconds / 60)} min"


def recipe_list() -> str:
    """The whole list, two lines or more a recipe, none longer than 100 characters."""
    has_yaml = importlib.util.find_spec("yaml") is not None  # comes with kd-lab[llm], as trl does
    by_name = {step.name: step for step in steps()} if has_yaml else {}
    lines = []
    for name, summary in recipes().items():
        needed = _needed(by_name[name]) if name in by_name else ""
        line, *more = textwrap.wrap(needed, WIDTH - NAME_WIDTH) or [""]
        lines += [f"{name:{NAME_WIDTH}}{line}".rstrip(), *(" " * NAME_WIDTH + of for of in more)]
        lines += [f"    {of}" for of in textwrap.wrap(summary, WIDTH - 4)]
    if not by_name:
        return "\n".join(lines)
    gpu = PlanArguments()
    about = (
        f"Times are estimates: of tiny/ and smol/ on this machine's CPU ({cores()} cores), of "
        f"qwen2.5/ on GPUs at {gpu.utilisation:.0%} of {gpu.gpu_tflops:g} TFLOP/s "
        '(`kd-lab plan --config NAME` says more). Steps after "first" take their own time. '
        "`python -m kd_lab.smollm2` fetches SmolLM2; owner/name comes by itself from the model hub."
    )
    return "\n".join([*lines, "", *textwrap.wrap(about, WIDTH)])


def cost(step: Step, num_cores: int | None = None) -> Cost:
    """An estimate of a recipe's time, without the steps it needs first.

    Args:
        num_cores: of the machine; by default this one's.
    """
    threads = int(step.env.get("OMP_NUM_THREADS", min(num_cores or cores(), MOST_CORES)))
    on_gpus = step.settings["dataset"] != "toy"
    if step.kind == "data":
        return Cost(START_SECONDS, False)
    if step.kind == "train":
        job = job_of(step)
        time = plan_time(job)
        if on_gpus:
            return Cost(time.hours * 3600, True)
        flops = time.training_flops + time.evaluation_flops
        seconds = time.writing_hours * 3600 + time.steps * STEP_SECONDS
    else:
        flops, seconds = _storing(step)
        if on_gpus:
            plan = PlanArguments()
            return Cost(seconds + flops / (plan.gpu_tflops * 1e12 * plan.utilisation), True)
    return Cost(START_SECONDS + seconds + flops / (threads * CORE_FLOPS), False)


def job_of(step: Step) -> Job:
    """The run as ``kd-lab plan`` would count it, made without importing a trainer."""
    settings = {**DEFAULTS, **step.settings}
    settings["point"] = point = Point.of(settings)
    settings["written_share"] = max(point.student_share, point.share_step)
    settings["gradient_checkpointing"] = settings["activation_checkpointing"]
    settings["on_cpu"] = settings["use_cpu"]
    of_all = cast(Any, SimpleNamespace(**settings))
    return make_job(_plan(step), of_all, of_all, of_all, of_all)


def _needed(step: Step) -> str:
    """``about 15 s; first: tiny/start, tiny/teacher``."""
    first = [before.name for before in needs(step.settings)] + hub_models(step.settings)
    # The speed of the network is unknown.
    downloads = step.kind == "data" and step.settings["dataset"] != "toy"
    time = "a download, and minutes" if downloads else f"about {cost(step)}"
    return time + (f"; first: {', '.join(first)}" if first else "")


def _plan(step: Step) -> PlanArguments:
    if step.settings["dataset"] != "toy":
        return PlanArguments()
    model = step.settings.get("model_name_or_path") or step.settings.get(
        "teacher_model_name_or_path"
    )
    length, share = TOY["models" if model and model.startswith("models/") else "runs/tiny"]
    return PlanArguments(conversation_tokens=length, trained_share=share)


def _storing(step: Step) -> tuple[float, float]:
    """For generate and cache: operations, and seconds of tokens that wait for one another."""
    settings, plan = {**STORING, **step.settings}, _plan(step)
    teacher = model_shape(settings["teacher_model_name_or_path"])
    rows, length = settings["num_conversations"], float(plan.conversation_tokens)
    answers = rows * length * plan.trained_share
    if step.kind == "cache":
        heads = answers if settings["teacher_signal"] == "topk" else 0
        return teacher.forward_flops(rows * length, length, heads), 0
    batches = math.ceil(rows / settings["rollout_batch_size"])
    waits = batches * settings["max_new_tokens"] * teacher.layers * plan.layer_ms / 1000
    return teacher.forward_flops(rows * length, length, answers), waits


def _round(value: float) -> str:
    """Two figures: 0.54, 1.4, 12."""
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"
