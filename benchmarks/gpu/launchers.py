"""Every way to launch a run, in a process for each GPU: one loss, and a saved model."""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from benchmarks.gpu.commands import STUDENT, in_a_process, tiny_folder
from benchmarks.gpu.figure import Figure
from benchmarks.gpu.machine import Machine
from kd_lab.recipe import find_recipe
from kd_lab.runs.run_files import read_metrics

STEPS, ROWS = 2, 8  # of a process
SAME = 1e-2  # bfloat16; DeepSpeed keeps the weights themselves in it
SHAPE = {"num_hidden_layers": 4, "tie_word_embeddings": True}
FSDP2 = (
    "--use_fsdp", "--fsdp_version", "2", "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP",
    "--fsdp_transformer_layer_cls_to_wrap", "Qwen2DecoderLayer",
    "--fsdp_reshard_after_forward", "true", "--fsdp_cpu_ram_efficient_loading", "false",
)  # fmt: skip
SHARDING = ("fsdp2 full", "fsdp2 sharded")


def measure(machine: Machine) -> Iterator[Figure]:
    processes = torch.cuda.device_count() if machine.is_gpu else 1
    with tempfile.TemporaryDirectory() as folder:
        root = tiny_folder(folder, **SHAPE)
        losses: dict[str, list[float]] = {}
        whole = _saved(root / STUDENT)
        for name, launcher in _launchers(processes).items():
            if name in SHARDING and not (machine.is_gpu and processes > 1):
                yield Figure(f"{name}: loss against ddp's", None, note="it needs two GPUs")
                continue
            out = "runs/" + name.replace(" ", "-")
            in_a_process(root, [*launcher, *_words(machine, out, processes)], machine.device)
            losses[name] = [line["loss"] for line in read_metrics(root / out) if "loss" in line]
            gap = max(abs(a / b - 1) for a, b in zip(losses[name], losses["ddp"], strict=True))
            yield Figure(f"{name}: steps", len(losses[name]), low=STEPS, high=STEPS)
            yield Figure(f"{name}: loss against ddp's", gap, "relative", high=SAME)
            saved = _saved(root / out)
            yield Figure(f"{name}: numbers in its saved model", saved, low=whole, high=whole)


def _launchers(processes: int) -> dict[str, list[str]]:
    """accelerate launch refuses DDP of one process, and torchrun does not."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launch = [
        sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(processes)
    ]  # fmt: skip
    found = {"ddp": [*torchrun, "--nproc_per_node", str(processes), "-m", "kd_lab"]}
    for name in ("zero2", "zero3"):
        config = str(find_recipe(f"accelerate/{name}"))
        found[name] = [*launch, "--config_file", config, "-m", "kd_lab"]
    for kind in ("full", "sharded"):
        state = ("--fsdp_state_dict_type", f"{kind.upper()}_STATE_DICT")
        plain = ("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no")
        found[f"fsdp2 {kind}"] = [*launch, *plain, *FSDP2, *state, "-m", "kd_lab"]
    return found


def _words(machine: Machine, out: str, processes: int) -> list[str]:
    return [
        "train", "--config", "tiny/token_fkl", "--output_dir", out, "--max_steps", str(STEPS),
        "--logging_steps", "1", "--per_device_train_batch_size", str(ROWS),
        "--num_conversations", str(STEPS * ROWS * processes), "--bf16", "true",
        "--train_sampling_strategy", "sequential", "--use_cpu", str(not machine.is_gpu).lower(),
    ]  # fmt: skip


def _saved(folder: Path) -> int:
    """The finite numbers of the saved student; 0 if there is none."""
    if not any(folder.glob("*.safetensors")):
        return 0
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    return sum(int(weight.isfinite().sum()) for weight in model.parameters())
