"""The map *prefix source × divergence*, and where the methods of the literature lie on it.

A method is data: its two coordinates, who proposed it, and the words of ``kd-lab train`` that run
it on the toy language. So the picture, the runs in the notebooks and the tests read one list.
"""

from typing import NamedTuple

PREFIXES = ("dataset", "teacher", "dataset and student", "student")
DIVERGENCES = ("none", "forward KL", "in between", "reverse KL")


class Method(NamedTuple):
    """A point of the map."""

    name: str
    prefixes: str  # one of PREFIXES: who wrote the answers that are learnt from
    divergence: str  # one of DIVERGENCES: the column
    source: str  # who proposed it; "" for a plain combination
    recipe: str  # of tiny/
    options: tuple[str, ...] = ()  # after the recipe


METHODS = (
    Method("SFT", "dataset", "none", "", "sft"),
    Method("token-level FKL", "dataset", "forward KL", "Hinton et al. 2015", "token_fkl"),
    Method("token-level JSD", "dataset", "in between", "", "token_jsd"),
    Method("AKL", "dataset", "in between", "Wu et al. 2024", "token_akl"),
    Method("token-level RKL", "dataset", "reverse KL", "", "token_rkl"),
    Method("SeqKD", "teacher", "none", "Kim and Rush 2016", "seqkd"),
    Method("sequence-level FKL", "teacher", "forward KL", "", "seq_fkl"),
    Method(
        "DistiLLM-2, teacher's half", "teacher", "in between", "Ko et al. 2025", "seq_fkl",
        ("--divergence", "skew_forward_kl", "--divergence_settings", "{alpha: 0.1}"),
    ),
    Method(
        "ImitKD", "dataset and student", "forward KL", "Lin et al. 2020", "gkd",
        ("--divergence", "forward_kl", "--divergence_settings", "{}"),
    ),
    Method("GKD", "dataset and student", "in between", "Agarwal et al. 2023", "gkd"),
    Method("DistiLLM", "dataset and student", "in between", "Ko et al. 2024", "distillm"),
    Method(
        "DistiLLM-2, student's half", "student", "in between", "Ko et al. 2025", "seq_rkl",
        ("--divergence", "skew_reverse_kl", "--divergence_settings", "{alpha: 0.1}"),
    ),
    Method("on-policy distillation", "student", "reverse KL", "Agarwal et al. 2023", "seq_rkl"),
    Method("MiniLLM", "student", "reverse KL", "Gu et al. 2023", "minillm"),
)  # fmt: skip
