"""Answers through a vLLM server: the same call as kd_lab.rollout.vllm_engine, over HTTP.

The server is vLLM's own, unchanged, of the protocol of OpenAI's completions. Token ids go to it and
come back, so neither side splits text. Each answer is a request with its own seed, as vllm_engine
draws it. For a training it also takes weights, from a file that both sides see:

    VLLM_SERVER_DEV_MODE=1 vllm serve STUDENT --max-model-len 2048 \\
        --host 127.0.0.1                                              # in vLLM's environment
    kd-lab train ... --rollout_engine vllm --vllm_mode server \\
        --vllm_server_base_url http://127.0.0.1:8000                  # in any other

Without --host vLLM listens on every interface, and in this mode it obeys all who reach its port.
From another machine, ``ssh -L 8000:127.0.0.1:8000 SERVER`` reaches it at the same address. An
address of a private network, as --host, does so without ssh.

Before its first answer a server is compared with what the run expects (handshake.py).
"""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kd_lab.rollout.sampling import Completion, Sampling, answer_seed
from kd_lab.rollout.vllm_engine import NEVER

if TYPE_CHECKING:
    from torch import Tensor

# A server takes what a request leaves open from the model's generation_config.json, which for many
# a model has a repetition penalty. So a request leaves nothing open.
AS_THE_MODEL_SAYS = {
    "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
}  # fmt: skip
PATIENCE = 3600.0  # seconds that a request may take: a full server lets requests wait
WEIGHTS = "model.safetensors"


class Server:
    """A vLLM server, by its address; the model that it serves is asked once.

    Args:
        base_url: such as http://127.0.0.1:8000, with or without /v1 at its end.
    Raises:
        OSError: nothing answers there.
        ValueError: what answers lists no model.
    """

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url.rstrip("/").removesuffix("/v1")
        served = self.get("/v1/models").get("data") or []
        if not served or "id" not in served[0]:
            raise ValueError(f"{self.base_url} lists no model: is it a vLLM server?")
        self.model: str = served[0]["id"]
        self.root: str = served[0].get("root") or self.model  # the folder or name it was loaded by
        self.max_length: int | None = served[0].get("max_model_len")  # of prompt and answer

    def get(self, path: str) -> Any:
        """What the server says there; raises as ``post``."""
        return self._ask(path, None)

    def post(self, path: str, **body: Any) -> Any:
        """What the server answers to a body of JSON.

        Raises:
            OSError: nothing answers.
            ValueError: the server refuses; with its own reason.
        """
        return self._ask(path, json.dumps(body).encode())

    def _ask(self, path: str, body: bytes | None) -> Any:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("VLLM_API_KEY"):  # the server's own variable for its --api-key
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.base_url + path, body, headers)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            said = _reason(error.read())
            raise ValueError(
                f"{self.base_url}{path} refuses ({error.code}{said and ': ' + said})"
            ) from error
        except OSError as error:  # URLError and timeouts too
            reason = getattr(error, "reason", error)
            raise OSError(f"no server answers at {self.base_url}: {reason}") from error
        if not text:
            return None
        try:
            return json.loads(text)
        except ValueError as error:
            raise ValueError(
                f"{self.base_url}{path} answers no JSON: is it a vLLM server?"
            ) from error

    def complete(self, prompt: Sequence[int], sampling: Sampling, **more: Any) -> list[dict]:
        """The choices of one request: ``token_ids``, ``finish_reason`` and what ``more`` asks for.

        Raises:
            OSError, ValueError: as ``post``; or the server returns no token ids.
        """
        choices = self.post(
            "/v1/completions",
            model=self.model,
            prompt=list(prompt),
            max_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            **AS_THE_MODEL_SAYS,
            ignore_eos=True,  # only the tokens that the request names end an answer
            skip_special_tokens=False,
            return_token_ids=True,
            **more,
        )["choices"]
        if any(choice.get("token_ids") is None for choice in choices):
            raise ValueError(
                f"{self.base_url} returns no token ids: KD Lab needs a vLLM server (0.32 does)"
            )
        return choices


def write_answers(
    server: Server,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    eos_token_ids: Collection[int],
    seed: int,
    batch_size: int,
    rows: int,
    vocab_size: int | None = None,
    first_row: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Completion]:
    """Write one answer to each prompt; as ``transformers_engine.write_answers``, except

    Args:
        batch_size: requests at a time, at most.
        rows: of the served model's LM head, padding rows included.
        progress: called after each answer.
    Raises:
        ValueError: an empty prompt (says which), or the server refuses.
        OSError: the server does not answer.
    """
    for place, prompt in enumerate(prompts, start=first_row):
        if len(prompt) == 0:
            raise ValueError(f"prompt {place} is empty: an answer needs a token to come after")
    ends = sorted(eos_token_ids)
    never = {str(row): NEVER for row in range(rows if vocab_size is None else vocab_size, rows)}

    def answer(place: int, prompt: Sequence[int]) -> Completion:
        (choice,) = server.complete(
            prompt, sampling, seed=answer_seed(seed, place), stop_token_ids=ends, logit_bias=never
        )
        tokens, stopped = choice["token_ids"], choice["finish_reason"] == "stop"
        if stopped and (not tokens or tokens[-1] not in eos_token_ids):
            raise ValueError(
                f"{server.base_url} ended answer {place} at another token than {ends}: start it "
                "with --generation-config vllm"
            )
        if progress is not None:
            progress(1, len(tokens))
        return Completion(tokens, stopped)

    with ThreadPoolExecutor(batch_size) as pool:
        return list(pool.map(answer, range(first_row, first_row + len(prompts)), prompts))


def row_logprobs(server: Server, rows: Sequence[Sequence[int]]) -> list[list[float]]:
    """The log-probability of each token but the first, in nats, over all rows of the LM head.

    Args:
        rows: token ids, at least two each.
    Raises:
        ValueError, OSError: as ``Server.complete``.
    """
    asked, found = Sampling(max_new_tokens=1, temperature=0), []
    for row in rows:
        (choice,) = server.complete(row, asked, prompt_logprobs=0)
        tokens = zip(choice["prompt_logprobs"][1:], row[1:], strict=True)
        found.append([at[str(token)]["logprob"] for at, token in tokens])
    return found


def take_weights(server: Server, weights: "Iterable[tuple[str, Tensor]]", folder: Path) -> None:
    """Answers are of these weights from now on.

    Args:
        weights: name and value of every weight, from ``whole_weights``.
        folder: to write them to for a while; the server must see it under the same path.
    Raises:
        ValueError: the server takes no weights, or does not find them.
        OSError: the server does not answer, or the disk is full.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    path = folder.resolve() / WEIGHTS
    try:
        save_file({name: weight.contiguous().cpu() for name, weight in weights}, path)
        server.post(
            "/collective_rpc",
            method="reload_weights",
            kwargs={"weights_path": str(folder.resolve())},
        )
        if not (server.post("/reset_prefix_cache") or {"success": True})["success"]:
            raise ValueError(
                f"{server.base_url} keeps keys and values of earlier weights, since others ask it "
                "too: give the training a server of its own"
            )
    finally:
        path.unlink(missing_ok=True)


def _reason(body: bytes) -> str:
    """The server's own words, in one line."""
    try:
        said = json.loads(body)
        words = said.get("detail") or said["error"]
        words = words.get("message", words) if isinstance(words, dict) else words
    except (ValueError, KeyError, TypeError, AttributeError):
        words = body.decode(errors="replace")
    return " ".join(str(words).split())[:300]
