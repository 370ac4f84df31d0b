"""How answers are sampled: the same options in every command that writes some."""

from dataclasses import dataclass, field

from kd_lab.rollout.sampling import Sampling

COMPILED_ATTENTION = "sdpa"  # which takes any mask; flash attention takes none
MOST_TOKENS = 10_000_000  # of an answer; no model has as many positions
TOP_P = "Nucleus sampling: keep the likeliest tokens that together have this probability."


@dataclass
class SamplingArguments:
    """How answers are sampled."""

    max_new_tokens: int = field(
        default=512, metadata={"help": "Most tokens of an answer; a longer one is cut off."}
    )
    sampling_temperature: float = field(
        default=1.0,
        metadata={"help": "1 samples the model's own distribution; 0 is greedy."},
    )
    top_p: float = field(
        default=1.0,
        metadata={"help": TOP_P},
    )
    top_k: int = field(
        default=0, metadata={"help": "Keep the k likeliest tokens only; 0 keeps all."}
    )
    rollout_batch_size: int = field(
        default=64,
        metadata={"help": "Answers written at the same time, per process; memory grows with it."},
    )
    compile_decode: bool = field(
        default=False,
        metadata={
            "help": "With transformers: compile the step of one token, on a GPU into a CUDA graph. "
            "It compiles for a minute or two."
        },
    )


def check_compiled(key: str, attention: str | None) -> None:
    """Refuse attention that compile_decode cannot take, where an option names it.

    Raises:
        ValueError: names the option, and the change to make.
    """
    if attention is not None and attention != COMPILED_ATTENTION:
        raise ValueError(
            f"compile_decode needs {COMPILED_ATTENTION} attention, and {key} is {attention}: set "
            f"{key} to {COMPILED_ATTENTION}, or leave compile_decode out"
        )


def sampling_of(args: SamplingArguments) -> Sampling:
    """How answers are drawn.

    Raises:
        ValueError: a setting outside its range.
    """
    if args.rollout_batch_size < 1:
        raise ValueError(f"rollout_batch_size must be at least 1, not {args.rollout_batch_size}")
    if args.max_new_tokens > MOST_TOKENS:
        raise ValueError(
            f"max_new_tokens must be at most {MOST_TOKENS:,}, not {args.max_new_tokens:,}"
        )
    if not 0 <= args.sampling_temperature < float("inf"):
        raise ValueError(
            f"sampling_temperature must be 0 (greedy) or positive, not {args.sampling_temperature}"
        )
    return Sampling(args.max_new_tokens, args.sampling_temperature, args.top_p, args.top_k)
