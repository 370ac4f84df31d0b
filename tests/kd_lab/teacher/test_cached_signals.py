"""What is cached of a teacher gives the loss and the gradients that the teacher itself gives."""

import pytest
import torch
from transformers import AutoModelForCausalLM, PhiConfig, PhiForCausalLM

from kd_lab.data.conversations import load_conversations
from kd_lab.data.examples import training_examples
from kd_lab.loss import (
    fused_linear_distillation_loss,
    fused_linear_topk_distillation_loss,
)
from kd_lab.teacher.stored import StoredTeacher
from tests.helpers.cache_problem import DATA, HEAD_ROWS, WIDTH, cached


class Live:
    """The teacher itself at the trained positions of some rows, one by one, and a student."""

    def __init__(self, teacher, tokenizer, which, dtype=torch.float32):
        model = AutoModelForCausalLM.from_pretrained(teacher, dtype=dtype).eval()
        rows = training_examples(load_conversations(DATA)["train"], tokenizer).rows
        hidden, labels = [], []
        for row in which:
            ids, targets = (torch.tensor(rows[row][name]) for name in ("input_ids", "labels"))
            with torch.no_grad():
                states = model.model(input_ids=ids[None]).last_hidden_state[0]
            trained = targets[1:] != -100
            hidden.append(states[:-1][trained])
            labels.append(targets[1:][trained])
        self.hidden, self.labels = torch.cat(hidden), torch.cat(labels)
        self.head, self.vocab_size = model.lm_head.weight.detach(), len(tokenizer)
        torch.manual_seed(1)
        self.student_hidden = torch.randn(len(self.labels), 32)
        self.student_head = torch.randn(HEAD_ROWS, 32) / 4

    def loss(self, teacher_hidden, teacher_head, **settings):
        return self._with_gradients(
            fused_linear_distillation_loss, teacher_hidden, teacher_head, **settings
        )

    def topk_loss(self, signal, **settings):
        return self._with_gradients(
            fused_linear_topk_distillation_loss,
            signal["topk_logp"],
            signal["topk_tokens"],
            **settings,
        )

    def _with_gradients(self, loss, *teacher, **settings):
        student = [t.clone().requires_grad_() for t in (self.student_hidden, self.student_head)]
        settings = {"alpha": 1.0, "vocab_size": self.vocab_size} | settings
        result = loss(*student, *teacher, self.labels, **settings)
        result.loss.backward()
        return result.loss.item(), *(tensor.grad for tensor in student)


WHICH = [17, 3, 29, 8, 9]


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jensen_shannon"])
def test_hidden_states_are_the_live_teacher(teacher, tokenizer, hidden_cache, divergence):
    stored, live = StoredTeacher(hidden_cache), Live(teacher, tokenizer, WHICH)
    hidden, (head, bias) = stored.signal(WHICH)["hidden"], stored.head()
    assert hidden.dtype == torch.bfloat16
    assert bias is None
    assert torch.equal(head, live.head[: len(tokenizer)])
    settings = {"divergence": divergence, "temperature": 2.0}
    loss, *gradients = live.loss(hidden, head, **settings)
    expected, *expected_gradients = live.loss(live.hidden, live.head, **settings)
    assert loss == pytest.approx(expected, rel=2e-3)
    for found, wanted in zip(gradients, expected_gradients, strict=True):
        assert (found - wanted).norm() < 2e-2 * wanted.norm()


def test_hidden_states_in_bfloat16_are_kept_to_the_bit(teacher, tokenizer, tmp_path):
    live = Live(teacher, tokenizer, WHICH, dtype=torch.bfloat16)
    stored = cached(teacher, tmp_path, teacher_dtype="bfloat16", tokens_per_batch=1)
    found = live.loss(stored.signal(WHICH)["hidden"], stored.head()[0])
    expected = live.loss(live.hidden, live.head)
    assert live.head.dtype == torch.bfloat16
    assert found[0] == expected[0]
    assert all(map(torch.equal, found[1:], expected[1:]))


