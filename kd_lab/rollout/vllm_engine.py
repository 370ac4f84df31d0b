"""Answers through vLLM: the same call as kd_lab.rollout.transformers_engine, for GPUs.

vLLM batches by itself. It draws each answer with that answer's own generator. So the seed and an
answer's place fix it here too, but to another answer than in transformers.
"""

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np

from kd_lab.rollout.sampling import Completion, Sampling

if TYPE_CHECKING:
    from vllm import LLM

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
    import torch
    from vllm import LLM

    return LLM(
        model=name_or_path,
        revision=revision,
        tokenizer_revision=revision,
        dtype=dtype,
        max_model_len=max_length,
        max_num_seqs=batch_size,
        skip_tokenizer_init=True,  # token ids in, token ids out
        enforce_eager=not torch.cuda.is_available(),  # compiling takes a CPU longer than it saves
    )


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
            seed=int(np.random.SeedSequence([seed, place]).generate_state(1)[0]),
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
