"""The bytes of a plan, by hand, against its papers and against real runs."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2RotaryEmbedding

from kd_lab.cli import main
from kd_lab.model_shapes import shape_of
from kd_lab.planning.planned_memory import checkpoint_bytes, host_bytes, plan_memory
from kd_lab.planning.planned_run import ADAPTED, LINEAR_LAYERS
from tests.helpers.planned import WIDE, planned
from tests.helpers.toy_pair import toy_model

RESULTS = Path(__file__).parents[3] / "assets" / "results"


def test_the_bytes_of_the_readme_by_hand():
    memory = plan_memory(planned("qwen2.5/token_fkl"))
    states = ("student's weights", "gradients", "AdamW")
    assert sum(memory.always[name] for name in states) == 16 * 1_543_714_304  # 24.7 GB
    assert memory.always["teacher's weights"] == 2 * 7_615_616_512  # 15.2 GB
    # Of a layer: norms, linear inputs, attention and a number a head, a row of the mask, SwiGLU.
    layer = 2 * 1536 * 8 + 5 * 1536 * 2 + 4 * 1536 * 2 + 96 + 2048 * 2 + 4 * 8960 * 2
    # The last norm, its result twice and its gradient, a copy in bfloat16; the teacher's states.
    ends = 1536 * (4 + 4 * 4 + 2) + 3584 * 2 + 192
    loss = memory.turns["loss"]
    assert loss["activations"] == 2 * 2048 * (28 * layer + ends)
    assert loss["chunks of logits"] == (2048 + 1024) * 151_936 * 4
    assert loss["gradient of the head"] == 151_936 * 1536 * 4
    assert memory.largest == "loss"
    assert memory.peak < 63e9


@pytest.mark.parametrize(
    ("stage", "per_parameter"), [(1, 4 + 12 / 8), (2, 2 + 14 / 8), (3, 16 / 8)]
)
def test_zero_splits_as_its_paper_says(stage, per_parameter):
    """Rajbhandari et al. 2019, Figure 1, with Ψ parameters on 8 GPUs in mixed precision."""
    job = planned("qwen2.5/ultra_7b", "--gpus", "8", "--zero_stage", str(stage))
    always = plan_memory(job).always
    names = ("student's weights", "gradients", "AdamW", "float32 copy of the weights")
    assert sum(always[name] for name in names) == pytest.approx(per_parameter * 7_615_616_512)


def test_without_a_teacher_there_is_none():
    assert "teacher's weights" not in plan_memory(planned("qwen2.5/sft")).always
    cached = planned("qwen2.5/token_fkl", "--teacher_cache", "runs/qwen2.5/cache")
    assert cached.teacher is None


@pytest.mark.parametrize("autocast", [False, True])
def test_what_a_layer_keeps_is_what_autograd_keeps(autocast):
    config = Qwen2Config(**WIDE, attn_implementation="sdpa")
    layer, tokens = Qwen2DecoderLayer(config, 0), 256
    x = torch.randn(1, tokens, 256, requires_grad=True)
    positions = Qwen2RotaryEmbedding(config)(x, torch.arange(tokens)[None])
    weights = {weight.untyped_storage().data_ptr() for weight in layer.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and tensor.shape[-2:].numel() > tokens:
            kept[storage.data_ptr()] = storage
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        layer(x, position_embeddings=positions)
    # In autocast also a copy of the weights, which the plan counts by itself.
    copies = sum(w.numel() * 2 for w in layer.parameters() if w.dim() == 2) if autocast else 0
    measured = (sum(storage.nbytes() for storage in kept.values()) - copies) / tokens
    counted = shape_of(config).saved_bytes(2 if autocast else 4, 4)
    assert counted == pytest.approx(measured, rel=0.15)


def test_the_memory_of_real_runs_on_a_cpu(smollm2):
    """SmolLM2-135M into half its layers, as README and its benchmark measured them."""
    words = ["--use_cpu", "true", "--model_name_or_path", smollm2]
    words += ["--teacher_model_name_or_path", smollm2]
    whole = plan_memory(planned("smol/token_fkl", *words, "--max_length", "64"))
    lines = (RESULTS / "smol_token_fkl.jsonl").read_text().splitlines()
    python = 0.67  # GiB of a run of a model of a few MB
    measured = json.loads(lines[-1])["peak_memory_gib"] - python
    assert whole.peak / 2**30 == pytest.approx(measured, rel=0.15)

    step = plan_memory(planned("smol/token_fkl", *words, "--max_length", "256")).turns["loss"]
    bench = json.loads((RESULTS / "bench_training_step.json").read_text())["detail"]["smol"]["runs"]
    above = sum(run["peak_mib"] for run in bench["ours"]) / len(bench["ours"])
    # The head's gradient, made in one chunk, is among the gradients that are not counted there.
    counted = sum(step.values()) - step["gradient of the head"]
    assert counted / 2**20 == pytest.approx(above, rel=0.15)


def test_lora_trains_what_peft_says_it_does():
    """Parameters and bytes against a model that PEFT made."""
    from peft import LoraConfig, get_peft_model

    model = Qwen2ForCausalLM(Qwen2Config(**WIDE))
    shape = shape_of(Qwen2Config(**WIDE))
    for targets, asked in ((None, ADAPTED), ("all-linear", LINEAR_LAYERS)):
        config = LoraConfig(r=8, target_modules=targets, task_type="CAUSAL_LM")
        trained, _ = get_peft_model(deepcopy(model), config).get_nb_trainable_parameters()
        assert shape.lora_parameters(8, asked) == trained
    memory = plan_memory(planned("qwen2.5/sft", "--use_peft", "true", "--dtype", "bfloat16"))
    pairs = 28 * 16 * ((1536 + 1536) + (1536 + 256))  # of queries and values
    assert memory.always["student's weights"] == 2 * 1_543_714_304
    assert memory.always["AdamW"] == 8 * pairs
    assert memory.always["gradients"] == memory.always["LoRA's weights"] == 4 * pairs
    assert "gradient of the head" not in memory.turns["loss"]


def test_what_the_host_holds_while_models_are_loaded():
    """Eight processes of a whole teacher and student each, as notebook 8 says."""
    words = ("qwen2.5/token_fkl", "--gpus", "8", "--zero_stage")
    whole = 8 * (2 * 7_615_616_512 + 4 * 1_543_714_304)
    assert host_bytes(planned(*words, "2")) == whole
    assert host_bytes(planned(*words, "3")) == 8 * 5e9


def test_a_checkpoint_on_disk_is_what_training_leaves(tmp_path):
    """The toy model's: weights, and AdamW's two moments, in float32."""
    words = ["--save_strategy", "steps", "--save_steps", "1", "--max_steps", "1"]
    folder = tmp_path / "run"
    assert main(["train", "--config", "tiny/start", *words, "--output_dir", str(folder),
                 "--num_conversations", "64", "--disable_tqdm", "true"]) == 0  # fmt: skip
    files = [folder / "checkpoint-1" / name for name in ("model.safetensors", "optimizer.pt")]
    written = sum(file.stat().st_size for file in files)
    assert checkpoint_bytes(planned("tiny/start", *words)) == pytest.approx(written, rel=0.03)
    zero2, zero3 = (
        checkpoint_bytes(planned("qwen2.5/token_fkl", "--gpus", "8", "--zero_stage", stage))
        for stage in ("2", "3")
    )
    assert (round(zero2 / 1e8), round(zero3 / 1e8)) == (248, 216)  # as two processes left them
    own = toy_model(32, 1, intermediate_size=128)
    assert planned("tiny/start").student.parameters == own.num_parameters()
