"""Pins of gradients over words."""

import numpy as np
import torch

from book.loss_pins import loss_pins


def test_each_loss_has_its_pins_down_the_gradient():
    gradients = {"one": torch.tensor([0.5, -0.5]), "other": torch.tensor([0.0, 0.25])}
    (axes,) = loss_pins(["sun", "rain"], gradients).axes
    heads = [line for line in axes.lines if line.get_label() in gradients]
    for line, gradient in zip(heads, gradients.values(), strict=True):
        np.testing.assert_allclose(line.get_ydata(), -gradient)
    assert [text.get_text() for text in axes.get_xticklabels()] == ["sun", "rain"]
    assert heads[0].get_xdata()[0] < heads[1].get_xdata()[0]  # beside one another
