"""The memory of a plan against the tensors that its training step really makes."""

import pytest

pytest.importorskip("triton")  # the loss's code for a GPU imports it

from kd_lab.cli import parse
from kd_lab.loss import by_device, chunks, gpu_tiles
from kd_lab.planning import planned_memory
from kd_lab.planning.planned_memory import plan_memory
from kd_lab.planning.planned_run import make_job
from kd_lab.rollout import compiled_decode
from tests.helpers.fake_step import peak_of_all_layers

AGAIN = ("--activation_checkpointing", "true")
LORA = ("--use_peft", "true", "--dtype", "bfloat16", "--lora_target_modules")
WAYS = {
    "float32 and autocast": ["token_fkl"],
    "activations again": ["token_fkl", *AGAIN],
    "bfloat16 weights": ["token_fkl", "--dtype", "bfloat16"],
    "jensen_shannon": ["token_jsd"],
    "adaptive_kl": ["token_akl", *AGAIN],
    "SFT": ["sft"],
    "LoRA": ["token_fkl", *LORA, "q_proj", "v_proj", *AGAIN],
    "LoRA of all layers": ["token_fkl", *LORA, "all-linear"],
    "an untied head": ["ultra_7b"],
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_the_plan_holds_what_a_step_makes(way, tmp_path):
    """At the recipe's shapes and depth: within 5%, and never below, beside weights and states."""
    recipe, *words = WAYS[way]
    words += ["--eval_strategy", "no"]  # whose batches are larger
    job = make_job(*parse("plan", ["--config", f"qwen2.5/{recipe}", *words]))
    memory = plan_memory(job)
    planned = memory.of_turn(memory.largest)
    traced = peak_of_all_layers(job, tmp_path)
    assert traced <= planned <= 1.05 * traced


def test_a_compiled_step_keeps_its_storage():
    """64 rows of 1,536 tokens and room, in 28 layers of 256 keys and values of 4 and 2 bytes."""
    words = ["--prefixes", "student", "--per_device_train_batch_size", "64"]
    words += ["--compile_decode", "true", "--max_length", "1024", "--max_new_tokens", "512"]
    job = make_job(*parse("plan", ["--config", "qwen2.5/seq_rkl", *words]))
    kept = plan_memory(job).always["student's keys and values"]
    assert kept == 64 * 1664 * 28 * 256 * (4 + 2)


def test_the_numbers_of_the_loss_are_its_own():
    assert planned_memory.KERNEL_CHUNKS == by_device.KERNEL_CHUNKS
    assert planned_memory.ALIGNMENT == chunks.ALIGNMENT
    assert planned_memory.CAPACITY == gpu_tiles.CAPACITY
    assert planned_memory.COLUMNS == compiled_decode.COLUMNS
    assert planned_memory.SLACK == compiled_decode.SLACK
