"""The parts in which a vocabulary is multiplied, on a CPU and on a GPU."""

import pytest
import torch

from kd_lab.loss.products import ALIGNMENT, vocabulary_parts

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("device", [CPU, GPU])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("words", [1, 49, 64, 65, 50_257, 128_256, 151_665])
def test_parts_hold_every_word_once(words, dtype, device):
    parts = vocabulary_parts(words, dtype, device)
    assert [word for part in parts for word in range(words)[part]] == list(range(words))


@pytest.mark.parametrize(("words", "rest"), [(151_665, 49), (50_257, 17), (128_256, 0), (49, 0)])
def test_a_gpu_multiplies_all_but_a_few_words_at_its_full_speed(words, rest):
    parts = vocabulary_parts(words, torch.bfloat16, GPU)
    assert [len(range(words)[part]) for part in parts[1:]] == ([rest] if rest else [])
    assert words < ALIGNMENT or parts[0].stop % ALIGNMENT == 0