def test_all_of_the_vocabulary_stored_is_the_live_teacher(teacher, tokenizer, tmp_path):
    live = Live(teacher, tokenizer, WHICH)
    stored = cached(
        teacher, tmp_path, teacher_signal="topk", topk=len(tokenizer), distil_temperature=2.0
    )
    signal = stored.signal(WHICH)
    assert (signal["topk_tail"] == -torch.inf).all()
    loss, *gradients = live.topk_loss(signal, temperature=2.0)
    expected, *expected_gradients = live.loss(live.hidden, live.head, temperature=2.0)
    assert loss == pytest.approx(expected, rel=1e-3)
    for found, wanted in zip(gradients, expected_gradients, strict=True):
        assert (found - wanted).norm() < 2e-3 * wanted.norm()


def test_top_k_is_a_distribution_of_its_own_and_a_lower_bound(teacher, tokenizer, tmp_path):
    live = Live(teacher, tokenizer, WHICH)
    stored = cached(teacher, tmp_path, teacher_signal="topk", topk=5)
    signal = stored.signal(WHICH)
    logp = (live.hidden @ live.head[: len(tokenizer)].t()).double().log_softmax(-1)
    top, tokens = logp.topk(5)
    assert torch.equal(signal["topk_tokens"], tokens)
    assert signal["topk_tokens"].dtype == torch.int64
    torch.testing.assert_close(signal["topk_logp"].double(), top, rtol=2**-10, atol=2e-3)
    tail = torch.log1p(-top.exp().sum(-1))
    torch.testing.assert_close(signal["topk_tail"].double(), tail, rtol=1e-3, atol=2e-3)
    everything = torch.cat([signal["topk_logp"], signal["topk_tail"][:, None]], -1)
    assert everything.dtype == torch.float32
    assert everything.double().logsumexp(-1).abs().max() < 1e-6
    for divergence in "forward_kl", "reverse_kl":
        low, *_ = live.topk_loss(signal, divergence=divergence)
        high, *_ = live.loss(live.hidden, live.head, divergence=divergence)
        assert 0 < low < high


def test_a_cache_is_a_training_set(teacher, tokenizer, hidden_cache):
    rows = StoredTeacher(hidden_cache).rows()
    expected = training_examples(load_conversations(DATA)["train"], tokenizer).rows
    assert rows["cache_row"] == list(range(30))
    for column in expected.column_names:
        assert rows[column][:] == expected[column][:]
    assert rows.select_columns(expected.column_names).features == expected.features


def test_bytes_per_token_are_those_on_disk(hidden_cache):
    totals = StoredTeacher(hidden_cache).manifest["totals"]
    shards = list(hidden_cache.glob("shard-*.safetensors"))
    assert len(shards) == 4
    assert totals["bytes"] == sum(path.stat().st_size for path in shards)
    assert totals["bytes_per_token"] == pytest.approx(totals["bytes"] / totals["tokens"], abs=0.01)
    assert totals["bytes_per_token"] > 2 * WIDTH


def test_the_test_split(teacher, tokenizer, tmp_path):
    rows = cached(teacher, tmp_path, split="test").rows()
    expected = training_examples(load_conversations(DATA)["test"], tokenizer).rows
    assert rows["input_ids"][:] == expected["input_ids"][:]


def test_a_head_with_a_bias(tokenizer, tmp_path):
    torch.manual_seed(0)
    config = PhiConfig(vocab_size=HEAD_ROWS, hidden_size=16, intermediate_size=16,
                       num_hidden_layers=1, num_attention_heads=2)  # fmt: skip
    model = PhiForCausalLM(config)
    torch.nn.init.normal_(model.lm_head.bias)
    model.save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    _, bias = cached(tmp_path / "teacher", tmp_path / "hidden").head()
    assert torch.equal(bias, model.lm_head.bias[: len(tokenizer)])
    stored = cached(tmp_path / "teacher", tmp_path / "topk", teacher_signal="topk", topk=3)
    rows, signal = stored.rows(), stored.signal([4])
    with torch.no_grad():
        logits = model.eval()(torch.tensor(rows["input_ids"][4])[None]).logits[0, :-1]
    trained = torch.tensor(rows["labels"][4])[1:] != -100
    logp = logits[trained][:, : len(tokenizer)].log_softmax(-1)
    assert torch.equal(signal["topk_tokens"], logp.topk(3).indices)
    torch.testing.assert_close(signal["topk_logp"], logp.topk(3).values, rtol=1e-3, atol=1e-3)
