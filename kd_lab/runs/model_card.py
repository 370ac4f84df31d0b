"""The model card of a student (or of a fine-tuned teacher): how it was made, in words.

It is written from the files of the run folder alone.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from kd_lab.methods import Point
from kd_lab.runs.safe_text import in_markdown

CARD = """\
# {title}

{what}

| | |
|---|---|
{settings}
{results}
## Loading it

The folder that holds this file is the model:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
```

## Making it again

`config.yaml` in the run's folder holds every setting, and
`kd-lab train --config config.yaml --output_dir another_folder` runs it again. It was made with
{versions}.

## Licence

A distilled model derives from its student, its teacher and its data. This card grants no rights:
the licences of those three say what may be done with it.
"""


def model_card(
    config: Mapping[str, Any],
    versions: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
) -> str:
    """The text of a README.md, with the metadata that the model hub reads on top.

    Args:
        config, versions, metrics: the content of config.yaml, versions.json and metrics.jsonl.
    """
    teacher = config.get("teacher_model_name_or_path") or config.get("teacher_cache")
    teacher = teacher or config.get("answers")
    models = (config.get("model_name_or_path"), config.get("teacher_model_name_or_path"))
    bases = [name for name in models if name and _on_hub(name)]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        base_model=bases or None,
        datasets=DATASETS.get(str(config.get("dataset"))),
        tags=["knowledge-distillation" if teacher else "sft", "kd-lab", "trl"],
    )
    point = Point.of(config)
    settings = {
        "Student": _student(config),
        "Teacher": teacher and _code(teacher, config.get("teacher_revision")),
        "Prefixes": teacher and point.prefix_words,
        "Divergence": point.divergence_words if point.has_divergence else None,
        "Share of the divergence, alpha": f"{config['alpha']:g}" if teacher else None,
        "Temperature": f"{config['distil_temperature']:g}" if point.has_divergence else None,
        "Data": _data(config),
        "Steps": str(metrics[-1]["step"]) if metrics else None,
        "Learning rate": f"{config['learning_rate']:g}, {config['lr_scheduler_type']}",
        "Batch": f"{_batch(config, versions)} conversations a step",
        "Seed": str(config["seed"]),
    }
    commit = versions.get("git_commit")
    made_with = [f"Python {versions['python']}"]
    made_with += [f"{name} {version}" for name, version in versions["libraries"].items()]
    if commit:
        made_with.append(f"commit {commit[:12]}" + (", changed" if versions["git_dirty"] else ""))
    title = str(config.get("run_name") or config["output_dir"]).rstrip("/").rpartition("/")[2]
    told = {key: in_markdown(value) for key, value in settings.items() if value}
    body = CARD.format(
        title=in_markdown(title),
        what=_what(point, teacher),
        settings="\n".join(f"| {key} | {value} |" for key, value in told.items()),
        results=_results(metrics),
        versions=", ".join(made_with),
    )
    return f"---\n{data.to_yaml()}\n---\n\n{body}"


DATASETS = {"ultrachat": ["HuggingFaceH4/ultrachat_200k"]}


def _what(point: Point, teacher: str | None) -> str:
    if not teacher:
        return "Supervised fine-tuning on all assistant turns, with KD Lab (no teacher)."
    if not point.has_divergence:
        return f"Sequence-level distillation with KD Lab: fine-tuned on {point.prefix_words}."
    if point.policy_gradient:
        return (
            "Distilled with KD Lab by sequence-level reverse KL with MiniLLM's policy gradient "
            "([arXiv 2306.08543](https://arxiv.org/abs/2306.08543))."
        )
    return (
        f"Distilled with KD Lab: {point.divergence_words} between the teacher's and the student's "
        f"next-token distributions, on {point.prefix_words}."
    )


def _student(config: Mapping[str, Any]) -> str:
    if shape := config.get("model_shape"):
        told = ", ".join(f"{key} {value}" for key, value in shape.items())
        return f"an untrained Qwen2 ({told})"
    text = _code(config["model_name_or_path"], config.get("model_revision"))
    if config.get("keep_every", 1) > 1:
        text += f", every {config['keep_every']}th of its layers"
    if not config.get("use_peft"):
        return text
    merged = ", merged into the run's final model" if config.get("merge_lora") else ""
    return f"{text}, LoRA of rank {config['lora_r']}{merged}"


def _data(config: Mapping[str, Any]) -> str:
    count = config.get("num_conversations")
    drawn = f", {count:,} conversations" if count else ""
    text = f"`{config['dataset']}`{drawn} (seed {config['conversation_seed']})"
    stored = config.get("teacher_cache") or config.get("answers")
    return f"{text}, as stored in `{stored}`" if stored else text


def _batch(config: Mapping[str, Any], versions: Mapping[str, Any]) -> int:
    per_process = config["per_device_train_batch_size"] * config["gradient_accumulation_steps"]
    return per_process * versions["processes"]


def _results(metrics: Sequence[Mapping[str, Any]]) -> str:
    """The last evaluation, as it was logged."""
    evaluations = [line for line in metrics if "eval_loss" in line]
    if not evaluations:
        return ""
    last = evaluations[-1]
    names = [key for key in last if re.fullmatch(r"eval_(loss|.*kl|cross_entropy)", key)]
    told = "".join(f"- {key}: {last[key]:.4f}\n" for key in names)
    return f"\nOn held-out conversations after step {last['step']} (nats per token):\n\n{told}"


def _code(name: str, revision: str | None) -> str:
    return f"`{name}`" + (f" (revision {revision})" if revision and revision != "main" else "")


def _on_hub(name: str) -> bool:
    """Whether a name is owner/name and no local folder: the hub's metadata refuses paths."""
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", name)) and not Path(name).exists()
