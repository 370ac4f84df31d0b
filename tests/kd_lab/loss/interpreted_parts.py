"""Programs that share a row and wait for one another, under Triton's interpreter.

The interpreter runs programs one after another. Here each part of a row has a process of its own,
on memory that all share, so that they wait in earnest. Run by ``test_kernels.py``.
"""

import os
from typing import Any

import pytest
import torch
from torch import Tensor
from triton.runtime import interpreter

from kd_lab.divergences import adaptive_kl, get_divergence
from kd_lab.loss import gpu_tiles, tiles
from kd_lab.loss.kernels import TERMS
from kd_lab.loss.read_once import row_losses
from kd_lab.loss.tiles import Objective, Weights
from tests.kd_lab.loss.interpreted_kernels import (
    ROWS,
    by_kernels,
    check,
    interpreted_on_a_cpu,
    padded,
    pair,
)

__all__ = ["interpreted_on_a_cpu"]  # a fixture
PART = 128  # words of a row of 301: the last part is short


class SideBySide:
    """``row_losses``, each part of the rows in a process."""

    def __getitem__(self, grid: tuple[int]) -> Any:
        def launch(*args: Any, PARTS: int, **settings: Any) -> None:
            assert PARTS == 3
            for tensor in args:
                if isinstance(tensor, Tensor):
                    tensor.share_memory_()
            children = [os.fork() or self.run(part, args, PARTS, settings) for part in range(PARTS)]
            ends = [os.waitpid(child, 0)[1] for child in children]
            assert ends == [0, 0, 0]

        return launch

    def run(self, part: int, args: tuple[Any, ...], parts: int, settings: dict[str, Any]) -> int:
        """A child: the program numbers of one part, and no return."""
        builder = interpreter.InterpreterBuilder
        number = builder.create_get_program_id

        def of_this_part(own: Any, axis: int) -> Any:
            found = number(own, axis)
            return interpreter.TensorHandle(found.data * parts + part, found.dtype)

        builder.create_get_program_id = of_this_part
        try:
            row_losses[(ROWS,)](*args, PARTS=parts, **settings)
            os._exit(0)
        finally:
            os._exit(1)


@pytest.fixture(autouse=True)
def in_three_parts(monkeypatch):
    monkeypatch.setattr(gpu_tiles, "part_size", lambda *_: PART)
    monkeypatch.setattr(gpu_tiles, "row_losses", SideBySide())


SPLIT = [rule.__name__ for rule in TERMS if rule is not adaptive_kl]


@pytest.mark.parametrize(("name", "temperature"), [*((n, 2.0) for n in SPLIT), (SPLIT[0], 1.0)])
def test_a_row_in_three_parts(name, temperature):
    objective = Objective(get_divergence(name), Weights(0.5, 0.5), temperature, ROWS)
    check(pair(), objective)


def test_a_row_in_three_parts_without_a_teacher():
    student, _, targets = pair()
    check((student, None, targets), Objective(get_divergence("forward_kl"), Weights(0.0, 1.0)))


def test_a_16_bit_gradient_is_written_after_all_parts_are_read():
    """It lies where the row's first half was, which another program holds."""
    objective = Objective(get_divergence("reverse_kl"), Weights(0.5, 0.5), 1.0, ROWS)
    student, teacher, targets = pair()
    expected = student.double()
    tiles.tile_loss(expected, teacher.double(), targets, objective)
    tile = padded(student)
    by_kernels(tile, padded(teacher), targets, objective, dtype=torch.bfloat16)
    gradient = tile.view(torch.bfloat16)[:, : tile.shape[-1]]
    torch.testing.assert_close(gradient.double(), expected, rtol=2**-7, atol=1e-9)


def test_a_logit_that_is_not_finite_in_the_first_or_the_last_part():
    student, teacher = (padded(tile) for tile in pair()[:2])
    student[0, 7] = teacher[1, 300] = -torch.inf
    objective = Objective(get_divergence("forward_kl"), Weights(0.5, 0.5))
    found = by_kernels(student, teacher, torch.zeros(ROWS).long(), objective)
    assert found.student_finite.tolist() == [False, True, True]
    assert found.teacher_finite.tolist() == [True, False, True]
