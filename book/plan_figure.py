"""Planned memory as a picture: one bar for each way to run the same recipe on a GPU."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from kd_lab.house_style import house_style
from kd_lab.planning.planned_memory import plan_memory
from kd_lab.planning.planned_run import GB, Job

# Name, colour, hatching, and the parts of kd_lab.planning.planned_memory.Memory that it adds up.
GROUPS = (
    ("student: weights, gradients, AdamW", "#D55E00", "///", (
        "student's weights", "gradients", "AdamW", "float32 copy of the weights",
        "LoRA's weights",
    )),
    ("teacher's weights", "#0072B2", "", ("teacher's weights",)),
    ("buckets, gathered weights, CUDA, vLLM", "#BFBFBF", "", (
        "DDP's buckets", "DeepSpeed's buckets", "DeepSpeed's bucket",
        "weights gathered for a layer", "CUDA, cuBLAS, NCCL", "vLLM",
    )),
    ("activations and logits, or what a writing model holds", "#E69F00", "...", ()),
)  # fmt: skip


def draw_memory(jobs: Mapping[str, Job]) -> Figure:
    """One bar for each job, with its name; a line marks the GPU's memory."""
    with house_style():
        figure, ax = plt.subplots(figsize=(7.4, 1.6 + 0.42 * len(jobs)), layout="constrained")
        left = [0.0] * len(jobs)
        for name, colour, hatch, parts in GROUPS:
            sizes = []
            for job in jobs.values():
                memory = plan_memory(job)
                held = sum(memory.always.get(part, 0.0) for part in parts)
                if not parts:  # what comes and goes
                    held = memory.peak - sum(memory.always.values())
                sizes.append(held / GB)
            ax.barh(
                range(len(jobs)), sizes, left=left, color=colour, hatch=hatch, label=name,
                edgecolor="white", height=0.7,
            )  # fmt: skip
            left = [a + b for a, b in zip(left, sizes, strict=True)]
        for row, total in enumerate(left):
            ax.text(total + 0.8, row, f"{total:.0f}", va="center")
        limit = max(job.plan.gpu_memory_gb for job in jobs.values())
        ax.axvline(limit, color="black", linestyle="-", linewidth=1.5)
        ax.set(xlim=(0, max(limit, *left) * 1.06), xlabel="GB on each GPU (estimate)")
        ax.set_yticks(range(len(jobs)), list(jobs))
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
        figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    return figure
