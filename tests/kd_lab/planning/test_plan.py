"""The plan of a run: parameters, bytes and operations against what is known or measured."""

import json
import math
from copy import copy
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, Qwen2Config, Qwen2ForCausalLM, Trainer

from kd_lab.cli import main
from kd_lab.loss import fused_linear_distillation_loss
from kd_lab.model_shapes import model_shape, shape_of, summed_shape
from kd_lab.planning.advice import Change, changed, changes, fits, what_would_fit
from kd_lab.planning.cards import CARDS
from kd_lab.planning.plan import describe
from kd_lab.planning.planned_memory import plan_memory
from kd_lab.planning.planned_time import BYTES_PER_CELL, SFT_BYTES, STORED_BYTES, plan_time
from tests.helpers.planned import WIDE, planned

RESULTS = Path(__file__).parents[3] / "assets" / "results"


# ---- sizes


@pytest.mark.parametrize(
    ("name", "parameters"),  # as the hub counts them in the published weights
    [
        ("Qwen/Qwen2.5-0.5B", 494_032_768),
        ("Qwen/Qwen2.5-1.5B-Instruct", 1_543_714_304),
        ("Qwen/Qwen2.5-3B", 3_085_938_688),
        ("Qwen/Qwen2.5-7B-Instruct", 7_615_616_512),
    ],
)
def test_the_sizes_of_qwen(name, parameters):
    assert model_shape(name).parameters == parameters


def test_smollm2_from_its_configuration(smollm2):
    """134,515,008 parameters, as published, of which 15 layers of 3,540,096 are left out."""
    whole, half = model_shape(smollm2), model_shape(smollm2, keep_every=2)
    assert whole.parameters == 134_515_008
    assert half.layers == 15
    assert whole.parameters - half.parameters == 15 * 3_540_096


@pytest.mark.parametrize("keep_every", [1, 2])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("of", [LlamaConfig, Qwen2Config])
def test_the_sum_is_what_transformers_counts(of, tied, keep_every, tmp_path):
    config = of(**WIDE, tie_word_embeddings=tied)
    config.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text("utf-8"))
    assert summed_shape(written, keep_every) == shape_of(config, keep_every)


def test_a_model_with_other_biases_is_counted_by_transformers(tmp_path):
    LlamaConfig(**WIDE, attention_bias=True, tie_word_embeddings=True).save_pretrained(tmp_path)
    counted = shape_of(LlamaConfig(**WIDE, attention_bias=True, tie_word_embeddings=True))
    assert model_shape(str(tmp_path)) == counted


