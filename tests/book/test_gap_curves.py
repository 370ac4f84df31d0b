"""What the curves of head and tail show."""

import numpy as np

from book.gap_curves import head_lead


def test_the_head_is_ahead_where_less_of_its_gap_is_left():
    curves = {"head": [[0.4, 0.2], [0.5, 0.5]], "tail": [[0.8, 0.6], [0.5, 0.2]]}
    np.testing.assert_allclose(head_lead(curves), [[0, 25], [0, -60]])
