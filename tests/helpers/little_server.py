"""A server of a small model that speaks the part of vLLM's protocol that KD Lab uses.

A model, a tokenizer and an HTTP server, all real and in this process; what differs from the run's
expectation is set on it. vLLM itself is met in the checks of `make test-vllm`.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

MODEL = "little"


@dataclass
class LittleServer:
    """What is served, and how; ``address`` comes once it serves."""

    model: Any
    tokenizer: Any
    version: str = "0.32.1"
    max_model_len: int = 128
    takes_weights: bool = True  # whether its paths for that exist
    loads_weights: bool = True  # and have an effect
    temperature: float | None = None  # instead of the one that a request asks for
    returns_ids: bool = True
    address: str = ""
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)  # path and body

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Raises KeyError for a path that is not served."""
        self.asked.append((path, body))
        if path in ("/collective_rpc", "/reset_prefix_cache") and not self.takes_weights:
            raise KeyError(path)
        return {
            "/v1/models": self._models,
            "/version": lambda body: {"version": self.version},
            "/tokenize": self._tokenize,
            "/detokenize": lambda body: {"prompt": self.tokenizer.decode(body["tokens"])},
            "/v1/completions": self._complete,
            "/collective_rpc": self._rpc,
            "/reset_prefix_cache": lambda body: {"success": True},
        }[path](body)

    def _models(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"data": [{"id": MODEL, "root": MODEL, "max_model_len": self.max_model_len}]}

    def _tokenize(self, body: dict[str, Any]) -> dict[str, Any]:
        if "messages" in body:
            ids = self.tokenizer.apply_chat_template(
                body["messages"], tools=body.get("tools"), add_generation_prompt=True
            )["input_ids"]
        else:
            ids = self.tokenizer(body["prompt"], add_special_tokens=False)["input_ids"]
        return {"tokens": list(ids)}

    def _rpc(self, body: dict[str, Any]) -> dict[str, Any]:
        if body["method"] == "reload_weights" and self.loads_weights:
            folder = Path(body["kwargs"]["weights_path"])
            self.model.load_state_dict(load_file(folder / "model.safetensors"))
        return {"results": [None]}

    @torch.no_grad()
    def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(body.get("seed") or 0)
        temperature = body["temperature"] if self.temperature is None else self.temperature
        bias = torch.zeros(self.model.config.vocab_size)
        for token, value in body.get("logit_bias", {}).items():
            bias[int(token)] += value
        if "allowed_token_ids" in body:
            bias -= torch.inf
            bias[body["allowed_token_ids"]] = 0
        first, choices = self._logits(body["prompt"]), []
        asked_for = self._logprobs(body, first.log_softmax(-1))
        for _ in range(body.get("n", 1)):
            tokens: list[int] = []
            while len(tokens) < body["max_tokens"] and not (
                tokens and tokens[-1] in body.get("stop_token_ids", [])
            ):
                logits = (self._logits([*body["prompt"], *tokens]) if tokens else first)[-1] + bias
                if temperature == 0:
                    tokens.append(int(logits.argmax()))
                    continue
                weights = (logits / temperature).softmax(-1)
                tokens.append(int(weights.multinomial(1, generator=generator)))
            stopped = bool(tokens) and tokens[-1] in body.get("stop_token_ids", [])
            choice: dict[str, Any] = {"finish_reason": "stop" if stopped else "length"}
            if self.returns_ids:
                choice["token_ids"] = tokens
            choices.append(choice | asked_for)
        return {"choices": choices}

    def _logprobs(self, body: dict[str, Any], logp: torch.Tensor) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if body.get("logprobs"):
            values, tokens = logp[-1].topk(body["logprobs"])
            named = zip(tokens.tolist(), values.tolist(), strict=True)
            found["logprobs"] = {"top_logprobs": [{f"token_id:{t}": v for t, v in named}]}
        if body.get("prompt_logprobs") is not None:
            found["prompt_logprobs"] = [None] + [
                {str(token): {"logprob": float(logp[place, token])}}
                for place, token in enumerate(body["prompt"][1:])
            ]
        return found

    def _logits(self, ids: list[int]) -> torch.Tensor:
        return self.model(input_ids=torch.tensor([ids])).logits[0].float()


@contextmanager
def serving(little: LittleServer) -> Iterator[LittleServer]:
    """It answers at ``little.address`` while the block lasts."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply({})

        def do_POST(self) -> None:
            self._reply(json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}"))

        def _reply(self, body: dict[str, Any]) -> None:
            try:
                status, said = 200, little.answer(self.path, body)
            except KeyError:
                status, said = 404, {"detail": "Not Found"}
            data = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *words: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    little.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield little
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
