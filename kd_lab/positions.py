"""Whether a model has positions enough for what it is to read: one limit and one line for all.

A learned position beyond the last one does not exist, and the model fails. A rotary one does, but
the model was never trained there, and gets worse without a word. Both are refused. Who stretches
rotary positions says so in the model's config.json, which the limit is read from: by a larger
``max_position_embeddings``, or by a factor in ``rope_parameters`` (YaRN).
"""

from typing import Any

LIMITS = ("max_position_embeddings", "max_seq_len")  # transformers' names; MPT has the second


def position_limit(config: Any) -> int | None:
    """The most tokens that a model can read; None where its configuration has no limit.

    Args:
        config: a model's configuration of transformers.
    """
    text = config.get_text_config()
    limits = [getattr(text, name, None) for name in LIMITS]
    limit = next((limit for limit in limits if isinstance(limit, int) and limit > 0), None)
    if limit is None:
        return None
    rope = getattr(text, "rope_parameters", None) or {}
    for kind in (rope, *(part for part in rope.values() if isinstance(part, dict))):
        trained = kind.get("original_max_position_embeddings") or limit
        limit = max(limit, int(trained * (kind.get("factor") or 1)))
    return limit


def check_positions(
    name: str, config: Any, what: str, tokens: int, lower: str, max_new_tokens: int = 0
) -> None:
    """Refuse tokens for which a model has no positions.

    Args:
        name: of the model, for the message.
        config: its configuration.
        what: it is to read: "the longest training row".
        tokens: how many that are.
        lower: the options that make it shorter.
        max_new_tokens: how many more it may write.
    Raises:
        ValueError: names the model, its limit, the length and the options.
    """
    limit = position_limit(config)
    if limit is None or tokens + max_new_tokens <= limit:
        return
    more = f", with max_new_tokens {max_new_tokens:,}," if max_new_tokens else ""
    raise ValueError(
        f"{name or type(config).__name__} has {limit:,} positions, and {what} of {tokens:,} tokens"
        f"{more} needs {tokens + max_new_tokens:,}: lower {lower}"
    )
