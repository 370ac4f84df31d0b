"""A trainer's real step: its gradient beside exact ones on the very rows that it trained on.

    def build(student, teacher, tokenizer, conversations, output_dir):
        return SomeTrainer(...)                     # any of transformers' or TRL's kind

One step is taken. What the student reads with gradients on is recorded, answers that it wrote
itself included, and so are the gradients of all its weights just before the update. The exact
gradient of each candidate is taken on these rows, over the words of the answers.
"""

import tempfile
from collections.abc import Callable, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from kd_lab.check.batches import Finding
from kd_lab.check.candidates import Candidate, candidates
from kd_lab.check.naming import Named, name_vectors
from kd_lab.check.situations import Situations
from kd_lab.check.verdict import Verdict, of_name

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ROWS, WIDTH = 8, 32
BUILD = "build(student, teacher, tokenizer, conversations, output_dir) -> a transformers Trainer"
WHERE = (
    "the answers",
    "the prompts too",
    "what follows the answers too",
    "the prompts too, and what follows the answers",
)
HOW = ("tokens", "rows")  # keys of batches.REDUCTIONS


class Step(NamedTuple):
    """One step of a trainer."""

    rows: list[list[int]]  # the token ids that it trained on, without padding
    gradient: Tensor  # of all weights, one vector, float64
    start: "PreTrainedModel"  # the student before the step
    rows_a_pass: int  # of a micro-batch


def check_trainer(build: Callable[..., Any], seed: int = 0) -> Verdict:
    """What a trainer's step optimises.

    Args:
        build: see ``BUILD``; conversations are rows with ``messages`` of the toy language.
        seed: of the models and the conversations.
    Raises:
        ValueError: the trainer takes no step, or its student reads no row of a conversation.
    """
    from kd_lab.data.toy_tokenizer import toy_tokenizer

    tokenizer = toy_tokenizer()
    teacher = _model(tokenizer, 2 * WIDTH, seed + 1)
    prompts, step = _one_step(build, tokenizer, teacher, seed)
    tried: list[tuple[float, Named, str, str]] = []
    # The places first, by what is tried quickly; only then settings between those that are tried.
    for thorough, where, how in product((False, True), WHERE, HOW):
        named = _name(step, teacher, prompts, tokenizer.eos_token_id, where, how, thorough)
        tried.append((named.unexplained, named, where, how))
        if named.is_explained:
            break
    _, named, where, how = min(tried, key=lambda found: found[0])
    findings = []
    if where != WHERE[0]:
        findings.append(Finding("ignored", f"it trains {where}", True))
    words = {"tokens": "a mean over trained tokens", "rows": "a mean of each row's mean"}[how]
    findings.append(Finding("division", words))
    findings += _cut(build, tokenizer, teacher, seed, step, named, where, how)
    written = sum(_answer(row, prompts, tokenizer.eos_token_id) is not None for row in step.rows)
    findings.append(Finding("rows", f"{written} rows were read, of {len(prompts)} conversations"))
    return Verdict("trainer", "", None, seed, named, None, how, findings + of_name(named), {}, None)


def _cut(
    build: Callable[..., Any],
    tokenizer: "PreTrainedTokenizerBase",
    teacher: Any,
    seed: int,
    step: Step,
    named: Named,
    where: str,
    how: str,
) -> list[Finding]:
    """Whether a step of as many rows, in micro-batches of another size, has the same gradient.

    Nothing is said of a trainer that can not be cut after it is built.
    """
    if named.is_zero or not named.is_explained:
        return []
    rows = 1 if step.rows_a_pass > 1 else ROWS
    try:
        prompts, other = _one_step(build, tokenizer, teacher, seed, rows)
    except (RuntimeError, ValueError, TypeError, AttributeError):
        return []
    if other.rows_a_pass == step.rows_a_pass or len(other.rows) != len(step.rows):
        return []
    gradients_of = _gradients_of(other, teacher, prompts, tokenizer.eos_token_id, where, how)
    expected = torch.stack([c * gradients_of(candidate)[0] for candidate, c in named.parts]).sum(0)
    found, cut = other.gradient, f"micro-batches of {rows}, not {step.rows_a_pass}"
    if (found - expected).norm() < named.tolerance * expected.norm():
        return [Finding("micro-batches", f"in {cut}, it takes the same step")]
    times = float(found @ expected / expected.square().sum())
    words = f"its gradient changes with the cut: in {cut}"
    if (found - times * expected).norm() < named.tolerance * found.norm():
        words += f", it is {times:.3g} times as long"
    return [Finding("micro-batches", words, True)]


