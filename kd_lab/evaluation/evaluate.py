"""``kd-lab evaluate``: how good a student is, how faithful to its teacher, and how sure that is.

    kd-lab evaluate --model_name_or_path runs/student --teacher_model_name_or_path runs/teacher

The student answers the test prompts once, at temperature 1 by default; so does the teacher, if
there is one. Their answers are stored and reused. The measurements (see ``measurements.py``) go to
``evaluation.json`` beside the model: means with 95% intervals, every example's value, and all
settings.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from kd_lab.data.conversations import DataArguments, check_data_arguments
from kd_lab.data.toy_language import questions as toy_questions
from kd_lab.evaluation.answers import (
    AnswerRequest,
    answer_texts,
    generated_answers,
    stored_or_written,
)
from kd_lab.evaluation.arguments import EvaluateArguments, check_evaluate_arguments, output_folder
from kd_lab.evaluation.bartscore import BartScorer
from kd_lab.evaluation.fidelity import token_fidelity
from kd_lab.evaluation.held_out import HeldOut, check_not_trained, load_test_set
from kd_lab.evaluation.measurements import (
    Advance,
    Measurements,
    measure_answers,
    measure_references,
    measure_sequences,
    measure_texts,
    measure_toy_modes,
)
from kd_lab.evaluation.metrics import METRICS
from kd_lab.evaluation.speed import SPEED_TOKENS, measure_speed
from kd_lab.files import only_one_at_work, sha256_of
from kd_lab.models import Model, shared_size
from kd_lab.positions import check_positions
from kd_lab.rollout.sampling import Completion, Sampling
from kd_lab.rollout.sampling_arguments import sampling_of
from kd_lab.runs.evaluations import check_may_write, write_evaluation
from kd_lab.runs.run_files import RESULT, resolved_config
from kd_lab.runs.versions import run_versions
from kd_lab.states import answered_rows
from kd_lab.teacher.arguments import teacher_of

Answers = list[list[Completion]]  # of each prompt
Step = Callable[[str, int], AbstractContextManager[Advance]]  # what runs, and how much it is


ARGUMENTS = (EvaluateArguments, DataArguments)


def run(args: EvaluateArguments, data: DataArguments) -> None:
    """Evaluate, write ``evaluation.json`` and print its figures; see ``evaluate``."""
    started = time.perf_counter()
    path = output_folder(args) / RESULT
    with only_one_at_work(path.parent):
        result = evaluate(args, data)
        write_evaluation(path, result)
    Console().print(_table(result))
    for metric, reason in result["missing"].items():
        print(f"no {metric}: {reason}")
    print(f"wrote {path} ({time.perf_counter() - started:,.0f} s)")


def evaluate(args: EvaluateArguments, data: DataArguments) -> dict[str, Any]:
    """All measurements of one model, as JSON values.

    Returns:
        - ``metrics``: mean, low, high, n, standard_error, the name of its ``weights``, and
          ``values``.
        - ``weights``: the weights of examples, by name.
        - ``missing``: metric -> reason.
        - ``speed``, ``student``, ``teacher``, ``test_set``, ``settings`` and ``versions``.
    Raises:
        ValueError: arguments that do not fit, models of different tokenizers, or no usable test
            conversation.
    """
    args = check_evaluate_arguments(args)
    check_data_arguments(data)
    check_not_trained(args.model_name_or_path, data)
    student = Model(args.model_name_or_path, args.model_revision, args.dtype)
    check_may_write(output_folder(args), student.name, student.identity)
    teacher = teacher_of(args)
    for model in (student, teacher) if teacher is not None else (student,):
        model.check()
    vocab_size = shared_size(student, teacher or student)
    test = load_test_set(data, student.tokenizer, args.max_prompt_length, args.max_length)
    for model in (student,) if teacher is None else (student, teacher):
        _check_positions(model, test, args)
    settings = resolved_config(args, data)
    with _progress() as step:
        evaluation = _Evaluation(args, student, teacher, vocab_size, test, step)
        evaluation.measure(sampling_of(args))
        with step("speed", 1):
            speed = measure_speed(
                student, teacher, test.prompts, args.rollout_batch_size, vocab_size
            )
        with step("intervals", 1):
            measured = evaluation.measurements.to_json(args.seed)
    versions = run_versions(settings)
    versions["libraries"] |= {name: version(name) for name in ("rouge-score", "scipy")}
    examples = json.dumps([test.prompts, test.references])
    return {
        **measured,
        **evaluation.whole,
        "speed": speed,
        "student": student.identity,
        "teacher": None if teacher is None else teacher.identity,
        "test_set": {
            "examples": len(test.prompts),
            "sha256": sha256_of(examples),  # equal: runs are paired
        },
        "settings": settings,
        "versions": versions,
    }


def _check_positions(model: Model, test: HeldOut, args: EvaluateArguments) -> None:
    """Refuse a test set that is too long for a model, and answers that would be."""
    longest = max(map(len, test.prompts))
    new_tokens = max(args.max_new_tokens, SPEED_TOKENS)
    options = "max_new_tokens or max_prompt_length"
    check_positions(model.name, model.config, "the longest prompt", longest, options, new_tokens)
    row = int(test.rows.lengths.max())
    check_positions(model.name, model.config, "the longest test row", row, "max_length")


@dataclass
class _Evaluation:
    """One model on one test set."""

    args: EvaluateArguments
    student: Model
    teacher: Model | None
    vocab_size: int  # tokens that both have
    test: HeldOut
    step: Step
    measurements: Measurements = field(default_factory=Measurements)
    whole: dict[str, Any] = field(default_factory=dict)  # figures without a value an example

    def measure(self, sampling: Sampling) -> None:
        """Write or find the answers, and measure all metrics that are possible."""
        answers, sampling = self._answers(self.student, self.args.answers, sampling)
        measure_answers(self.measurements, answers)
        self._measure_texts(answers)
        if self.teacher is not None:
            self._measure_fidelity(self.teacher, answers, sampling)
        if {*toy_questions("train"), *toy_questions("test")}.issuperset(self.test.last_messages):
            self._measure_modes(answers)

    def _answers(
        self, writer: Model, generated: str | None, sampling: Sampling
    ) -> tuple[Answers, Sampling]:
        """A model's answers to all prompts, and how they were drawn."""
        args, prompts = self.args, self.test.prompts
        if generated is not None:
            return generated_answers(generated, writer.identity, prompts)
        request = AnswerRequest(
            prompts, args.answers_per_prompt, sampling, args.seed, writer.end_tokens,
            self.vocab_size,
        )  # fmt: skip
        folder = Path(args.answers_dir or output_folder(args) / "answers")
        total = len(prompts) * args.answers_per_prompt
        with self.step(f"answers of {writer.identity['name']}", total) as advance:
            answers = stored_or_written(
                folder, request, writer.model, writer.identity, args.rollout_batch_size, advance,
                compiled=args.compile_decode,
            )  # fmt: skip
        return answers, sampling

    def _measure_texts(self, answers: Answers) -> None:
        texts = answer_texts(self.student.tokenizer, answers, skip_special_tokens=True)
        bart: BartScorer | str = "bart_model was not given"
        if self.args.bart_model is not None:
            bart = BartScorer.load(self.args.bart_model, self.student.model.device)
        passes = 1 if isinstance(bart, str) else 3  # BARTScore reads each pair twice
        with self.step("overlap", passes * sum(map(len, answers))) as advance:
            measure_texts(self.measurements, texts, self.test.references, bart, advance)

    def _measure_fidelity(self, teacher: Model, answers: Answers, sampling: Sampling) -> None:
        """Compare the two models on the references, and on the answers of both."""
        compare = partial(
            token_fidelity,
            self.student.model,
            teacher.model,
            vocab_size=self.vocab_size,
            tokens_per_batch=self.args.tokens_per_batch,
        )
        rows = self.test.rows
        with self.step("fidelity", int(rows.positions_per_row().sum())) as advance:
            measure_references(self.measurements, compare(rows, advance=advance))
        unchanged = Sampling(self.args.max_new_tokens)
        theirs = self._answers(teacher, self.args.teacher_answers, unchanged)
        for direction, (written, drawn) in (
            ("forward", theirs),
            ("reverse", (answers, sampling)),
        ):
            if drawn != Sampling(drawn.max_new_tokens):
                self.measurements.missing[f"sequence_{direction}_kl"] = (
                    "the answers are not drawn from the model's own distribution "
                    "(temperature 1, top_p 1, top_k 0)"
                )
                continue
            k = len(written[0])
            rows = answered_rows(
                [prompt for prompt in self.test.prompts for _ in range(k)],
                [answer.tokens for some in written for answer in some],
            )
            total = int(rows.positions_per_row().sum())
            with self.step(f"sequence-level {direction} KL", total) as advance:
                measure_sequences(self.measurements, direction, compare(rows, advance=advance), k)

    def _measure_modes(self, answers: Answers) -> None:
        exact = answer_texts(self.student.tokenizer, answers, skip_special_tokens=False)
        with self.step("modes", 20 * len(answers)) as advance:
            self.whole["mass_by_rank"] = measure_toy_modes(
                self.measurements,
                self.student.model,
                self.student.tokenizer,
                self.test.last_messages,
                self.test.prompts,
                exact,
                answers,
                self.args.tokens_per_batch,
                advance,
            )


@contextmanager
def _progress() -> Iterator[Step]:
    """One line a step: its name, its progress, and the time left."""
    with Progress(console=Console(stderr=True)) as bars:

        @contextmanager
        def step(what: str, total: int) -> Iterator[Advance]:
            task = bars.add_task(escape(what), total=total)
            yield partial(bars.advance, task)
            bars.update(task, completed=total)

        yield step


def _table(result: dict[str, Any]) -> Table:
    title = f"{escape(result['student']['name'])}, {result['test_set']['examples']:,} examples"
    notes = [known.note for known in METRICS if known.name in result["metrics"]]
    table = Table(
        "metric", "mean", "95% interval", title=title, caption="\n".join(filter(None, notes))
    )
    for name, metric in result["metrics"].items():
        mean, low, high = (f"{metric[key]:z.4f}" for key in ("mean", "low", "high"))
        table.add_row(name, mean, f"{low} to {high}")
    for side in ("student", "teacher"):
        if speed := result["speed"].get(side):
            rate, size = f"{speed['tokens_per_second']:,.0f}", f"{speed['parameters']:,} parameters"
            table.add_row(f"{side} tokens/s", rate, size)
    return table
