"""ROUGE by hand, variety by hand and by NLTK, and BARTScore against a plain computation."""

import shutil

import numpy as np
import pytest
import torch
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from safetensors.torch import load_file, save_file
from tokenizers import pre_tokenizers
from transformers import BartConfig, BartForConditionalGeneration, BartTokenizer

from kd_lab.data.toy_language import conversations
from kd_lab.evaluation.bartscore import BartScorer, check_bart
from kd_lab.evaluation.overlap import distinct, repetition, rouge, self_bleu
from tests.helpers.toy_pair import toy_model

CAT = "The cat sat on the mat."


@pytest.mark.parametrize(
    ("answer", "reference", "rouge1", "rouge2", "rouge_l"),
    [
        # the, cat, on, mat of 6 and 6 words; "the cat" of 5 and 5 pairs; "the cat on mat" in order
        ("the cat lay on a mat", CAT, 4 / 6, 1 / 5, 4 / 6),
        # all three words, one of two pairs, two in order
        ("sat the cat", "the cat sat", 1, 1 / 2, 2 / 3),
        # precision 1/4 ("the" counts twice at most: 2 of 8), recall 2/6
        ("the " * 8, CAT, 2 * (2 / 8) * (2 / 6) / (2 / 8 + 2 / 6), 0, 2 * 2 / (8 + 6)),
        ("The CAT -- sat, on the mat!", CAT, 1, 1, 1),
        ("a dog", CAT, 0, 0, 0),
        ("", CAT, 0, 0, 0),
        ("cats", "cat", 0, 0, 0),
    ],
)
def test_rouge_by_hand(answer, reference, rouge1, rouge2, rouge_l):
    f1 = rouge([answer], [reference])
    expected = {"rouge1": [rouge1], "rouge2": [rouge2], "rougeL": [rouge_l]}
    assert {kind: pytest.approx(value) for kind, value in f1.items()} == expected


def test_rouge_keeps_the_order_of_the_examples_and_can_stem():
    f1 = rouge(["a dog", CAT, "cats"], [CAT, CAT, "cat"], stemmer=True)
    assert f1["rouge1"].tolist() == [0, 1, 1]
    with pytest.raises(ValueError, match="1 answers, but 2 references"):
        rouge([CAT], [CAT, CAT])


def test_distinct_and_repetition_by_hand():
    # the cat sat on the mat . = 7 words, 6 differ; 6 pairs, all differ
    assert distinct([CAT], 1) == pytest.approx(6 / 7)
    assert distinct([CAT], 2) == 1
    assert distinct([CAT, CAT, "the dog sat"], 1) == pytest.approx(7 / 17)
    assert distinct(["one", ""], 2) == 1
    # ho ho ho ho ho has 2 fours, both the same
    assert repetition("ho ho ho ho ho") == pytest.approx(1 / 2)
    assert repetition("Ho, ho, ho, ho, ho", n=1) == pytest.approx(7 / 9)
    assert repetition("no four words") == 0


def test_self_bleu_is_nltks_bleu_against_all_the_others():
    texts = [talk["messages"][1]["content"] for talk in conversations(40, seed=0)]
    texts += [texts[3], "Yes", "the the the the the", "", "taxi " * 6, texts[5] + " " + texts[6]]
    words = [text.lower().replace(".", " .").replace(",", " ,").split() for text in texts]
    smooth = SmoothingFunction(epsilon=0.1).method1
    expected = [
        sentence_bleu(words[:i] + words[i + 1 :], own, smoothing_function=smooth) if own else 0
        for i, own in enumerate(words)
    ]
    ours = self_bleu(texts)
    assert ours == pytest.approx(expected, abs=1e-12)
    assert ours[3] == pytest.approx(1)
    assert 0.05 < ours[:40].mean() < 0.95
    assert self_bleu(["a b c d e", "f g h i j"]).tolist() == [0, 0]
    with pytest.raises(ValueError, match="at least two"):
        self_bleu(["alone"])


