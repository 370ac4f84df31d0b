"""The weights of a model in training, as its checkpoint has them: plain, tied, with LoRA."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model

from kd_lab.rollout.whole_weights import whole_weights
from tests.helpers.toy_pair import toy_model


def with_lora(**settings):
    torch.manual_seed(3)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, init_lora_weights=False, **settings)
    return get_peft_model(toy_model(layers=2), config)


@pytest.mark.parametrize("tied", [False, True])
def test_a_plain_model_gives_each_weight_once(tied):
    model = toy_model(layers=2, tie_word_embeddings=tied)
    found = dict(whole_weights(model))
    expected = dict(model.named_parameters())
    assert found.keys() == expected.keys()
    assert ("lm_head.weight" in found) == (not tied)
    assert all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"target_modules": "all-linear", "use_rslora": True},
        {"modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
    ],
)
def test_lora_is_merged_and_the_model_stays_as_it_is(settings):
    model = with_lora(**settings)
    if "modules_to_save" in settings:
        with torch.no_grad():
            model.base_model.model.lm_head.modules_to_save.default.weight += 1
    before = copy.deepcopy(model.state_dict())
    found = dict(whole_weights(model))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    merged = dict(model.merge_and_unload().named_parameters())
    assert found.keys() == merged.keys()
    plain = dict(toy_model(layers=2).named_parameters())
    assert any(not torch.equal(found[name], plain[name]) for name in found)
    for name in found:
        torch.testing.assert_close(found[name], merged[name], rtol=1e-6, atol=1e-6)


def test_an_adapter_that_is_no_plain_lora_is_refused():
    with pytest.raises(ValueError, match="takes plain LoRA weights"):
        dict(whole_weights(with_lora(use_dora=True)))
