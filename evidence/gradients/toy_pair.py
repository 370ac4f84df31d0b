"""A student and its teacher on held-out questions of the toy language, ready to be compared."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from evidence.gradients.answer_tree import AnswerTree, grow_tree
from kd_lab.data.conversations import DataArguments
from kd_lab.evaluation.held_out import load_test_set
from kd_lab.models import Model, shared_size
from kd_lab.rollout.sampling import Sampling
from kd_lab.rollout.transformers_engine import write_answers

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedModel

LONGEST = 16  # words; the longest answer of the language has 14
MIN_MASS = 1e-3  # of a prefix that is followed


class Pair(NamedTuple):
    """A student and its teacher on test questions of the toy language."""

    student: "PreTrainedModel"
    teacher: "PreTrainedModel"
    tokenizer: Any
    vocab_size: int
    prompts: list[list[int]]
    questions: list[str]
    references: list[list[int]]  # the dataset's answers, end token included

    def tree(self, question: int, longest: int = LONGEST, min_mass: float = MIN_MASS) -> AnswerTree:
        """The tree of the answers to a question; see ``grow_tree``."""
        return grow_tree(
            self.student, self.teacher, self.prompts[question], longest=longest, min_mass=min_mass,
            end_token=self.tokenizer.eos_token_id, vocab_size=self.vocab_size,
        )  # fmt: skip

    def answers(self, writer: "PreTrainedModel", seed: int = 0) -> list[list[int]]:
        """One answer of a model to each question."""
        written = write_answers(
            writer, self.prompts, Sampling(LONGEST), eos_token_ids=[self.tokenizer.eos_token_id],
            seed=seed, batch_size=256, vocab_size=self.vocab_size,
        )  # fmt: skip
        return [answer.tokens for answer in written]


def load_pair(student: str | Path, teacher: str | Path, questions: int, seed: int = 0) -> Pair:
    """Two models of the toy language, float32, on the CPU; the student's weights require gradients.

    Args:
        questions: how many held-out questions, drawn as the language asks them.
        seed: of the questions and their answers in the dataset.
    Raises:
        ValueError: a model is missing, or the tokenizers differ.
    """
    models = [Model(str(name), None, "float32") for name in (student, teacher)]
    tokenizer = models[0].tokenizer
    data = DataArguments(
        dataset="toy",
        num_conversations=1,  # none is trained on
        num_test_conversations=questions,
        conversation_seed=seed,
    )
    test = load_test_set(data, tokenizer, max_prompt_length=64, max_length=128)
    spelt = tokenizer(test.references, add_special_tokens=False)["input_ids"]
    return Pair(
        models[0].model.cpu().requires_grad_(True),
        models[1].model.cpu(),
        tokenizer,
        shared_size(*models),
        test.prompts,
        test.last_messages,
        [[*ids, tokenizer.eos_token_id] for ids in spelt],
    )