@pytest.fixture(scope="module")
def bart_folder(tmp_path_factory):
    """A BART of two small layers, its tokenizer one token a byte."""
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    vocab = {
        token: i for i, token in enumerate(specials + sorted(pre_tokenizers.ByteLevel.alphabet()))
    }
    tokenizer = BartTokenizer(vocab, [])
    torch.manual_seed(0)
    model = BartForConditionalGeneration(
        BartConfig(
            vocab_size=len(vocab), d_model=16, encoder_layers=2, decoder_layers=2,
            encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32,
            decoder_ffn_dim=32, max_position_embeddings=64, init_std=0.5, dropout=0.3,
            bos_token_id=0, pad_token_id=1, eos_token_id=2, decoder_start_token_id=2,
        )
    )  # fmt: skip
    model.final_logits_bias.normal_(generator=torch.Generator().manual_seed(1))
    folder = tmp_path_factory.mktemp("bart")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def plain_score(scorer, source, target):
    """Mean log p(target token | before, source): one text, one token at a time, in float64."""
    model, tokenizer = scorer.model.double(), scorer.tokenizer
    source = tokenizer(source, return_tensors="pt", truncation=True, max_length=64)["input_ids"]
    target = tokenizer(target, truncation=True, max_length=64)["input_ids"]
    written, total = [model.config.decoder_start_token_id], 0.0
    with torch.no_grad():
        for token in target:
            logits = model(input_ids=source, decoder_input_ids=torch.tensor([written])).logits
            total += torch.log_softmax(logits[0, -1], -1)[token].item()
            written.append(token)
    model.float()
    return total / len(target)


def test_bartscore_is_the_mean_log_likelihood_a_token_both_ways(bart_folder):
    scorer = BartScorer.load(bart_folder, batch_size=3)
    answers = ["A cat.", "", "The dog sat on the mat and would not move.", "x" * 100]
    references = [CAT, "The dog.", "Why not?", "A long story."]
    seen = []
    scores = scorer.score(answers, references, seen.append)
    to_answer = [plain_score(scorer, r, a) for a, r in zip(answers, references, strict=True)]
    to_reference = [plain_score(scorer, a, r) for a, r in zip(answers, references, strict=True)]
    assert scores["bartscore_ref_hyp"] == pytest.approx(to_answer, abs=1e-5)
    assert scores["bartscore_hyp_ref"] == pytest.approx(to_reference, abs=1e-5)
    assert scores["bartscore"] == pytest.approx(np.add(to_answer, to_reference) / 2, abs=1e-5)
    assert sum(seen) == 8
    assert len(scorer.tokenizer("")["input_ids"]) == 2  # so <s> and </s> were scored as well


def test_bartscore_is_the_loss_of_bart_itself(bart_folder):
    """Transformers' own labels-to-decoder shift and loss, as the paper's code uses them."""
    scorer = BartScorer.load(bart_folder)
    source = scorer.tokenizer(CAT, return_tensors="pt")["input_ids"]
    target = scorer.tokenizer("A cat sat.", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        loss = scorer.model(input_ids=source, labels=target).loss
    assert scorer.log_likelihood([CAT], ["A cat sat."]) == pytest.approx([-loss.item()], abs=1e-5)


def test_without_a_bart_model_there_is_a_reason(tmp_path):
    reason = BartScorer.load("facebook/no-such-bart")
    assert isinstance(reason, str)
    assert "facebook/no-such-bart" in reason
    assert "hf download" in reason
    with pytest.raises(ValueError, match="holds no BART model"):
        BartScorer.load(str(tmp_path))


def test_a_bart_of_another_name_is_asked_for_before_anything_loads():
    check_bart("facebook/bart-large-cnn")  # the default may be missing
    with pytest.raises(ValueError, match=r"bart_model: no folder no/such.*hf download no/such"):
        check_bart("no/such")


def test_another_model_is_no_bart(tmp_path):
    """Its weights would all be random ones, and its score a number that looks like any other."""
    toy_model(32).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"holds no BART model.*of a qwen2 model"):
        BartScorer.load(str(tmp_path))


def test_a_bart_that_lacks_weights_is_refused(bart_folder, tmp_path):
    folder = shutil.copytree(bart_folder, tmp_path / "bart")
    weights = load_file(folder / "model.safetensors")
    lost = next(name for name in weights if "layers.0.fc1.weight" in name)
    del weights[lost]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"holds no BART model: it has no .*fc1.weight"):
        BartScorer.load(str(folder))
