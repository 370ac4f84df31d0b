"""Who writes answers during training: the options, and what of them goes together.

    transformers         the model itself, token by token
    vllm, colocate       vLLM in each training process, which takes the writer's weights from it
    vllm, server         a vLLM server of version 0.32, which reads the weights from a file

vLLM wants an older transformers than the rest. So colocate runs in vLLM's own environment, where
the trainers run too; a server runs there, and the training in any. `make test-vllm` tests vLLM
0.32.0 with torch 2.13.0, transformers 5.19.0, TRL 1.16.0, accelerate 1.15.0 and PEFT 0.21.2.
"""

import importlib.util
from dataclasses import dataclass, field, fields

ENGINES = ("transformers", "vllm")
VLLM_MODES = ("colocate", "server")
HOW_TO_INSTALL = (
    "vLLM is not installed here: run in an environment of its own, pip install -e '.[vllm]' (on a "
    "CPU make .venv-vllm/.ready)"
)


@dataclass
class EngineArguments:
    """The engine that writes answers during training."""

    rollout_engine: str = field(
        default="transformers",
        metadata={
            "help": "Who computes the answers written during training: transformers, or vllm, "
            "which is several times as fast on a GPU."
        },
    )
    vllm_mode: str = field(
        default="colocate",
        metadata={
            "help": "rollout_engine vllm: colocate, in each training process; or server, a vLLM "
            "server that reads the weights of each step from output_dir."
        },
    )
    vllm_server_base_url: str | None = field(
        default=None,
        metadata={"help": "vllm_mode server: its address, such as http://127.0.0.1:8000."},
    )
    vllm_gpu_memory_utilization: float = field(
        default=0.3,
        metadata={"help": "vllm_mode colocate: share of a GPU's memory for vLLM, in (0, 1)."},
    )


def check_vllm() -> None:
    """Refuse an environment without vLLM.

    Raises:
        ValueError: vLLM is not installed; says how to install it.
    """
    if importlib.util.find_spec("vllm") is None:
        raise ValueError(HOW_TO_INSTALL)


def check_engine(args: EngineArguments) -> None:
    """Check the options of the engine alone, before anything is loaded.

    Raises:
        ValueError: an unknown word, an option without effect, no address, or no vLLM.
    """
    for name, known in ("rollout_engine", ENGINES), ("vllm_mode", VLLM_MODES):
        if getattr(args, name) not in known:
            raise ValueError(f"{name} must be one of {known}, not {getattr(args, name)!r}")
    if args.rollout_engine == "transformers":
        for of in fields(EngineArguments):
            if getattr(args, of.name) != of.default:
                raise ValueError(
                    f"{of.name} would have no effect with rollout_engine transformers: say "
                    "--rollout_engine vllm, or leave it out"
                )
        return
    if not 0 < args.vllm_gpu_memory_utilization < 1:
        raise ValueError(
            f"vllm_gpu_memory_utilization must lie in (0, 1), not "
            f"{args.vllm_gpu_memory_utilization}"
        )
    if args.vllm_mode == "server":
        if args.vllm_server_base_url is None:
            raise ValueError("vllm_mode server needs the server's address: vllm_server_base_url")
        check_address("vllm_server_base_url", args.vllm_server_base_url)
        return
    if args.vllm_server_base_url is not None:
        raise ValueError("vllm_server_base_url would have no effect: say --vllm_mode server too")


def check_address(key: str, address: str) -> None:
    """Refuse what is no address of a server.

    Raises:
        ValueError: names the key.
    """
    if not address.startswith(("http://", "https://")):
        raise ValueError(f"{key} must begin with http:// or https://, not {address!r}")
