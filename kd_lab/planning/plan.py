"""``kd-lab plan``: the memory and time of a training run, estimated before a GPU is rented.

    kd-lab plan --config qwen2.5/token_fkl                            # one GPU of 80 GB
    kd-lab plan --config qwen2.5/token_fkl --gpus 8 --zero_stage 2    # as accelerate/zero2 runs it
    kd-lab plan --config qwen2.5/ultra_7b                             # does not fit: what would
    kd-lab plan --config qwen2.5/token_fkl_24gb --gpu rtx4090 --price_per_hour 0.5

It takes the recipes of ``kd-lab train``. Its own options are the numbers that no recipe has; the
result prints them. ``planned_memory.py`` has the arithmetic of bytes, and a test holds it against
the tensors of a training step; ``planned_time.py`` has that of hours; ``cards.py`` has the cards.
"""

import re
import textwrap

from kd_lab.data.conversations import DataArguments, check_data_numbers
from kd_lab.models import check_attention, check_dtype
from kd_lab.planning.advice import CACHE, FITS, fits, what_would_fit
from kd_lab.planning.planned_config import PlannedConfig
from kd_lab.planning.planned_memory import checkpoint_bytes, host_bytes, plan_memory
from kd_lab.planning.planned_run import GB, Job, PlanArguments, make_job
from kd_lab.planning.planned_time import plan_time
from kd_lab.student import StudentArguments
from kd_lab.teacher.of_training import TrainTeacherArguments

WIDTH = 100
ARGUMENTS = (PlanArguments, StudentArguments, TrainTeacherArguments, DataArguments, PlannedConfig)


def run(
    plan: PlanArguments,
    student: StudentArguments,
    teacher: TrainTeacherArguments,
    data: DataArguments,
    config: PlannedConfig,
) -> None:
    """Print the estimate.

    Raises:
        ValueError: a model of unknown size, or a setting that cannot be planned.
    """
    check_data_numbers(data)
    check_dtype("teacher_dtype", teacher.teacher_dtype)
    check_attention("teacher_attn_implementation", teacher.teacher_attn_implementation)
    print(describe(make_job(plan, student, teacher, data, config)))


def describe(job: Job) -> str:
    """The estimate as printed text."""
    plan, time = job.plan, plan_time(job)
    models = f"student of {job.student.parameters / 1e6:,.1f} million parameters"
    if job.teacher is not None:
        models += f", teacher of {job.teacher.parameters / 1e6:,.1f} million"
    batch, length = job.rows_per_step * plan.gpus, plan.conversation_tokens
    lines = [
        f"{models}; {_machine(job)}",
        "An estimate: not measured on a GPU.",
        "",
        *_memory_lines(job),
        "",
        f"{time.steps:,} steps of {batch:,} conversations, {length:,} tokens each",
        f"  training    {time.training_flops:9.2e} floating-point operations",
        f"  evaluation  {time.evaluation_flops:9.2e}",
    ]
    if job.config.on_cpu:
        return "\n".join(lines)
    lines.append(f"  loss        {time.loss_hours:9.2f} hours, of its passes over logits")
    if time.writing_hours:
        speed = f"transformers, {plan.layer_ms:g} ms a layer and token"
        if job.config.compile_decode:
            speed = f"compiled, {plan.compiled_layer_ms:g} ms a layer and token and what it reads"
        if job.engine == "vllm":
            speed = f"vLLM, {plan.vllm_token_ms:g} ms a token and what it reads"
        lines.append(f"  writing     {time.writing_hours:9.2f} hours: {speed}")
    gpu_hours = time.hours * plan.gpus
    lines.append(
        f"  together    {time.hours:9.2f} hours, {gpu_hours:.2f} GPU hours, at "
        f"{plan.utilisation:.0%} of {plan.gpu_tflops:g} TFLOP/s a GPU"
    )
    if plan.price_per_hour is not None:
        price = plan.price_per_hour
        lines.append(f"  price       {gpu_hours * price:9.2f} at {price:g} for an hour of a GPU")
    if job.config.save_strategy != "no":
        size, kept = checkpoint_bytes(job) / GB, job.config.save_total_limit
        if kept and job.config.metric_for_best_model:  # transformers keeps the best and the last
            kept = max(kept, 2)
        most = f", at most {size * (kept + 1):,.0f} at a time" if kept else "; all are kept"
        lines.append(f"  a checkpoint{size:9.0f} GB of disk{most}")
    if not fits(job):
        lines += ["", *_advice(job)]
    return "\n".join(lines)


