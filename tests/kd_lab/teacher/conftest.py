"""One tiny teacher and what is stored of it, for all files of this folder."""

import pytest

from kd_lab.data.toy_tokenizer import toy_tokenizer
from tests.helpers.cache_problem import cached, save_teacher


@pytest.fixture(scope="module")
def tokenizer():
    return toy_tokenizer()


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, tokenizer):
    return save_teacher(tmp_path_factory.mktemp("teacher"), tokenizer)


@pytest.fixture(scope="module")
def hidden_cache(teacher, tmp_path_factory):
    return cached(teacher, tmp_path_factory.mktemp("hidden"), teacher_signal="hidden").store.folder
