import gc
import sys
from collections import Counter

import pytest


def pytest_configure(config):
    """Notebooks' kernels import torch and TRL once for all of them.

    Garbage is looked for less often: what tests leave is little, and looking took 2% of their time.
    """
    if config.pluginmanager.hasplugin("nbmake"):  # vLLM's environment runs no notebooks
        from tests.helpers.forked_kernel import start_kernels_by_fork

        start_kernels_by_fork()
    gc.set_threshold(50_000, 20, 20)


def pytest_collection_modifyitems(items):
    """Notebooks and files with slow tests come first: no worker is left with one at the end."""
    slow = Counter()
    for item in items:
        slow[item.path] += item.get_closest_marker("slow") is not None
        slow[item.path] += 100 * (item.path.suffix == ".ipynb")
    items.sort(key=lambda item: -slow[item.path])


def pytest_collection_finish():
    """What was imported stays: collections of garbage need not walk through it every time."""
    gc.collect()
    gc.freeze()
    if "datasets" in sys.modules:  # else it costs a second
        from datasets import arrow_dataset, fingerprint

        # It names files that tests do not keep, and takes 2 ms of each new Dataset.
        arrow_dataset.generate_fingerprint = lambda _: fingerprint.generate_random_fingerprint()


@pytest.fixture(autouse=True)
def what_a_test_imports_stays_too():
    """The next collections need not walk through it either."""
    before = len(sys.modules)
    yield
    if len(sys.modules) > before + 100:
        gc.collect()
        gc.freeze()


@pytest.fixture(autouse=True)
def speeds_are_measured_in_one_round():
    """No test asks how fast a model writes; three rounds are half of a small evaluation."""
    if speed := sys.modules.get("kd_lab.evaluation.speed"):
        speed.SPEED_ROUNDS = 1


@pytest.fixture(scope="session")
def qwen_tokenizer():
    """Qwen2.5-Instruct's tokenizer; not to be changed (``qwen_vocabulary.qwen_tokenizer()`` is)."""
    from tests.helpers.qwen_vocabulary import (
        qwen_tokenizer,  # imports transformers, which few tests need
    )

    return qwen_tokenizer()


@pytest.fixture(scope="session", autouse=True)
def rows_are_kept_in_a_folder_of_the_tests(tmp_path_factory):
    """Tokenised rows of the tests, shared by them and by the processes that they start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KD_LAB_CACHE", str(tmp_path_factory.mktemp("rows")))
        yield
