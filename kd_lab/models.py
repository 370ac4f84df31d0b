"""A model by its name: identity, tokenizer, vocabulary, dtype; its weights when they are needed."""

from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from kd_lab.hub import check_model_at_hand
from kd_lab.model_check import check_loadable
from kd_lab.model_identity import model_files, model_identity
from kd_lab.model_loading import load_causal_lm, load_config, load_tokenizer, lora_base
from kd_lab.vocabulary import shared_vocabulary_size

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = ("auto", "float32", "bfloat16", "float16")
ATTENTIONS = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")


def check_dtype(key: str, dtype: str) -> None:
    """Refuse an unknown dtype.

    Raises:
        ValueError: names the key and the dtypes.
    """
    if dtype not in DTYPES:
        raise ValueError(f"{key} must be one of {DTYPES}, not {dtype!r}")


def check_attention(key: str, attention: str | None) -> None:
    """Refuse an unknown kind of attention; ``owner/name`` is a kernel of the hub.

    Raises:
        ValueError: names the key and the kinds.
    """
    if attention is not None and attention not in ATTENTIONS and "/" not in attention:
        raise ValueError(
            f"{key} must be one of {ATTENTIONS}, or a kernel's owner/name, not {attention!r}"
        )


class Model:
    """A causal language model: a folder, or a name on the model hub."""

    def __init__(
        self,
        name: str,
        revision: str | None = None,
        dtype: str = "auto",
        attn_implementation: str | None = None,
    ) -> None:
        """Find a model without reading its files.

        Args:
            revision: on the hub: a branch, tag or commit.
            dtype: one of ``DTYPES``; auto: as it was saved.
            attn_implementation: one of ``ATTENTIONS``, or a kernel of the hub; by default
                transformers chooses.
        Raises:
            ValueError: there is no such model.
        """
        if model_files(name) is None:
            check_model_at_hand("model", name, revision)
        self.name, self.revision, self.dtype = name, revision, dtype
        self.attn_implementation = attn_implementation
        self._is_checked = False

    @cached_property
    def identity(self) -> dict[str, str]:
        """See ``model_identity``; for a folder it reads all weights."""
        return model_identity(self.name, self.revision)

    @cached_property
    def config(self) -> Any:
        return load_config(self.name, self.revision)

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        return load_tokenizer(self.name, self.revision)

    @cached_property
    def end_tokens(self) -> list[int]:
        """The tokens that end its answers: the tokenizer's, and those of generation_config.json."""
        from transformers import GenerationConfig

        name, revision = lora_base(self.name) or (self.name, self.revision)
        ends = {self.tokenizer.eos_token_id}
        with suppress(OSError):  # it has no such file
            also = GenerationConfig.from_pretrained(name, revision=revision or "main").eos_token_id
            ends |= {also} if isinstance(also, int) else {*(also or ())}
        return sorted(ends)

    @property
    def head_rows(self) -> int:
        """Rows of its LM head, padding rows included."""
        return self.config.get_text_config().vocab_size

    @cached_property
    def vocab_size(self) -> int:
        """How many rows of its LM head are tokens.

        Raises:
            ValueError: the head is too small for the tokenizer.
        """
        return shared_size(self, self)

    @property
    def dtype_name(self) -> str:
        """The actual dtype: float32, bfloat16 or float16."""
        if self.dtype != "auto":
            return self.dtype
        return str(self.config.dtype or torch.float32).removeprefix("torch.")

    def check(self) -> None:
        """Look at its files and its shape, once, before any weights are read.

        Raises:
            ValueError: as ``check_loadable``.
        """
        if not self._is_checked:
            check_loadable(self.name, self.revision, self.attn_implementation)
            self._is_checked = True

    def load(self) -> "PreTrainedModel":
        """Its weights, in its dtype, frozen and in eval mode, where transformers puts them."""
        self.check()
        loading = {"dtype": self.dtype}
        if self.attn_implementation is not None:
            loading["attn_implementation"] = self.attn_implementation
        model = load_causal_lm(self.name, self.revision, **loading)
        return model.requires_grad_(False).eval()

    @cached_property
    def model(self) -> "PreTrainedModel":
        """The same model, on the GPU if there is one."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return self.load().to(device)  # type: ignore[arg-type]  # its wrapper hides its own type


def shared_size(student: Model, teacher: Model) -> int:
    """How many tokens, from the first, both models have; see ``shared_vocabulary_size``."""
    return shared_vocabulary_size(
        student.tokenizer, teacher.tokenizer, student.head_rows, teacher.head_rows
    )