def test_a_model_that_is_still_to_be_trained_is_known_by_its_recipe(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # where runs/ holds nothing
    assert model_shape("runs/qwen2.5/ultra_1.5b") == model_shape("Qwen/Qwen2.5-1.5B")
    assert model_shape("runs/tiny/teacher").layers == 2
    for spelling in ("./runs/tiny/teacher", "runs/tiny/teacher/", f"{tmp_path}/runs/tiny/teacher"):
        assert model_shape(spelling) == model_shape("runs/tiny/teacher")
    assert model_shape("./models/SmolLM2-135M-Instruct/").parameters == 134_515_008


# ---- operations


@pytest.mark.parametrize("checkpointing", [False, True])
def test_operations_are_those_that_torch_counts(checkpointing):
    """A training step, layers and loss, against torch's own counter."""
    torch.manual_seed(0)
    config = Qwen2Config(**WIDE, attn_implementation="eager")
    student, rows, length = Qwen2ForCausalLM(config).train(), 2, 64
    if checkpointing:
        student.activation_checkpointing_enable({"use_reentrant": False})
    shape, tokens = shape_of(config), rows * length
    ids = torch.randint(0, 512, (rows, length))
    teacher = torch.randn(tokens, 64), torch.randn(512, 64)
    with FlopCounterMode(display=False) as counter:
        hidden = student.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
        fused_linear_distillation_loss(
            hidden.flatten(0, 1), student.lm_head.weight, *teacher, ids.flatten()
        ).loss.backward()
    counted = counter.get_total_flops() + 2 * tokens * shape.head  # it does not know addmm_
    # Eager attention makes all scores, and not only those that are not masked: twice the context.
    planned = 3 * shape.forward_flops(tokens, 2 * length, tokens) + 2 * tokens * 512 * 64
    if checkpointing:
        planned += shape.again_flops(tokens, 2 * length)
    assert planned == pytest.approx(counted, rel=0.02)


def test_the_hours_of_the_readme_by_hand():
    """313 steps of 64 conversations of 1,200 tokens: Qwen2.5-7B into 1.5B, 8 GPUs."""
    time = plan_time(planned("qwen2.5/token_fkl", "--gpus", "8", "--zero_stage", "2"))
    tokens, trained = 313 * 64 * 1200, 313 * 64 * 1200 * 0.8
    student = 28 * (1536 * (1536 + 2 * 256) + 1536 * 1536 + 3 * 1536 * 8960)
    teacher = 28 * (3584 * (3584 + 2 * 512) + 3584 * 3584 + 3 * 3584 * 18944)
    student_scores, teacher_scores = 28 * 1200 * 1536, 28 * 1200 * 3584
    operations = tokens * 2 * (3 * (student + student_scores) + teacher + teacher_scores)
    operations += trained * 2 * (3 * 1536 * 151_936 + 3584 * 152_064)
    assert time.training_flops == pytest.approx(operations, rel=1e-3)  # biases, norms
    # Four times 1,000 test conversations, at the end too: heads count for loss and both KLs.
    tested = 4 * 1000 * 1200
    looked_at = tested * 2 * (student + teacher + student_scores + teacher_scores)
    looked_at += tested * 0.8 * 3 * 2 * (1536 * 151_936 + 3584 * 152_064)
    assert time.evaluation_flops == pytest.approx(looked_at, rel=1e-3)
    hours = (operations + looked_at) / (8 * 0.4 * 312e12) / 3600
    # 10.62 bytes a token and word, at four fifths of 2.039 TB/s; each tested token three times.
    passes = (trained + 3 * 0.8 * tested) * 151_936 * 10.62 / (8 * 0.8 * 2.039e12) / 3600
    assert time.loss_hours == pytest.approx(passes, rel=1e-3)
    assert time.hours == pytest.approx(hours + passes, rel=1e-3)


def test_a_policy_gradient_beside_sft_takes_what_it_takes_beside_a_divergence():
    """Its teacher and its loss do the same at alpha 0, where its other rows are plain SFT."""
    words = ("qwen2.5/minillm", "--prefixes", "dataset", "--student_share", "0.5", "--alpha")
    alone, beside = planned(*words, "0"), planned(*words, "1")
    assert plan_time(alone) == plan_time(beside)
    assert plan_memory(alone) == plan_memory(beside)


def test_a_teacher_whose_answers_are_stored_is_in_memory_for_a_divergence_alone():
    teacher = ("--teacher_model_name_or_path", "Qwen/Qwen2.5-7B-Instruct")
    words = ("--answers", "x", "--eval_strategy", "no", *teacher)
    assert planned("qwen2.5/seqkd", *words).teacher is None
    assert planned("qwen2.5/seq_fkl", *words).teacher is not None
    gradient = ("--policy_gradient", "true", "--divergence", "reverse_kl", "--alpha", "0")
    mixed = planned("qwen2.5/seqkd", *words, *gradient, "--student_share", "0.5")
    assert mixed.teacher is not None


def test_the_loss_s_bytes_are_those_that_were_counted():
    counted = json.loads((RESULTS / "traffic.json").read_text("utf-8"))
    others = counted["other_bytes_per_cell"]
    for name, planned_bytes in BYTES_PER_CELL.items():
        assert planned_bytes == counted["bytes_per_cell"][name], name
    assert (others["sft"], others["topk_64"]) == (SFT_BYTES, STORED_BYTES)


def test_cards_reach_what_traffic_assumes_of_them():
    """Its roofline takes what a card really reaches, of the peaks that are stated here."""
    cards = json.loads((RESULTS / "traffic.json").read_text("utf-8"))["settings"]["cards"]
    for name, reached in cards.items():
        card = CARDS[f"{name}-80gb"]
        assert reached["bandwidth"] == pytest.approx(0.8e12 * card.bandwidth_tb, rel=0.02)
        assert reached["flops"] == pytest.approx(0.7e12 * card.tflops, rel=0.01)


GPU = json.loads((RESULTS / "gpu.json").read_text("utf-8"))


def test_written_answers_take_their_time():
    """On-policy: 512 tokens at each of 313 steps, through 28 layers at 1 ms each."""
    words = ("--gpus", "8", "--zero_stage", "3")
    on_policy = plan_time(planned("qwen2.5/seq_rkl", *words))
    assert on_policy.writing_hours == pytest.approx(313 * 512 * 28 * 1e-3 / 3600)
    mixed = plan_time(planned("qwen2.5/minillm", *words))  # both models at each token
    assert mixed.writing_hours == pytest.approx(2 * on_policy.writing_hours)
    assert plan_time(planned("qwen2.5/seqkd", *words)).writing_hours == 0


@pytest.mark.parametrize(("updates", "rollouts"), [(1, 2500), (4, 625), (3, 834)])
def test_steps_that_share_a_rollout_wait_for_it_once(updates, rollouts):
    job = planned("qwen2.5/minillm", "--updates_per_rollout", str(updates), "--save_steps", "12")
    assert job.steps == 2500
    assert plan_time(job).writing_hours == pytest.approx(rollouts * 512 * 2 * 28e-3 / 3600)
    config = copy(job.config)
    config.policy_gradient = False  # where every step writes its own
    assert plan_time(job._replace(config=config)).writing_hours == pytest.approx(
        2500 * 512 * 28e-3 / 3600
    )


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("epochs", [0.5, 1, 2.5, 3])
@pytest.mark.parametrize(
    ("conversations", "rows", "accumulation", "gpus"),
    [(100, 32, 1, 1), (100, 8, 4, 1), (100, 4, 2, 4), (100, 3, 5, 8), (97, 7, 3, 2), (9, 4, 2, 2)],
)
def test_steps_are_those_that_transformers_counts(
    conversations, rows, accumulation, gpus, epochs, drop_last
):
    options = {
        "per_device_train_batch_size": rows, "gradient_accumulation_steps": accumulation,
        "num_train_epochs": epochs, "dataloader_drop_last": drop_last, "gpus": gpus,
        "num_conversations": conversations,
    }  # fmt: skip
    job = planned("qwen2.5/sft", *(str(of) for key in options for of in (f"--{key}", options[key])))
    loader = DataLoader(range(conversations), rows, drop_last=drop_last)
    loader = prepare_data_loader(loader, num_processes=gpus, process_index=0)
    trainer = Mock(get_sp_size=lambda: 1, num_examples=len)
    *_, counted = Trainer.set_initial_training_values(trainer, job.config, loader)
    assert job.steps == counted
    batch = rows * accumulation * gpus
    assert job.trained_conversations <= math.ceil(conversations * epochs / batch) * batch


def test_vllm_writes_as_fast_as_memory_is_read():
    """512 tokens at each of 313 steps: 3.1 GB of weights, 8 rows of keys and values, and 2 ms."""
    job = planned("qwen2.5/seq_rkl", "--gpus", "8", "--zero_stage", "2")
    with_vllm = replace_engine(job)
    keys_and_values = 8 * 1200 * 28 * 2 * 256 * 2
    token = (2 * 1_543_714_304 + keys_and_values) / (0.8 * 2.039e12) + 2e-3
    assert plan_time(with_vllm).writing_hours == pytest.approx(313 * 512 * token / 3600)
    assert plan_time(with_vllm).writing_hours < plan_time(job).writing_hours / 5
    assert plan_memory(with_vllm).always["vLLM"] == 0.3 * 80e9


def test_a_compiled_step_waits_for_memory_and_little_else():
    """A float32 weight is read, written in 16 bits, and read again by the product."""
    words = ("--gpus", "8", "--compile_decode", "true")
    keys_and_values = 8 * 1200 * 28 * 2 * 256 * 2
    for stage, bytes_cast in ("0", 6), ("2", 0):  # DeepSpeed holds bfloat16
        job = planned("qwen2.5/seq_rkl", *words, "--zero_stage", stage)
        read = (bytes_cast * 1_543_714_304 + keys_and_values) / (0.8 * 2.039e12)
        read += 2 * 1_543_714_304 / (0.37 * 2.039e12)
        hours = 313 * 512 * (read + 28 * 0.15e-3) / 3600
        assert plan_time(job).writing_hours == pytest.approx(hours)
    assert "compiled, 0.15 ms a layer and token and what it reads" in describe(job)


@pytest.mark.parametrize(
    ("case", "weights", "bytes_cast", "keys"),
    [
        ("1.5B, float32 under autocast", 1_543_714_304, 6, 256),
        ("1.5B, bfloat16", 1_543_714_304, 0, 256),
        ("7B, bfloat16", 7_615_616_512, 0, 512),
    ],
)
def test_a_compiled_step_takes_what_an_h200_took(case, weights, bytes_cast, keys):
    figures = {figure["name"]: figure["value"] for figure in GPU["compiled_decode"]["figures"]}
    cached = 64 * (100 + 64 / 2) * 28 * 2 * keys * 2
    read = (bytes_cast * weights + cached) / (0.8 * 4.8e12) + 2 * weights / (0.37 * 4.8e12)
    assert figures[f"{case}, 64 rows"] == pytest.approx(0.15 + read * 1e3 / 28, rel=0.03)


def replace_engine(job):
    """The same run with vLLM; its option is another's to add."""
    config = copy(job.config)
    config.rollout_engine = "vllm"
    return job._replace(config=config)


def test_a_price_is_the_user_s():
    words = ("--gpu", "h100-80gb", "--gpus", "8", "--zero_stage", "2")
    job = planned("qwen2.5/token_fkl", *words, "--price_per_hour", "2.5")
    price = plan_time(job).hours * 8 * 2.5
    assert f"price       {price:9.2f} at 2.5 for an hour of a GPU" in describe(job)
    assert "price" not in describe(planned("qwen2.5/token_fkl", *words))


def test_a_card_brings_its_numbers_and_an_option_replaces_one():
    plan = planned("qwen2.5/sft", "--gpu", "rtx4090").plan
    assert (plan.gpu_memory_gb, plan.gpu_tflops, plan.gpu_bandwidth_tb) == CARDS["rtx4090"]
    assert planned("qwen2.5/sft", "--gpu", "l4", "--gpu_tflops", "100").plan.gpu_tflops == 100


# ---- what would fit


@pytest.mark.parametrize(
    "words",
    [
        ["qwen2.5/ultra_7b"],
        ["qwen2.5/token_fkl", "--gpu_memory_gb", "40"],
        ["qwen2.5/token_fkl", "--gpu_memory_gb", "24"],
        ["qwen2.5/token_fkl", "--gpu_memory_gb", "16", "--gpus", "2"],
        ["qwen2.5/minillm", "--gpu_memory_gb", "40"],
    ],
    ids=" ".join,
)
def test_what_would_fit_does_and_less_would_not(words):
    job = planned(*words)
    assert not fits(job)
    found = what_would_fit(job)
    assert found
    for fit in found:
        asked = planned(*words, *fit.options.split())  # as a person types it
        assert plan_memory(asked).peak == fit.peak <= 0.9e9 * job.plan.gpu_memory_gb
        assert plan_time(asked).hours == fit.hours
        batch = asked.rows_per_step * asked.plan.gpus
        assert batch == fit.new_batch or batch == job.rows_per_step * job.plan.gpus
        assert fit.new_batch is not None or plan_time(asked).steps == plan_time(job).steps
        for left_out in fit.changes:
            fewer = tuple(change for change in fit.changes if change is not left_out)
            assert not fits(changed(job, fewer))


@pytest.mark.parametrize(
    ("gpus", "rows", "steps", "of_each"),
    [
        (1, 2, 4, (1, 1)),
        (1, 1, 8, (1, 1)),
        (1, 2, 32, (2, 4)),
        (2, 2, 32, (2, 8)),
        (3, 4, 4, (3, 2)),  # 48 conversations: 6 of each GPU, of which it takes 3
        (1, 3, 1, (3, 1)),  # three conversations have no eighth part
    ],
)
def test_eight_gpus_share_the_conversations_of_a_step(gpus, rows, steps, of_each):
    words = ("--per_device_train_batch_size", str(rows), "--gradient_accumulation_steps")
    job = planned("qwen2.5/ultra_7b", *words, str(steps), "--gpus", str(gpus))
    config = changed(job, (Change("gpus", "8 GPUs, ZeRO-2", {"gpus": 8, "zero_stage": 2}),)).config
    assert (config.per_device_train_batch_size, config.gradient_accumulation_steps) == of_each


def test_a_batch_that_the_gpus_cannot_share_is_named():
    words = ("--per_device_train_batch_size", "3", "--gradient_accumulation_steps", "1")
    fitting = {fit.new_batch: fit for fit in what_would_fit(planned("qwen2.5/ultra_7b", *words))}
    assert fitting[24].what == "8 GPUs, ZeRO-3, a batch of 24"
    assert fitting[24].options == "--gpus 8 --zero_stage 3"


def test_the_lines_of_an_advice_break_before_an_option():
    told = describe(planned("qwen2.5/token_fkl", "--gpu_memory_gb", "24")).splitlines()
    assert max(map(len, told)) <= 100
    options = [line.split() for line in told if line.startswith(" " * 27)]
    assert any(len(words) > 4 for words in options)
    assert all(word.startswith("--") for words in options for word in words[::2])


def test_a_teacher_that_answers_anew_cannot_be_stored():
    for recipe in ("seq_rkl", "minillm", "gkd", "seq_fkl"):
        kinds = [change.kind for change in changes(planned(f"qwen2.5/{recipe}"))]
        assert "teacher" not in kinds
    assert "teacher" in [change.kind for change in changes(planned("qwen2.5/token_fkl"))]


def test_nothing_is_advised_where_nothing_has_to_be():
    assert fits(planned("qwen2.5/token_fkl"))
    assert "would fit" not in describe(planned("qwen2.5/token_fkl"))


def test_what_no_change_helps_says_how_large_a_gpu_must_be():
    told = describe(planned("qwen2.5/ultra_7b", "--gpu_memory_gb", "2.1"))
    assert "nothing tried here fits" in told
    assert "a GPU of 193 GB or more" in told


# ---- the command


def test_the_command_says_what_it_is(capsys):
    assert main(["plan", "--config", "qwen2.5/token_fkl"]) == 0
    told = capsys.readouterr().out
    assert "student of 1,543.7 million parameters, teacher of 7,615.6 million" in told
    assert "not measured on a GPU" in told
    assert "fits in 80" in told
    assert main(["plan", "--config", "qwen2.5/ultra_7b"]) == 0
    told = capsys.readouterr().out
    assert "does not fit in 80" in told
    assert "  LoRA of rank 16\n" in told
    assert "  --gpus 8 --zero_stage 2 --per_device_train_batch_size 1\n" in told
    assert max(map(len, told.splitlines())) <= 100


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model_name_or_path", "some/model"], "the size of some/model is not known"),
        (["--zero_stage", "4"], "zero_stage must be 0, 1, 2 or 3, not 4"),
        (["--utilisation", "1.5"], "utilisation must lie in (0, 1], not 1.5"),
        (["--gpus", "0"], "gpus must be positive, not 0"),
        (["--gpu", "v100"], "gpu must be one of h200-141gb, h100-80gb, a100-80gb, a100-40gb"),
        (["--price_per_hour", "-1"], "price_per_hour must be positive, not -1"),
        (["--use_peft", "true", "--lora_target_modules", "c_attn"], "lora_target_modules: plan"),
    ],
)
def test_what_cannot_be_planned_is_one_line(words, said, capsys):
    assert main(["plan", "--config", "qwen2.5/token_fkl", *words]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith(f"kd-lab: error: {said}")
