"""A model beside a training, as vLLM writes its answers: in this process, or on a server.

A writer takes the model's weights before each rollout, and then writes as any engine does. Its
answers are of the weights before the step that trains on them, as with transformers. After the
first weights it is compared with the model itself, so that no other model's answers are trained on.

A run that is resumed asks with the same seeds for the same weights. Its answers are the same where
vLLM computes the same for the same batch: in this process on a CPU. On a GPU, and on a server that
forms its own batches, rounding can differ, and with it an answer.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kd_lab.rollout import handshake, vllm_engine, vllm_server
from kd_lab.rollout.sampling import Completion, Sampling
from kd_lab.rollout.whole_weights import whole_weights
from kd_lab.trainers.alignment import without_alignment
from kd_lab.trainers.given import causal_lm

if TYPE_CHECKING:  # they take seconds to import
    from accelerate import Accelerator
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from kd_lab.trainers.distil_config import DistilConfig

OUTBOX = "weights_for_the_server"  # in output_dir, while a server reads them
ROWS, MOST_TOKENS = 2, 256  # that are compared after the first weights, and the tokens of each


class VllmWriter(Protocol):
    """What the trainers ask of vLLM, wherever it runs."""

    def take(self, model: "PreTrainedModel") -> None:
        """Have the model's weights from now on; every process calls it.

        Args:
            model: unwrapped, its weights gathered under ZeRO-3.
        Raises:
            ValueError: vLLM computes another model's log-probabilities with these weights.
        """

    def write_answers(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        eos_token_ids: Collection[int],
        seed: int,
        vocab_size: int,
    ) -> list[Completion]:
        """Write one answer to each prompt; see ``vllm_engine.write_answers``."""


class ColocatedWriter:
    """vLLM in this process. Every process of a training has its own."""

    def __init__(
        self, model: "PreTrainedModel", args: "DistilConfig", rows: "Dataset", dtype: str
    ) -> None:
        """An engine of the model's shape, without its weights.

        Args:
            rows: of the training, for their longest prompt.
            dtype: of the engine's weights: "float32", "bfloat16" or "float16".
        Raises:
            ValueError: vLLM has no such model, or no memory for it.
        """
        self._rows: list[list[int]] = _compared_rows(rows, args)
        self._llm = vllm_engine.load_shape(
            causal_lm(model),
            dtype=dtype,
            max_length=_longest(rows, args),
            batch_size=args.rollout_batch_size,
            memory_share=args.vllm_gpu_memory_utilization,
        )

    def take(self, model: "PreTrainedModel") -> None:
        vllm_engine.take_weights(self._llm, without_alignment(whole_weights(model)))
        if self._rows:
            own = handshake.row_logprobs(model, self._rows)
            found = vllm_engine.row_logprobs(self._llm, self._rows)
            handshake.check_logprobs(found, own, "vLLM in this process", "the one in training")
            self._rows = []

    def write_answers(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, **settings: Any
    ) -> list[Completion]:
        return vllm_engine.write_answers(self._llm, prompts, sampling, **settings)


class ServedWriter:
    """vLLM on a server. The first process sends the weights, and every process asks."""

    def __init__(
        self,
        model: "PreTrainedModel",
        args: "DistilConfig",
        rows: "Dataset",
        tokenizer: "PreTrainedTokenizerBase",
        accelerator: "Accelerator",
    ) -> None:
        """Compare the server with what the run expects; see ``kd_lab.rollout.handshake``.

        Args:
            rows: of the training, for their longest prompt.
        Raises:
            ValueError: the server lacks room, is of another version, takes no weights, has another
                tokenizer, or draws at another temperature.
            OSError: no server answers.
        """
        self._server = vllm_server.Server(args.vllm_server_base_url or "")
        handshake.check_room(self._server, _longest(rows, args))
        handshake.check_takes_weights(self._server)
        handshake.check_tokenizer(self._server, tokenizer)
        self._rows: list[list[int]] = _compared_rows(rows, args)
        if self._rows and accelerator.is_main_process:
            handshake.check_temperature(self._server, self._rows[0], args.sampling_temperature)
        self._outbox = Path(args.output_dir or "") / OUTBOX
        self._batch_size = args.rollout_batch_size
        self._head_rows: int = causal_lm(model).config.get_text_config().vocab_size
        self._accelerator = accelerator

    def take(self, model: "PreTrainedModel") -> None:
        if self._accelerator.is_main_process:
            weights = without_alignment(whole_weights(model))
            vllm_server.take_weights(self._server, weights, self._outbox)
        else:
            for _ in whole_weights(model):  # FSDP2 gathers each of them by all processes
                pass
        if self._rows:
            own = handshake.row_logprobs(model, self._rows)
            if self._accelerator.is_main_process:
                found = vllm_server.row_logprobs(self._server, self._rows)
                where = self._server.base_url
                handshake.check_logprobs(found, own, where, "the one in training")
            self._rows = []
        self._accelerator.wait_for_everyone()  # no process asks before the weights are there

    def write_answers(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, **settings: Any
    ) -> list[Completion]:
        return vllm_server.write_answers(
            self._server,
            prompts,
            sampling,
            batch_size=self._batch_size,
            rows=self._head_rows,
            **settings,
        )


def vllm_writer(
    model: "PreTrainedModel",
    args: "DistilConfig",
    rows: "Dataset",
    dtype: str,
    tokenizer: "PreTrainedTokenizerBase",
    accelerator: "Accelerator",
) -> VllmWriter:
    """The writer of ``vllm_mode``; arguments and errors as of its two classes."""
    if args.vllm_mode == "server":
        return ServedWriter(model, args, rows, tokenizer, accelerator)
    return ColocatedWriter(model, args, rows, dtype)


def _longest(rows: "Dataset", args: "DistilConfig") -> int:
    """Tokens of the longest prompt and its answer."""
    return max(rows["prompt_length"]) + args.max_new_tokens


def _compared_rows(rows: "Dataset", args: "DistilConfig") -> list[list[int]]:
    most = min(_longest(rows, args) - 1, MOST_TOKENS)
    first = rows.select(range(min(ROWS, len(rows))))["input_ids"]
    return [list(ids[:most]) for ids in first if len(ids) > 1]
