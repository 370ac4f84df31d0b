"""A served model is compared with what the run expects, before its first answer is used.

Each function asks a few short questions and refuses by the name of what differs: the room for an
answer, the version, the tokenizer, the chat template, the temperature, the log-probabilities. A run
on answers of another model, or of another temperature, would look like any other.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from kd_lab.loss.plain_logits import eval_mode
from kd_lab.rollout.sampling import Sampling
from kd_lab.rollout.vllm_server import Server

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SERIES = "0.32"  # of the vLLM that takes weights as this project sends them
MOST_IDS = 4096  # of the vocabulary that are compared, spread over it evenly
TEXT = "Ärger: 12,345 = 5·2469?\n\tdef f(x):  return x**2  # ∀x — 你好, 🙂 it's"
DRAWS = 1024  # of one token, to tell the temperature by
LIKELIEST = 20  # tokens to choose a pair from; the most that a server gives by default
TELLING = 1.5  # the difference of a pair's log-probabilities over T at which T tells most
DEVIATIONS = 5.0  # of the binomial's standard deviations; by chance once in two million
# Mean difference of log-probabilities, in nats a token. Two precisions of one model differ by
# hundredths; two models, or two steps of a fast training, by tenths and more.
TOLERANCE = 0.1


def check_room(server: Server, longest: int) -> None:
    """Refuse a server that has no room for the longest prompt and its answer.

    Args:
        longest: of prompt and answer together, in tokens.
    Raises:
        ValueError: names both numbers, and the server's option.
    """
    if server.max_length is not None and server.max_length < longest:
        raise ValueError(
            f"{server.base_url} serves {server.max_length:,} tokens of prompt and answer, and the "
            f"run needs {longest:,}: start it with --max-model-len {longest}"
        )


def check_takes_weights(server: Server) -> None:
    """Refuse a server of another version, or one that takes no weights.

    Raises:
        ValueError: names the version, or the variable to start it with.
    """
    version = str(server.get("/version").get("version"))
    if not version.startswith(f"{SERIES}."):
        raise ValueError(
            f"{server.base_url} is vLLM {version}, and KD Lab sends weights as vLLM {SERIES} takes "
            "them: pip install -e '.[vllm]' in the server's environment"
        )
    try:
        server.post("/collective_rpc", method="check_health")
    except ValueError as error:
        raise ValueError(
            f"{server.base_url} takes no weights: start it with VLLM_SERVER_DEV_MODE=1, and --host "
            f"127.0.0.1, since it then obeys all who reach its port ({error})"
        ) from error


def check_tokenizer(server: Server, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Compare ids with tokens, special tokens included, and the splitting of a line of text.

    Raises:
        ValueError: names an id that means something else to the server, or the text.
    """
    size = len(tokenizer)
    ids = list(range(0, size, max(1, size // MOST_IDS)))
    ids += sorted({*tokenizer.all_special_ids, size - 1} - {*ids})
    if not _same_text(server, tokenizer, ids):
        first = _first_that_differs(server, tokenizer, ids)
        raise ValueError(
            f"{server.base_url} serves {server.root} with another tokenizer: id {first} is "
            f"{_decoded(tokenizer, [first])!r} here and {_served_text(server, [first])!r} there"
        )
    specials = "".join(tokenizer.all_special_tokens)
    for text in TEXT, specials:
        own: Any = tokenizer(text, add_special_tokens=False)["input_ids"]
        if list(own) != _tokenized(server, prompt=text, add_special_tokens=False):
            raise ValueError(
                f"{server.base_url} serves {server.root} with another tokenizer: it splits "
                f"{text[:20]!r} into other tokens"
            )


def check_template(
    server: Server, conversations: Sequence[Mapping[str, Any]], prompts: Sequence[Sequence[int]]
) -> None:
    """Compare the chat templates by the prompts that they make.

    Args:
        conversations: each has ``messages``, and maybe ``tools``.
        prompts: the token ids of each, as the run has them.
    Raises:
        ValueError: the server's template makes other tokens; names the first conversation.
    """
    for number, (talk, prompt) in enumerate(zip(conversations, prompts, strict=True)):
        tools = {"tools": talk["tools"]} if talk.get("tools") else {}
        served = _tokenized(server, messages=talk["messages"], **tools)
        if served != list(prompt):
            raise ValueError(
                f"{server.base_url} serves {server.root} with another chat template: prompt "
                f"{number} has {len(served)} tokens there and {len(prompt)} here, and they differ "
                f"from token {_common(served, prompt)} on; start it with --chat-template FILE"
            )


def check_temperature(server: Server, prompt: Sequence[int], temperature: float) -> None:
    """Let the server draw between two tokens many times, and compare how often each comes.

    The likelier one has the share 1 / (1 + exp(-d / T)), where d is the difference of their
    log-probabilities. Of the likeliest tokens that pair is taken which tells temperatures best.

    Args:
        prompt: token ids.
        temperature: T of the run's sampling; 0 is greedy.
    Raises:
        ValueError: the server draws at another temperature.
    """
    greedy = Sampling(max_new_tokens=1, temperature=0)
    (likeliest,) = server.complete(
        prompt, greedy, logprobs=LIKELIEST, return_tokens_as_token_ids=True
    )
    named: dict[str, float] = likeliest["logprobs"]["top_logprobs"][0]
    logp = {int(name.partition(":")[2]): value for name, value in named.items()}
    first = max(logp, key=lambda token: logp[token])
    if temperature == 0:
        share, pair = 1.0, [first, min(logp, key=lambda token: logp[token])]
    else:
        others = [token for token in logp if token != first]
        second = min(others, key=lambda t: abs(logp[first] - logp[t] - TELLING * temperature))
        share = 1 / (1 + math.exp(-(logp[first] - logp[second]) / temperature))
        pair = [first, second]
    drawn = Sampling(max_new_tokens=1, temperature=temperature)
    draws = 1 if temperature == 0 else DRAWS  # vLLM wants no more of one that is greedy
    # Without a seed: on a CPU vLLM 0.32 fails on seeded prompts that it reads in parts.
    choices = server.complete(prompt, drawn, n=draws, allowed_token_ids=pair)
    count = sum(choice["token_ids"][0] == first for choice in choices)
    spread = math.sqrt(draws * share * (1 - share))
    if abs(count - draws * share) > DEVIATIONS * spread:
        raise ValueError(
            f"{server.base_url} does not draw at temperature {temperature:g}: of {draws} draws "
            f"{count} were the likelier of two tokens, and {draws * share:.0f} should be"
        )


def check_logprobs(
    found: Sequence[Sequence[float]], own: Sequence[Sequence[float]], where: str, name: str
) -> None:
    """Compare what an engine gives for a few rows with the model that is expected.

    Args:
        found: log-probabilities of the rows' tokens, in nats, from the engine.
        own: from ``row_logprobs`` of the model that is expected.
        where: the engine, for the message.
        name: of the expected model, for the message.
    Raises:
        ValueError: they differ by more than two precisions of one model do.
    """
    differences = [
        abs(there - here)
        for theirs, ours in zip(found, own, strict=True)
        for there, here in zip(theirs, ours, strict=True)
    ]
    mean = sum(differences) / len(differences)
    if not mean <= TOLERANCE:
        raise ValueError(
            f"{where} has another model than {name}: its log-probabilities of {len(differences)} "
            f"tokens differ by {mean:.2f} nats each, and two precisions of one model by at most "
            f"{TOLERANCE}"
        )


@torch.no_grad()
def row_logprobs(model: "PreTrainedModel", rows: Sequence[Sequence[int]]) -> list[list[float]]:
    """The log-probability of each token but the first, in nats, over all rows of the LM head.

    Args:
        rows: token ids, at least two each.
    """
    found = []
    with eval_mode(model):
        for row in rows:
            ids = torch.tensor([list(row)], device=model.device)
            logp = model(input_ids=ids, use_cache=False).logits[0, :-1].float().log_softmax(-1)
            found.append(logp.gather(-1, ids[0, 1:, None])[:, 0].tolist())
    return found


def _same_text(server: Server, tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> bool:
    return _decoded(tokenizer, ids) == _served_text(server, ids)


def _first_that_differs(
    server: Server, tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]
) -> int:
    """An id whose text differs, by halves."""
    while len(ids) > 1:
        half = ids[: len(ids) // 2]
        ids = ids[len(half) :] if _same_text(server, tokenizer, half) else half
    return ids[0]


def _decoded(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False))


def _served_text(server: Server, ids: Sequence[int]) -> str:
    return server.post("/detokenize", model=server.model, tokens=list(ids))["prompt"]


def _tokenized(server: Server, **what: Any) -> list[int]:
    return server.post("/tokenize", model=server.model, **what)["tokens"]


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two rows begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
