"""The memory of a plan against the tensors that its training step really makes."""

import pytest

pytest.importorskip("triton")  # the loss's code for a GPU imports it

from kd_lab.cli import parse
from kd_lab.loss import by_device, chunks, gpu_tiles
from kd_lab.planning import planned_memory
from kd_lab.planning.planned_memory import plan_memory
from kd_lab.planning.planned_run import make_job
from tests.helpers.fake_step import peaks

LORA = ("--use_peft", "true", "--dtype", "bfloat16", "--lora_target_modules")
WAYS = {
    "float32 and autocast": ["token_fkl"],
    "all activations": ["token_fkl", "--activation_checkpointing", "false"],
    "bfloat16 weights": ["token_fkl", "--dtype", "bfloat16"],
    "bfloat16, all activations": [
        "token_fkl", "--dtype", "bfloat16", "--activation_checkpointing", "false",
    ],
    "jensen_shannon": ["token_jsd"],
    "adaptive_kl": ["token_akl"],
    "SFT": ["sft"],
    "LoRA": ["token_fkl", *LORA, "q_proj", "v_proj"],
    "LoRA, all activations": [
        "token_fkl", *LORA, "all-linear", "--activation_checkpointing", "false",
    ],
    "small chunks": ["token_fkl", "--chunk_size", "128"],
    "an untied head": ["ultra_7b", "--per_device_train_batch_size", "1"],
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_the_plan_holds_what_a_step_makes(way, tmp_path):
    """At the recipe's shapes and depth: within 5%, and never below, beside weights and states."""
    recipe, *words = WAYS[way]
    job = make_job(*parse("plan", ["--config", f"qwen2.5/{recipe}", *words]))
    memory = plan_memory(job)
    planned = memory.of_turn(memory.largest)
    one, two = (peaks(job, layers, tmp_path) for layers in (1, 2))
    traced = one.with_layers(two, job.student.layers)
    print(f"{way:28} {memory.largest:10} {planned / 1e9:7.3f} {traced / 1e9:7.3f} {planned / traced - 1:+.2%}  {one} {two}", {k: round(memory.of_turn(k)/1e9,3) for k in memory.turns})
    assert traced <= planned <= 1.05 * traced


def test_the_numbers_of_the_loss_are_its_own():
    assert planned_memory.KERNEL_CHUNKS == by_device.KERNEL_CHUNKS
    assert planned_memory.ALIGNMENT == chunks.ALIGNMENT
    assert planned_memory.CAPACITY == gpu_tiles.CAPACITY
