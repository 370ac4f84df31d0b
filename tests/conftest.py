import pytest


@pytest.fixture(scope="session")
def qwen_tokenizer():
    """Qwen2.5-Instruct's tokenizer; not to be changed (``qwen_vocabulary.qwen_tokenizer()`` is)."""
    from qwen_vocabulary import qwen_tokenizer  # imports transformers, which few tests need

    return qwen_tokenizer()
