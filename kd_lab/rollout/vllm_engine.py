"""Answers through vLLM: the same call as kd_lab.rollout.transformers_engine, for GPUs.

vLLM batches by itself. It draws each answer with that answer's own generator. So the seed and an
answer's place fix it here too, but to another answer than in transformers.

``load`` reads a saved model, for ``kd-lab generate``. ``load_shape`` and ``take_weights`` serve a
model that is in training in the same process (vLLM's colocate).
"""

import os
import random
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from kd_lab.readable import reason_of
from kd_lab.rollout.sampling import Completion, Sampling, answer_seed

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel
    from vllm import LLM

CPU_TOKENS = 4096  # of prompts, that a CPU reads at a time
NEVER = -100.0  # added to the logits of padding rows; the most that vLLM allows


def load(
    name_or_path: str, revision: str | None, *, dtype: str, max_length: int, batch_size: int
) -> "LLM":
    """The model in vLLM, on one GPU (or, with a vLLM made for it, on the CPU).

    Args:
        dtype: "float32", "bfloat16" or "float16".
        max_length: of prompt and answer together, in tokens.
        batch_size: answers written at a time, at most.
    """
    from vllm import LLM

    llm = LLM(
        model=name_or_path,
        revision=revision,
        tokenizer_revision=revision,
        dtype=dtype,
        **_running(max_length, batch_size),
    )
    if _several_processes():
        _leave_process_groups(llm)
    return llm


def load_shape(
    model: "PreTrainedModel", *, dtype: str, max_length: int, batch_size: int, memory_share: float
) -> "LLM":
    """An engine of the model's shape in this process; its weights come by ``take_weights``.

    Args:
        model: in training; only its configuration is read. So it may be in no folder.
        dtype: "float32", "bfloat16" or "float16".
        max_length: of prompt and answer together, in tokens.
        batch_size: answers written at a time, at most.
        memory_share: of the GPU's memory, for weights and cache.
    Raises:
        ValueError: vLLM has no such model, or no memory for it.
    """
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # in this process it can be given tensors
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    from vllm import LLM

    with tempfile.TemporaryDirectory(prefix="kd-lab-") as folder, _random_state_kept():
        config = model.config.__class__.from_dict(model.config.to_dict())
        config.architectures = [type(model).__name__]
        config.save_pretrained(folder)
        try:
            llm = LLM(
                model=folder,
                load_format="dummy",
                dtype=dtype,
                gpu_memory_utilization=memory_share,
                **_running(max_length, batch_size),
            )
        except Exception as error:  # of vLLM and torch, which have no common base
            raise ValueError(
                f"rollout_engine vllm: vLLM does not take this model here: {reason_of(error)}; say "
                "--rollout_engine transformers"
            ) from error
    _leave_process_groups(llm)
    return llm


def _running(max_length: int, batch_size: int) -> dict[str, Any]:
    """How an engine runs, whatever its model."""
    import torch

    settings: dict[str, Any] = {
        "max_model_len": max_length,
        "max_num_seqs": batch_size,
        "skip_tokenizer_init": True,  # token ids in, token ids out
    }
    if not torch.cuda.is_available():
        settings |= {
            "enforce_eager": True,  # a CPU compiles longer than it saves
            # vLLM 0.32 fails there on a prompt with a seed that it reads in parts.
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(max_length, CPU_TOKENS),
        }
    if _several_processes():  # each has its own engine, on its own GPU
        settings["distributed_executor_backend"] = "external_launcher"
    return settings


def _several_processes() -> bool:
    """Whether a launcher started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _leave_process_groups(llm: "LLM") -> None:
    """An engine in this process destroys all process groups when it goes, the training's too."""
    engine: Any = llm.llm_engine.engine_core
    engine._finalizer.detach()


def take_weights(llm: "LLM", weights: "Iterable[tuple[str, Tensor]]") -> None:
    """Answers are of these weights from now on.

    Args:
        llm: from ``load_shape``.
        weights: name and value of every weight, from ``whole_weights``.
    """
    llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights)})
    llm.reset_prefix_cache()  # its keys and values are of the weights before


def row_logprobs(llm: "LLM", rows: Sequence[Sequence[int]]) -> list[list[float]]:
    """The log-probability of each token but the first, in nats, over all rows of the LM head.

    Args:
        rows: token ids, at least two each.
    """
    from vllm import SamplingParams

    asked = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False)
    prompts: Any = [{"prompt_token_ids": list(row)} for row in rows]
    outputs = llm.generate(prompts, asked, use_tqdm=False)
    return [
        [at[token].logprob for at, token in zip(output.prompt_logprobs[1:], row[1:], strict=True)]
        for output, row in zip(outputs, rows, strict=True)
    ]


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """vLLM sets the seeds of this process when an engine starts; training has its own."""
    import torch

    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  (vLLM's)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


def write_answers(
    llm: "LLM",
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    eos_token_ids: Collection[int],
    seed: int,
    vocab_size: int | None = None,
    first_row: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Completion]:
    """Write one answer to each prompt; as ``transformers_engine.write_answers``, except

    Args:
        llm: from ``load``.
        progress: called once, at the end.
    Raises:
        ValueError: an empty prompt (says which).
    """
    from vllm import SamplingParams

    for place, prompt in enumerate(prompts, start=first_row):
        if len(prompt) == 0:
            raise ValueError(f"prompt {place} is empty: an answer needs a token to come after")
    rows = llm.model_config.hf_text_config.vocab_size
    padding = range(rows if vocab_size is None else vocab_size, rows)
    settings = [
        SamplingParams(
            max_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            seed=answer_seed(seed, place),
            stop_token_ids=sorted(eos_token_ids),
            ignore_eos=True,  # only the tokens just given end an answer
            logit_bias=dict.fromkeys(padding, NEVER) or None,
            detokenize=False,
        )
        for place in range(first_row, first_row + len(prompts))
    ]
    outputs = llm.generate(
        [{"prompt_token_ids": list(prompt)} for prompt in prompts], settings, use_tqdm=False
    )
    answers = [
        Completion(list(output.outputs[0].token_ids), output.outputs[0].finish_reason == "stop")
        for output in outputs
    ]
    if progress is not None:
        progress(len(answers), sum(len(answer.tokens) for answer in answers))
    return answers
