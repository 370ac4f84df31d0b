"""One softmax: teachers, and four students of each in which losses that look alike differ.

A teacher is unsure between two groups of words and has a tail, as a language model has. Far from
it, near it, too sharp, and collapsed on one of its modes: most wrong losses are right in one of
these and wrong in another. There are two teachers, since one alone hides what depends on the mass
of its top k.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

WORDS = 24  # V
OFFSET = 1.7  # logits are not normalised: a loss that forgets the softmax is seen
STUDENTS = ("far and flat", "near", "too sharp", "collapsed on a mode")


@dataclass(frozen=True)
class Situations:
    """S pairs of a teacher and a student at one position, float64."""

    names: list[str]  # of the students, [S]
    teacher_logits: Tensor  # [S, V]
    student_logits: Tensor  # [S, V]
    targets: Tensor  # the word that the dataset has there: neither model's likeliest, [S]

    @property
    def teacher_logp(self) -> Tensor:
        """[S, V]"""
        return self.teacher_logits.log_softmax(-1)

    def as_bytes(self) -> bytes:
        """All numbers, to know the same situations by."""
        tensors = self.teacher_logits, self.student_logits, self.targets
        return b"".join(tensor.numpy().tobytes() for tensor in tensors)

    def rounded(self) -> "Situations":
        """With logits that bfloat16 holds exactly."""
        teacher, student = (
            x.bfloat16().double() for x in (self.teacher_logits, self.student_logits)
        )
        return replace(self, teacher_logits=teacher, student_logits=student)


def situations(seed: int = 0, words: int = WORDS) -> Situations:
    """Two teachers and four students of each, drawn by a seed.

    Args:
        words: of the vocabulary, V.
    """
    draw = torch.Generator().manual_seed(seed)

    def noise(scale: float) -> Tensor:
        return scale * torch.randn(words, generator=draw, dtype=torch.float64)

    teachers, students = [], []
    ranks = torch.arange(1, words + 1, dtype=torch.float64)
    for steepness, second_mode in ((1.2, 3.0), (0.6, 2.0)):
        teacher = -steepness * ranks.log()  # Zipf's tail ...
        teacher[words // 2] += second_mode
        teacher = teacher + noise(0.3) + OFFSET
        collapsed = 1.5 * teacher + noise(0.1)
        collapsed[words // 2 :] -= 4.0
        students += [noise(0.2), teacher + noise(0.3), 2.5 * teacher + noise(0.2), collapsed]
        teachers += [teacher] * len(STUDENTS)
    targets = torch.full((len(students),), 2)
    return Situations([*STUDENTS] * 2, torch.stack(teachers), torch.stack(students), targets)
