"""What a student may be: a shape of known keys, and nothing that would be filled in by defaults."""

import pytest

from kd_lab.student import StudentArguments


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ({"hiden_size": 32}, "unknown key 'hiden_size'; did you mean 'hidden_size'"),
        ({"hidden_size": 0}, "hidden_size must be at least 1, not 0"),
        ({}, "must be a mapping of Qwen2's keys"),
        ("[1]", "must be a mapping of Qwen2's keys"),
        ("{bad", "model_shape is not JSON"),
    ],
)
def test_a_shape_that_is_none_is_named(shape, said):
    with pytest.raises(ValueError, match=said):
        StudentArguments(model_shape=shape)
