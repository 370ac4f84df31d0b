"""Hidden states beside the divergence: their loss, their projection, and what is saved of it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from kd_lab.divergences import forward_kl
from kd_lab.trainers.alignment import FILE, HiddenAlignment, check_aligned_models
from kd_lab.trainers.distil_config import DistilConfig
from kd_lab.trainers.token_distil import TokenDistilTrainer
from tests.helpers.refusal import SHAPE, refusal
from tests.helpers.toy_pair import TOKENIZER, toy_model, toy_rows

VOCABULARY = len(TOKENIZER)


def trainer_of(folder: Path, width: int = 64, double: bool = False, **settings: object):
    words = {
        "output_dir": str(folder), "use_cpu": True, "per_device_train_batch_size": 8,
        "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1, "alpha": 1.0,
        "alignment_weight": 0.5, "train_sampling_strategy": "sequential",
    }  # fmt: skip
    models = toy_model(32, 2, seed=1), toy_model(width, 3, seed=2)
    return TokenDistilTrainer(
        *(model.double() if double else model for model in models),
        DistilConfig(**(words | settings)),
        train_dataset=toy_rows(8), processing_class=TOKENIZER,
    )  # fmt: skip


@pytest.mark.parametrize("layers", [None, {"0": 0, "1": 2, "2": 3}])
@pytest.mark.parametrize("width", [32, 64])
def test_loss_and_gradients_are_those_of_whole_models(layers, width, tmp_path):
    """Row by row without padding, in float64, by autograd; a projection where widths differ."""
    trainer = trainer_of(tmp_path, width, double=True, alignment_layers=layers)
    student, teacher = trainer.model, trainer.teacher.model
    pairs = {2: 3} if layers is None else {int(a): b for a, b in layers.items()}
    assert len(trainer.alignment.projections) == (0 if width == 32 else len(pairs))
    student.train()
    (batch,), count = trainer.get_batch_samples(
        iter(trainer.get_train_dataloader()), 1, torch.device("cpu")
    )
    loss = trainer.compute_loss(student, batch, num_items_in_batch=count)
    loss.backward()
    found = {name: part.grad for name, part in student.named_parameters()}
    student.zero_grad(set_to_none=True)
    expected = torch.zeros((), dtype=torch.float64)
    for row in toy_rows(8):
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])[1:]
        ours, theirs = (model(ids, output_hidden_states=True) for model in (student, teacher))
        q, p = (
            out.logits[0, :-1][labels != -100][:, :VOCABULARY].log_softmax(-1)
            for out in (ours, theirs)
        )
        expected = expected + forward_kl(p.detach(), q).sum() / count
        for of_student, of_teacher in pairs.items():
            h, t = (
                out.hidden_states[layer][0, :-1][labels != -100]
                for out, layer in ((ours, of_student), (theirs, of_teacher))
            )
            if width != 32:
                h = h @ trainer.alignment.projections[str(of_student)].weight.T
            cosine = (h * t.detach()).sum(-1) / h.norm(dim=-1) / t.detach().norm(dim=-1)
            expected = expected + 0.5 * (1 - cosine).sum() / len(pairs) / count
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    for name, part in student.named_parameters():
        torch.testing.assert_close(found[name], part.grad, rtol=1e-7, atol=1e-10)


def test_micro_batches_add_up(tmp_path):
    steps = []
    for batch, accumulate in ((8, 1), (2, 4), (1, 8)):
        trainer = trainer_of(
            tmp_path / str(batch), per_device_train_batch_size=batch, max_steps=1,
            gradient_accumulation_steps=accumulate,
        )  # fmt: skip
        trainer.train()
        steps.append(trainer.state.log_history[0])
    for name in ("loss", "grad_norm", "hidden_distance", "divergence"):
        assert [step[name] for step in steps] == pytest.approx([steps[0][name]] * 3, rel=1e-5)
    assert steps[0]["loss"] == pytest.approx(
        steps[0]["divergence"] + 0.5 * steps[0]["hidden_distance"], rel=1e-5
    )


def test_a_distance_has_no_scale_and_is_zero_where_states_agree():
    alignment = HiddenAlignment({1: 1}, (8, 8), seed=0)
    states = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    assert alignment([states], [1000 * states]).abs().max() < 1e-6
    torch.testing.assert_close(alignment([states], [-states]), torch.full((5,), 2.0))
    assert alignment([states[:0]], [states[:0]]).shape == (0,)


def test_a_projection_trains_and_resumes_to_the_bit_and_is_no_part_of_the_student(tmp_path):
    settings = {
        "max_steps": 4, "save_strategy": "steps", "save_steps": 2, "learning_rate": 1e-2,
        "per_device_train_batch_size": 4,
    }  # fmt: skip
    whole = trainer_of(tmp_path, **settings)
    before = whole.alignment.projections["2"].weight.clone()
    whole.train()
    kept = load_file(tmp_path / "checkpoint-2" / FILE)["projections.2.weight"]
    after = whole.alignment.projections["2"].weight
    assert not torch.equal(before, kept)
    assert not torch.equal(kept, after)
    again = trainer_of(tmp_path, **settings)
    torch.manual_seed(99)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for (name, a), b in zip(whole.model.named_parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b), name
    for folder in (tmp_path / "student", tmp_path / "checkpoint-2"):
        if folder.name == "student":
            whole.save_model(str(folder))
            assert not (folder / FILE).exists()
        assert not [name for name in load_file(folder / "model.safetensors") if "align" in name]
        assert "align" not in json.dumps(json.loads((folder / "config.json").read_text()))
    student = AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    for name, weight in student.named_parameters():
        assert torch.equal(weight, whole.model.get_parameter(name)), name


def test_without_a_weight_nothing_is_asked_or_drawn(tmp_path):
    """The run of weight 0 has the rows and the first divergence of the run beside it."""
    runs = [trainer_of(tmp_path / str(w), alignment_weight=w, max_steps=1) for w in (0.0, 0.5)]
    for trainer in runs:
        trainer.train()
    plain, aligned = (trainer.state.log_history[0] for trainer in runs)
    assert runs[0].alignment is None
    assert "hidden_distance" not in plain
    assert plain["divergence"] == aligned["divergence"]
    assert plain["loss"] < aligned["loss"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alignment_weight": -1.0}, "alignment_weight must be a number, and at least 0, not -1"),
        ({"alignment_layers": {"1": 1}}, "alignment_layers have no effect at alignment_weight 0"),
        ({"alignment_weight": 1.0, "alpha": 0.0}, "goes beside a divergence, and alpha is 0"),
        (
            {"alignment_weight": 1.0, "alignment_layers": {"last": 1}},
            "alignment_layers must map numbers of layers",
        ),
        (
            {"alignment_weight": 1.0, "alignment_layers": "[1]"},
            "alignment_layers must be a mapping",
        ),
    ],
)
def test_settings_that_align_nothing_are_refused(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        DistilConfig(output_dir=str(tmp_path), use_cpu=True, **settings)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({3: 1}, "layer 3 of the student, which has 2"),
        ({1: 4}, "layer 4 of the teacher, which has"),
    ],
)
def test_a_layer_that_a_model_does_not_have_is_refused(layers, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        trainer_of(tmp_path, alignment_layers=layers)


def test_lora_is_refused(tmp_path):
    from peft import LoraConfig

    with pytest.raises(ValueError, match="alignment_weight does not work with use_peft"):
        TokenDistilTrainer(
            toy_model(32, 1, seed=1), toy_model(64, 2, seed=2),
            DistilConfig(output_dir=str(tmp_path), use_cpu=True, alignment_weight=1.0),
            train_dataset=toy_rows(8), processing_class=TOKENIZER,
            peft_config=LoraConfig(r=4, target_modules="all-linear"),
        )  # fmt: skip


def test_a_stored_teacher_is_refused_before_anything_loads(tmp_path, capsys):
    cache = tmp_path / "cache"
    cache.mkdir()
    line = refusal(
        capsys, "train", "--model_shape", SHAPE, "--use_cpu", "true", "--alignment_weight", "1",
        "--output_dir", str(tmp_path / "run"), "--teacher_cache", str(cache),
    )  # fmt: skip
    assert "alignment_weight needs a live teacher's hidden states" in line


@pytest.mark.parametrize(
    ("layers", "keep_every", "message"),
    [({1: 9}, 1, "layer 9 of the teacher"), ({2: 0}, 2, "layer 2 of the student, which has 1")],
)
def test_configurations_are_enough_to_refuse_a_layer(layers, keep_every, message, tmp_path):
    config = DistilConfig(
        str(tmp_path), use_cpu=True, alpha=1, alignment_weight=1, alignment_layers=layers
    )
    model = toy_model(num_hidden_layers=2).config
    with pytest.raises(ValueError, match=message):
        check_aligned_models(config, model, model, keep_every)
