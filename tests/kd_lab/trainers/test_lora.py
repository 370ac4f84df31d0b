"""What LoRA has trained is saved whole or refused. First reported: huggingface/peft 298 and 523."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from kd_lab.cli import main
from kd_lab.model_identity import model_identity
from kd_lab.model_loading import lora_base
from kd_lab.models import Model
from kd_lab.runs.evaluations import read_inputs
from kd_lab.student import StudentArguments, check_student, lora_config
from tests.helpers.refusal import SHAPE, refusal
from tests.helpers.toy_pair import TOKENIZER, toy_model

TOKEN_IDS = torch.tensor([[3, 5, 7, 9, 11]])
LORA = ["--use_peft", "true", "--lora_r", "4", "--lora_target_modules", "all-linear"]
QUICK = [
    "--alpha", "0", "--use_cpu", "true", "--disable_tqdm", "true", "--max_steps", "3",
    "--learning_rate", "3e-2", "--num_conversations", "40", "--save_steps", "2",
]  # fmt: skip


@pytest.fixture(scope="module", params=[False, True], ids=["two matrices", "tied"])
def base(request, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("base")
    toy_model(tie_word_embeddings=request.param).save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return str(folder)


def logits_of(folder: Path | str) -> torch.Tensor:
    with torch.no_grad():
        return Model(str(folder)).load()(input_ids=TOKEN_IDS).logits


def test_a_merged_run_is_a_whole_model_with_the_adapters_numbers(base, tmp_path, capsys):
    common = ["train", "--model_name_or_path", base, *LORA, *QUICK, "--eos_token", "<|im_end|>"]
    apart, whole = tmp_path / "apart", tmp_path / "whole"
    assert main([*common, "--output_dir", str(apart)]) == 0
    assert main([*common, "--output_dir", str(whole), "--merge_lora", "true"]) == 0
    for run in (apart, whole):
        assert read_inputs(run)["base"] == model_identity(base)
    torch.testing.assert_close(logits_of(whole), logits_of(apart), rtol=1e-5, atol=1e-5)
    assert (logits_of(whole) - logits_of(base)).abs().max() > 0.1
    names = {path.name for path in whole.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "complete"} <= names
    assert not {name for name in names if "adapter" in name or name == ".lora"}
    plain = AutoModelForCausalLM.from_pretrained(whole)
    assert torch.equal(plain(input_ids=TOKEN_IDS).logits, logits_of(whole))
    assert plain.generation_config.eos_token_id == TOKENIZER.eos_token_id
    assert AutoTokenizer.from_pretrained(whole).get_vocab() == TOKENIZER.get_vocab()
    assert "LoRA of rank 4, merged into the run's final model" in (whole / "README.md").read_text()
    assert "merged" not in (apart / "README.md").read_text()
    # Its checkpoints are those of any LoRA run, and it goes on from them to the same model.
    merged = (whole / "model.safetensors").read_bytes()
    assert main([*common, "--output_dir", str(whole), "--merge_lora", "true",
                 "--resume_from_checkpoint", "true"]) == 0  # fmt: skip
    assert (whole / "model.safetensors").read_bytes() == merged


@pytest.mark.parametrize("module", ["lm_head", "embed_tokens"])
def test_a_head_or_embeddings_beside_lora_are_trained_whole_or_refused(
    module, base, tmp_path, capsys
):
    words = ["--model_name_or_path", base, *LORA, *QUICK, "--lora_modules_to_save", module]
    run = ["--output_dir", str(tmp_path / "run")]
    if toy_is_tied(base):
        assert "one matrix for both" in refusal(capsys, "train", *words, *run)
        return
    assert main(["train", *words, *run]) == 0
    before, after = Model(base).load().state_dict(), Model(str(tmp_path / "run")).load()
    name = "lm_head.weight" if module == "lm_head" else "model.embed_tokens.weight"
    assert not torch.equal(after.state_dict()[name], before[name])
    whole = [*words, "--merge_lora", "true", "--output_dir", str(tmp_path / "whole")]
    assert main(["train", *whole]) == 0
    torch.testing.assert_close(logits_of(tmp_path / "whole"), logits_of(tmp_path / "run"))


def toy_is_tied(folder: str) -> bool:
    return Model(folder).config.tie_word_embeddings


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model_shape", SHAPE, *LORA], "use_peft is true and model_shape is given"),
        (
            ["--model_name_or_path", "no/such", "--keep_every", "2", *LORA],
            "use_peft is true and keep_every is given",
        ),
        (
            ["--model_name_or_path", "no/such", "--merge_lora", "true"],
            "merge_lora is true, and there is no LoRA",
        ),
    ],
)
def test_what_could_not_be_loaded_again_is_refused_before_anything_loads(
    words, said, tmp_path, capsys
):
    line = refusal(capsys, "train", *words, *QUICK, "--output_dir", str(tmp_path / "run"))
    assert said in line


def test_an_adapter_remembers_the_revision_of_its_base(tmp_path):
    student = StudentArguments(
        "owner/name", model_revision="v2", use_peft=True, lora_target_modules="all-linear"
    )
    config = lora_config(student)
    config.base_model_name_or_path = student.model_name_or_path
    config.save_pretrained(tmp_path)
    assert lora_base(str(tmp_path)) == ("owner/name", "v2")


def test_lora_on_the_head_is_refused(base, tmp_path, capsys):
    words = ["--model_name_or_path", base, *QUICK, "--use_peft", "true"]
    words += ["--lora_target_modules", "q_proj", "lm_head"]
    line = refusal(capsys, "train", *words, "--output_dir", str(tmp_path / "run"))
    assert line.startswith(
        "LoRA cannot train the LM head" if not toy_is_tied(base) else "LoRA would"
    )


def test_lora_on_the_head_is_refused_before_any_weights_are_read(tmp_path):
    toy_model(tie_word_embeddings=False).save_pretrained(tmp_path)
    options = StudentArguments(str(tmp_path), use_peft=True, lora_target_modules=["lm_head"])
    with pytest.raises(ValueError, match="LoRA cannot train the LM head"):
        check_student(options, TOKENIZER)
    check_student(replace(options, lora_target_modules=["all-linear"]), TOKENIZER)


def test_a_merged_model_is_not_uploaded_as_an_adapter(base, tmp_path, capsys):
    words = ["--model_name_or_path", base, *QUICK, *LORA, "--merge_lora", "true"]
    words += ["--push_to_hub", "true", "--output_dir", str(tmp_path / "run")]
    assert "push_to_hub uploads no merged model" in refusal(capsys, "train", *words)


def test_training_goes_on_from_lora_weights_with_what_they_have_learnt(base, tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    words = ["train", *QUICK, "--eos_token", "<|im_end|>"]
    assert main([*words, "--model_name_or_path", base, *LORA, "--output_dir", str(first)]) == 0
    again = [*words[1:], "--model_name_or_path", str(first), "--learning_rate", "0"]
    said = refusal(capsys, "train", *again, *LORA, "--output_dir", str(second))
    assert "holds LoRA weights, and new ones would be saved without them" in said
    assert main(["train", *again, "--output_dir", str(second)]) == 0
    torch.testing.assert_close(logits_of(second), logits_of(first), rtol=1e-5, atol=1e-5)
    assert (logits_of(second) - logits_of(base)).abs().max() > 0.1
