import pytest
import torch

from book.cheat_sheet import ESTIMATORS, ROWS, page
from kd_lab.divergences import DIVERGENCES

WORDS = 12


def distributions(seed):
    logits = torch.randn(2, WORDS, generator=torch.manual_seed(seed), dtype=torch.float64) * 2
    return logits[0].log_softmax(-1), logits[1].requires_grad_()


def test_every_divergence_has_a_row():
    assert ROWS.keys() == DIVERGENCES.keys()


@pytest.mark.parametrize("name", ROWS)
def test_the_gradient_on_the_sheet_is_that_of_the_divergence(name):
    for seed in range(5):
        teacher_logp, z = distributions(seed)
        (expected,) = torch.autograd.grad(DIVERGENCES[name](teacher_logp, z.log_softmax(-1)), z)
        found = ROWS[name].gradient_at(teacher_logp.exp(), z.detach().softmax(-1))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_the_estimators_mean_what_the_sheet_says():
    teacher_logp, z = distributions(0)
    student_logp = z.log_softmax(-1)
    q = student_logp.detach().exp()
    r = teacher_logp - student_logp
    forms = {"k1": -r, "k2": r**2 / 2, "k3": r.exp() - 1 - r}
    assert [name for name, *_ in ESTIMATORS] == list(forms)
    kl = {name: DIVERGENCES[name](teacher_logp, student_logp) for name in list(DIVERGENCES)[:2]}
    gradients = {
        name: torch.autograd.grad(value, z, retain_graph=True)[0] for name, value in kl.items()
    }
    mean_gradient = {
        name: torch.autograd.grad((q * value).sum(), z, retain_graph=True)[0]
        for name, value in forms.items()
    }
    for name in ("k1", "k3"):
        torch.testing.assert_close((q * forms[name]).sum(), kl["reverse_kl"])
    torch.testing.assert_close(mean_gradient["k1"], torch.zeros_like(z))
    torch.testing.assert_close(mean_gradient["k2"], gradients["reverse_kl"])
    torch.testing.assert_close(mean_gradient["k3"], gradients["forward_kl"])


def test_no_bar_of_a_formula_breaks_the_table():
    table = page().split("\n\n")[0].splitlines()
    assert len(table) == len(ROWS) + 2
    assert {line.replace(r"\|", "").count("|") for line in table} == {4}