def _model(tokenizer: "PreTrainedTokenizerBase", width: int, seed: int) -> "PreTrainedModel":
    """A small random model whose head has a row for each token and no other."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        initializer_range=0.2,  # at 0.02 all distributions are nearly uniform
    )
    return Qwen2ForCausalLM(config)


def _one_step(
    build: Callable[..., Any],
    tokenizer: "PreTrainedTokenizerBase",
    teacher: Any,
    seed: int,
    rows_a_pass: int | None = None,
) -> tuple[list[list[int]], Step]:
    """The prompts, and the step; in micro-batches as it was built, or of so many rows."""
    from datasets import Dataset
    from transformers import TrainerCallback

    from kd_lab.data.toy_language import conversations

    talks: list[Any] = conversations(ROWS, seed, two_turn_share=0.0)
    prompts = [_prompt(tokenizer, talk["messages"][:-1]) for talk in talks]
    student, start = (_model(tokenizer, WIDTH, seed) for _ in range(2))
    read: list[Tensor] = []
    gradients: dict[str, Tensor] = {}

    class Reader(TrainerCallback):
        """Keeps the gradients of the first update."""

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            for name, parameter in student.named_parameters():
                found = parameter.grad
                gradients.setdefault(
                    name, torch.zeros_like(parameter) if found is None else found.clone()
                )

    def keep(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if torch.is_grad_enabled() and output.requires_grad:
            read.append(inputs[0].detach().clone())

    with tempfile.TemporaryDirectory() as folder:
        trainer = build(student, teacher, tokenizer, Dataset.from_list(talks), folder)
        if not callable(getattr(trainer, "train", None)):
            raise ValueError(f"a trainer comes of {BUILD}, not a {type(trainer).__name__}")
        for name, value in {"max_steps": 1, "max_grad_norm": 0.0, "save_strategy": "no"}.items():
            setattr(trainer.args, name, value)  # a clipped gradient has another length
        if rows_a_pass is not None:
            _cut_into(trainer, rows_a_pass)
        trainer.add_callback(Reader())
        handle = student.get_input_embeddings().register_forward_hook(keep)
        try:
            trainer.train()
        finally:
            handle.remove()
    if not gradients or not read:
        raise ValueError("the trainer took no step with the student that it was given")
    rows = [
        [token for token in row.tolist() if token != tokenizer.pad_token_id]
        for batch in read
        for row in batch
    ]
    vector = torch.cat([gradients[name].double().flatten() for name, _ in start.named_parameters()])
    return prompts, Step(rows, vector, start.double(), trainer.args.per_device_train_batch_size)


def _cut_into(trainer: Any, rows: int) -> None:
    """As many rows a step, in micro-batches of another size."""
    args = trainer.args
    passes = args.per_device_train_batch_size * args.gradient_accumulation_steps // rows
    args.per_device_train_batch_size, args.gradient_accumulation_steps = rows, max(1, passes)
    trainer._train_batch_size = rows  # read once, when a trainer is made


def _prompt(tokenizer: "PreTrainedTokenizerBase", messages: list[dict[str, str]]) -> list[int]:
    encoded: Any = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    return list(encoded["input_ids"])


def _answer(row: Sequence[int], prompts: Sequence[Sequence[int]], end: int) -> range | None:
    """Where in a row its answer stands, its end included; None where no prompt begins it."""
    for prompt in prompts:
        if list(row[: len(prompt)]) == list(prompt) and len(row) > len(prompt):
            ends = [i for i in range(len(prompt), len(row)) if row[i] == end]
            return range(len(prompt), ends[0] + 1 if ends else len(row))
    return None


def _name(
    step: Step,
    teacher: "PreTrainedModel",
    prompts: list[list[int]],
    end: int,
    where: str,
    how: str,
    thorough: bool,
) -> Named:
    """The name of the step's gradient, if these positions are trained in this manner."""
    gradients_of = _gradients_of(step, teacher, prompts, end, where, how)
    return name_vectors(step.gradient[None], candidates(), gradients_of, thorough=thorough)


def _gradients_of(
    step: Step,
    teacher: "PreTrainedModel",
    prompts: list[list[int]],
    end: int,
    where: str,
    how: str,
) -> Callable[[Candidate], Tensor]:
    """Of a candidate the exact gradient [1, M] on the step's rows."""
    answered = [(row, answer) for row in step.rows if (answer := _answer(row, prompts, end))]
    if not answered:
        raise ValueError("the student read none of the conversations that the trainer was given")
    rows, positions, targets, weights = [], [], [], []
    for i, (row, answer) in enumerate(answered):
        trained = {
            WHERE[0]: answer,
            WHERE[1]: range(1, answer.stop),
            WHERE[2]: range(answer.start, len(row)),
            WHERE[3]: range(1, len(row)),
        }[where]
        rows += [i] * len(trained)
        positions += [position - 1 for position in trained]
        targets += [row[position] for position in trained]
        weights += [1.0 if how == "tokens" else 1 / len(trained)] * len(trained)
    # One pass over all rows, padded on the right, where a causal model does not look.
    ids = pad_sequence([torch.tensor(row) for row, _ in answered], batch_first=True)
    logits = step.start(input_ids=ids, use_cache=False).logits[rows, positions]
    with torch.no_grad():
        read = teacher.float()(input_ids=ids, use_cache=False).logits[rows, positions].double()
    at = Situations([""] * len(targets), read, logits.detach(), torch.tensor(targets))
    share = torch.tensor(weights, dtype=torch.float64)
    share = share / share.sum()
    parameters = list(step.start.parameters())

    def gradients_of(candidate: Candidate) -> Tensor:
        toward = share[:, None] * candidate.gradients(at)
        found = torch.autograd.grad(logits, parameters, toward, retain_graph=True)
        return torch.cat([part.flatten() for part in found])[None]

    return gradients_of
