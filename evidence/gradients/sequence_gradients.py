"""How well samples estimate the gradient of sequence-level reverse KL, on the toy study.

    kd-lab demo
    python -m evidence sequence_gradients runs/demo

It reads the teacher and two students of the toy study: after SFT, where distillation would begin,
and after on-policy distillation. On a few test questions it follows the student's answers as a tree
(answer_tree.py) and compares estimators with the exact gradient (gradient_estimators.py). Over many
questions it compares both distributions on prefixes of the dataset, the teacher and the student
(exposure.py).
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike

from evidence.gradients.answer_tree import AnswerTree
from evidence.gradients.exposure import exposure_figures
from evidence.gradients.gradient_estimators import (
    ESTIMATORS,
    TEACHER_MIX,
    Quality,
    exact_gradient,
    expected_gradients,
    measure_estimators,
)
from evidence.gradients.toy_pair import LONGEST, MIN_MASS, Pair, load_pair
from kd_lab.evaluation.intervals import t_interval
from kd_lab.runs.versions import run_versions

SEEDS = (1, 2, 3)
QUESTIONS = 4  # of each student, for gradients
EXPOSED = 1000  # questions of each student, for prefixes
LENGTHS = (1, 2, 3, 4, 6, LONGEST)
MASSES = (1e-2, MIN_MASS, 1e-4)
AVERAGED = (1, 4, 16, 64)
SAMPLES = 256
UNBIASED = 1e-4  # float32 leaves less than this of a bias that is 0
GRADIENTS_OF = ("sft", "seq_rkl")
# token_rkl is the control: it has the divergence of seq_rkl and the prefixes of token_fkl.
EXPOSURE_OF = ("sft", "token_fkl", "token_rkl", "seq_rkl", "minillm")

Figure = dict[str, Any]  # mean, low, high, n; of exposure an ``Interval``


class Asked(NamedTuple):
    """One student, one question."""

    pair: Pair
    question: int


def measure(runs: Path) -> dict[str, Any]:
    """All numbers, for the students of the toy study.

    Raises:
        ValueError: a model is missing.
    """
    torch.set_num_threads(1)  # models this small are fastest on one thread
    return sequence_gradients(runs, SEEDS, QUESTIONS, EXPOSED)


def sequence_gradients(
    study: Path, seeds: Sequence[int], questions: int, exposed: int
) -> dict[str, Any]:
    """All numbers, from the folder of a toy study (``kd-lab demo``).

    Args:
        seeds: the seeds of the students.
        questions: how many questions each student's gradients use; no two students share one.
        exposed: how many questions each student's comparison of prefixes uses.
    Returns:
        ``settings``, and by method ``enumeration``, ``by_length``, ``estimators`` and ``exposure``.
    Raises:
        ValueError: a model is missing.
    """
    found: dict[str, Any] = {"enumeration": {}, "by_length": {}, "estimators": {}, "exposure": {}}
    teacher = study / "teacher"
    for method in GRADIENTS_OF:
        pairs = [load_pair(study / f"{method}-{s}", teacher, questions, seed=s) for s in seeds]
        asked = [Asked(pair, question) for pair in pairs for question in range(questions)]
        found["enumeration"][method] = enumeration_figures(asked)
        found["by_length"][method] = {str(words): _of_length(asked, words) for words in LENGTHS}
        measured = [
            measure_estimators(
                pair.student, pair.tree(question), samples=SAMPLES, averaged=AVERAGED, seed=number
            )
            for number, (pair, question) in enumerate(asked)
        ]
        found["estimators"][method] = estimator_figures(measured)
    for method in EXPOSURE_OF:
        found["exposure"][method] = exposure_figures(
            [load_pair(study / f"{method}-{s}", teacher, exposed, seed=s) for s in seeds]
        )
    settings = {
        "seeds": list(seeds), "questions": questions, "exposed": exposed, "samples": SAMPLES,
        "longest": LONGEST, "min_mass": MIN_MASS, "teacher_mix": TEACHER_MIX,
        "vocabulary": pairs[0].vocab_size, "parameters": pairs[0].student.num_parameters(),
        "log10_answers": LONGEST * math.log10(pairs[0].vocab_size),
    }  # fmt: skip
    return {"settings": settings, **found, "versions": run_versions(settings)}


def estimator_figures(of_questions: Sequence[Mapping[str, Quality]]) -> dict[str, dict[str, Any]]:
    """Every estimator's mean figures, with 95% t-intervals over questions.

    Means of variances and of ``break_even`` are geometric.

    Returns:
        name -> a dict:
        - ``label``, ``bias``, ``cosine_of_mean``, ``variance``.
        - ``variance_ratio``: the variance over that of "single_step" on the same question.
        - ``error``, ``cosine``: by the number of answers averaged.
        - ``break_even``, for biased ones: from so many answers on "single_step" is nearer.
    """
    found = {}
    for name, estimator in ESTIMATORS.items():
        own = [each[name] for each in of_questions]
        base = [each["single_step"] for each in of_questions]
        found[name] = {
            "label": estimator.label,
            "bias": _figure([quality.bias for quality in own]),
            "cosine_of_mean": _figure([quality.cosine_of_mean for quality in own]),
            "variance": _geometric([quality.variance for quality in own]),
            "variance_ratio": _geometric(
                [a.variance / b.variance for a, b in zip(own, base, strict=True)]
            ),
            **{
                of_means: {
                    str(n): _figure([getattr(quality, of_means)[n] for quality in own])
                    for n in own[0].error
                }
                for of_means in ("error", "cosine")
            },
        }
        if min(quality.bias for quality in own) > UNBIASED:
            found[name]["break_even"] = _geometric(
                [
                    max((b.variance - a.variance) / a.bias**2, 1)
                    for a, b in zip(own, base, strict=True)
                ]
            )
    return found


def enumeration_figures(asked: Sequence[Asked]) -> dict[str, Any]:
    """How large trees are, how much mass they cut, and how far one sampled answer is off.

    Returns:
        min_mass -> ``nodes``, ``mass_cut``, ``kl`` (nats). ``one_answer`` has the standard
        deviations, over the KL at ``MIN_MASS``, of two estimates from one answer y:
        ``log_ratio``, log q(y) - log p(y), and ``rao_blackwell``, the token-level KLs along y.
    """
    found: dict[str, Any] = {}
    for min_mass in MASSES:
        with torch.no_grad():
            trees = [pair.tree(question, min_mass=min_mass) for pair, question in asked]
        end = asked[0].pair.tokenizer.eos_token_id
        found[f"{min_mass:g}"] = {
            "nodes": _figure([len(tree.depth) for tree in trees]),
            "mass_cut": _figure([tree.mass_cut(end) for tree in trees]),
            "kl": _figure([tree.kl_by_depth().sum().item() for tree in trees]),
        }
        if min_mass == MIN_MASS:
            spreads = [one_answers_spread(tree, 10_000, seed) for seed, tree in enumerate(trees)]
            found["one_answer"] = {
                name: _figure([spread[name] for spread in spreads]) for name in spreads[0]
            }
    return found


def one_answers_spread(tree: AnswerTree, samples: int, seed: int) -> dict[str, float]:
    """The standard deviations in ``enumeration_figures``, from sampled answers."""
    paths, kl = tree.sample(samples, 0.0, seed), tree.kl_by_depth().sum().item()
    student, teacher = (
        logp.detach()[paths.nodes, paths.words] * paths.mask
        for logp in (tree.student_logp, tree.teacher_logp)
    )
    token_kls = tree.node_kl().detach()[paths.nodes] * paths.mask
    return {
        "log_ratio": float((student - teacher).sum(1).std() / kl),
        "rao_blackwell": float(token_kls.sum(1).std() / kl),
    }


def _of_length(asked: Sequence[Asked], longest: int) -> dict[str, Figure]:
    """How far the single step is from the gradient, for answers of ``longest`` words."""
    bias, cosine, kl = [], [], []
    for pair, question in asked:
        tree = pair.tree(question, longest=longest)
        exact = exact_gradient(pair.student, tree)
        alone = expected_gradients(pair.student, tree, ["on_policy"])["on_policy"]
        bias.append(((alone - exact).norm() / exact.norm()).item())
        cosine.append(torch.nn.functional.cosine_similarity(alone, exact, dim=0).item())
        kl.append(tree.kl_by_depth().sum().item())
    return {"kl": _figure(kl), "bias": _figure(bias), "cosine": _figure(cosine)}


def _figure(values: ArrayLike) -> Figure:
    x = np.asarray(values, float)
    low, high = t_interval(x)  # the questions are twelve: too few for a bootstrap
    return {"mean": float(x.mean()), "low": float(low), "high": float(high), "n": len(x)}


def _geometric(values: ArrayLike) -> Figure:
    of_logarithms = _figure(np.log(np.asarray(values, float)))
    return {
        name: value if name == "n" else math.exp(value) for name, value in of_logarithms.items()
    }
