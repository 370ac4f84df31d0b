"""From texts and models to metrics: every metric as one value an example, by its name.

    overlap     rouge1, rouge2, rougeL; bartscore, bartscore_ref_hyp, bartscore_hyp_ref
    answers     those of metrics.py with ``of_answers``; self_bleu, answer_tokens, finished
    fidelity    forward_kl, reverse_kl, jensen_shannon, total_variation, top1_agreement, and of
                student_ and teacher_: entropy, nll, calibration_error; over the references' tokens
    sequences   sequence_forward_kl and sequence_reverse_kl, of whole answers; _rao_blackwell, the
                same mean, mostly with less noise; _per_token, divided by the answers' tokens
    toy modes   precision, hallucination (of the answers written); coverage, outside_mass,
                grammar_forward_kl, grammar_reverse_kl_inside (exact, of whole distributions)

A metric that cannot be measured has a reason instead. Each metric is defined in the module that
computes it: metrics.py, overlap.py, bartscore.py, fidelity.py, modes.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kd_lab.evaluation.bartscore import BartScorer
from kd_lab.evaluation.fidelity import TokenFidelity, sequence_kl
from kd_lab.evaluation.intervals import bootstrap_interval
from kd_lab.evaluation.metrics import METRICS
from kd_lab.evaluation.modes import (
    exact_modes,
    grammar_distribution,
    model_distribution,
    sampled_modes,
)
from kd_lab.evaluation.overlap import rouge, self_bleu
from kd_lab.rollout.sampling import Completion

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Floats = NDArray[np.float64]
Advance = Callable[[int], object]

DIGITS = 7  # kept of each example's value: more than float32 has


@dataclass
class Measurements:
    """Metrics by name, each [n], and the weights [n] of those that count by length."""

    metrics: dict[str, Floats] = field(default_factory=dict)
    weighted_by: dict[str, str] = field(default_factory=dict)  # metric -> name of its weights
    weights: dict[str, Floats] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)  # metric -> why it is not there

    def add(self, metrics: dict[str, Floats], weights: str | None = None) -> None:
        """Add metrics, all weighted by the same ``self.weights[weights]``."""
        self.metrics |= metrics
        if weights is not None:
            self.weighted_by |= dict.fromkeys(metrics, weights)

    def to_json(self, seed: int) -> dict[str, Any]:
        """Means and intervals beside every example's value, as JSON values."""
        described = {}
        for name, values in self.metrics.items():
            weights = self.weighted_by.get(name)
            own_weights = None if weights is None else self.weights[weights]
            interval = bootstrap_interval(values, own_weights, seed=seed)
            described[name] = {
                **interval._asdict(),
                "weights": weights,
                "values": _rounded(values),
            }
        return {
            "metrics": described,
            "weights": {name: _rounded(values) for name, values in self.weights.items()},
            "missing": self.missing,
        }


def measure_texts(
    measurements: Measurements,
    texts: Sequence[Sequence[str]],
    references: Sequence[str],
    bart: BartScorer | str,
    advance: Advance,
) -> None:
    """Overlap with the references and variety, from n prompts' k answers each.

    Args:
        bart: a scorer, or the reason why there is none.
        advance: called with the number of texts scored since the last call: n·k for ROUGE, 2·n·k
            for BART in all.
    """
    k = len(texts[0])
    every = [text for of_prompt in texts for text in of_prompt]
    repeated = [reference for reference in references for _ in range(k)]
    scores = rouge(every, repeated, advance=advance)
    if isinstance(bart, str):
        measurements.missing["bartscore"] = bart
    else:
        scores |= bart.score(every, repeated, advance)
    measurements.add({name: _over_answers(values, k) for name, values in scores.items()})
    for metric in METRICS:
        if metric.of_answers is not None:
            values = [metric.of_answers(*pair) for pair in zip(texts, references, strict=True)]
            measurements.add({metric.name: np.array(values)})
    if k > 1:  # the answers to one prompt against each other
        measurements.add(
            {"self_bleu": np.array([self_bleu(of_prompt).mean() for of_prompt in texts])}
        )
    elif len(every) > 1:  # each answer against those to all other prompts
        measurements.add({"self_bleu": self_bleu(every)})


def measure_answers(measurements: Measurements, answers: Sequence[Sequence[Completion]]) -> None:
    """The answers' lengths, end token included, and how many reached their end."""
    tokens = [np.mean([len(answer.tokens) for answer in of_prompt]) for of_prompt in answers]
    finished = [np.mean([answer.finished for answer in of_prompt]) for of_prompt in answers]
    measurements.add({"answer_tokens": np.array(tokens), "finished": np.array(finished)})


def measure_references(measurements: Measurements, fidelity: TokenFidelity) -> None:
    """The comparison of the two models over the references."""
    measurements.weights["reference_tokens"] = fidelity.tokens
    measurements.add(fidelity.means, weights="reference_tokens")


def measure_sequences(
    measurements: Measurements, direction: str, fidelity: TokenFidelity, k: int
) -> None:
    """The comparison of the two models over answers, k to a prompt.

    ``direction`` names the writer of the answers: the teacher for "forward", the student for
    "reverse".
    """
    kl = sequence_kl(fidelity, direction, samples_per_example=k)
    name, weights = f"sequence_{direction}_kl", f"{direction}_answer_tokens"
    measurements.weights[weights] = kl.tokens
    measurements.add({name: kl.log_ratio, f"{name}_rao_blackwell": kl.rao_blackwell})
    measurements.add({f"{name}_per_token": kl.log_ratio / kl.tokens}, weights=weights)


def measure_toy_modes(
    measurements: Measurements,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    questions: Sequence[str],
    prompts: Sequence[Sequence[int]],
    texts: Sequence[Sequence[str]],
    answers: Sequence[Sequence[Completion]],
    tokens_per_batch: int,
    advance: Advance,
) -> list[float]:
    """Modes on the toy language; returns the model's mean mass on the r-th likeliest answer."""
    # The grammar's sentences end with the tokenizer's end token, and so must these.
    end = tokenizer.eos_token_id
    finished = [[answer.tokens[-1] == end for answer in of_prompt] for of_prompt in answers]
    measurements.add(sampled_modes(questions, texts, finished))
    model_logp = model_distribution(
        model, tokenizer, questions, prompts, tokens_per_batch=tokens_per_batch, advance=advance
    )
    modes = exact_modes(grammar_distribution(questions), model_logp)
    for name in ("forward_kl", "reverse_kl_inside"):
        modes[f"grammar_{name}"] = modes.pop(name)
    measurements.add(modes)
    return _rounded(np.exp(model_logp).mean(0))


def _over_answers(values: Floats, k: int) -> Floats:
    return values.reshape(-1, k).mean(1)


def _rounded(values: Floats) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values]