def _advice(job: Job) -> list[str]:
    """The changes with which the run would fit, and their options."""
    peak = plan_memory(job).peak / GB
    fitting = what_would_fit(job)
    lines = [f"What would fit, by the same estimate ({FITS:.0%} of a GPU's memory at the most):"]
    for fit in fitting:
        lines.append(f"  {fit.peak / GB:6.1f} GB {fit.hours:9.2f} hours  {fit.what}")
        pairs = re.sub(r"(--\S+) ", "\\1\xa0", fit.options)  # a line breaks before an option alone
        wrapped = textwrap.wrap(pairs, WIDTH - 27, break_on_hyphens=False)
        lines += [" " * 27 + line.replace("\xa0", " ") for line in wrapped]
    if not fitting:
        lines.append("  nothing tried here fits: take a smaller student or teacher, or")
    lines.append(f"  a GPU of {peak / FITS:.0f} GB or more, without any change")
    options = " ".join(fit.options for fit in fitting)
    if "--zero_stage" in options:
        lines.append(
            "--gpus N --zero_stage S is for this plan; training takes them from its launcher:\n"
            '  accelerate launch --config_file "$(kd-lab recipe accelerate/zeroS)" '
            "--num_processes N \\\n    -m kd_lab train ..."
        )
    if "--teacher_cache" in options:
        lines.append(
            f"{CACHE} is the folder that `kd-lab cache` writes for the same teacher and data."
        )
    return lines


def _machine(job: Job) -> str:
    plan = job.plan
    if job.config.on_cpu:
        return "one process on the CPU"
    how = f"ZeRO-{plan.zero_stage}" if plan.zero_stage else "DDP" if plan.gpus > 1 else "unsharded"
    return f"{plan.gpus} GPU{'s' if plan.gpus > 1 else ''} of {plan.gpu_memory_gb:g} GB, {how}"


def _memory_lines(job: Job) -> list[str]:
    memory = plan_memory(job)
    unit, size_of = ("GB", GB) if memory.peak >= GB else ("MB", GB / 1000)
    where = "above the interpreter's" if job.config.on_cpu else "on each GPU"
    largest = memory.largest
    parts = {**memory.always, **{f"{largest}: {k}": v for k, v in memory.turns[largest].items()}}
    lines = [f"{unit} {where}"]
    lines += [f"  {name:40}{size / size_of:8.2f}" for name, size in parts.items()]
    lines.append(f"  {'at the most':40}{memory.peak / size_of:8.2f}")
    if not job.config.on_cpu:
        share = memory.peak / GB / job.plan.gpu_memory_gb
        verdict = "fits" if share <= FITS else "tight" if share <= 1 else "does not fit"
        lines[-1] += f"   {verdict} in {job.plan.gpu_memory_gb:g}"
    less = [name for name in memory.turns if name != largest and memory.of_turn(name)]
    sizes = (f"{name} {memory.of_turn(name) / size_of:.2f}" for name in less)
    lines.append(f"  in place of {largest}, at other times: {', '.join(sizes)}")
    if job.point.has_divergence and job.teacher is None:
        lines.append(
            "  The stored teacher is counted as its likeliest tokens: hidden states add its head"
            "\n  and half a chunk of logits."
        )
    if not job.config.on_cpu:
        lines.append(f"  {'of each machine, to load the models':40}{host_bytes(job) / GB:8.2f}")
    return lines
