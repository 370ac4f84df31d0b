"""Two processes with a sharded head give the loss and gradients of one process with a whole one."""

import contextlib
import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from kd_lab.divergences import forward_kl
from kd_lab.loss.sharded_head import call_with_head, gathered_head
from tests.helpers.forked_processes import two_processes
from tests.helpers.sharded_head_worker import TOKENS, VOCAB, WIDTH, write_loss_and_gradients


def in_one_process() -> tuple[float, dict[str, torch.Tensor]]:
    """The same numbers with dense logits and plain autograd, from the same seed."""
    torch.manual_seed(0)
    teacher_head = nn.Linear(2 * WIDTH, VOCAB, bias=False)
    model = nn.ModuleDict(
        {"backbone": nn.Linear(WIDTH, WIDTH), "lm_head": nn.Linear(WIDTH, VOCAB, bias=False)}
    )
    inputs, teacher_hidden = torch.randn(TOKENS, WIDTH), torch.randn(TOKENS, 2 * WIDTH)
    labels = torch.randint(0, VOCAB, (TOKENS,))
    logits = model["lm_head"](torch.tanh(model["backbone"](inputs)))
    divergence = forward_kl(
        teacher_head(teacher_hidden).detach().log_softmax(-1), logits.log_softmax(-1)
    )
    loss = 0.5 * divergence.mean() + 0.5 * F.cross_entropy(logits, labels)
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["zero3", "fsdp2"])
def test_two_processes_with_a_sharded_head(how, tmp_path):
    path, logs = tmp_path / "result.json", tmp_path / "logs"
    # Gloo can abort a process that leaves while its peer still talks; the result stands by then.
    with contextlib.suppress(ChildFailedError):
        two_processes(write_loss_and_gradients, how, path, logs=logs)
    assert path.exists(), [file.read_text() for file in logs.rglob("stderr.log")]
    result = json.loads(path.read_text())
    loss, gradients = in_one_process()
    assert result["loss"] == pytest.approx(loss, rel=1e-5)
    assert result["gradients"].keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            torch.tensor(result["gradients"][name]), gradient, rtol=1e-5, atol=1e-7
        )


def test_a_whole_head_is_used_as_it_is():
    head = nn.Linear(3, 5)
    hidden = torch.randn(2, 3)
    with gathered_head(head) as (weight, bias):
        assert weight.data_ptr() == head.weight.data_ptr()
        assert bias.data_ptr() == head.bias.data_ptr()
    seen = call_with_head(head, lambda *inputs: tuple(inputs), hidden)
    assert seen[1] is head.weight
    torch.testing.assert_close(head(hidden), F.linear(hidden, head.weight, head.bias))


def test_a_replaced_forward_is_put_back():
    head = nn.Linear(3, 5)
    head.forward = lambda hidden: hidden + 1
    call_with_head(head, lambda hidden, weight, bias: hidden, torch.zeros(2, 3))
    assert torch.equal(head(torch.zeros(2, 3)), torch.ones(2, 3))
