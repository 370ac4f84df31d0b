"""The test set of a source without a test split: a share of its prompts, held out by seed."""

from datasets import Dataset

from kd_lab.data.messages import prompt_key
from kd_lab.files import sha256_of

HELD_OUT = 0.05  # the default share of the prompts, for a command that tests


def hold_out(pool: Dataset, share: float, seed: int, name: str) -> tuple[Dataset, Dataset]:
    """Split by prompt: rows of one prompt stay together, so that no test prompt is trained.

    With the same seed, a larger share holds out the same prompts and more.

    Args:
        pool: conversations, of the column ``messages``.
        share: of the prompts, between 0 and 1; at least one is held out.
        name: the source's name, for messages.
    Returns:
        the rows to train and those to test on, in the order of the pool.
    Raises:
        ValueError: all rows have one prompt.
    """
    keys = [prompt_key(messages) for messages in pool["messages"]]

    def draw(key: str) -> str:
        return sha256_of(f"{seed} {key}")

    prompts = sorted(set(keys), key=draw)
    if len(prompts) < 2:
        raise ValueError(
            f"{name}: all conversations begin alike, so that none can be held out to test "
            "on; give --test_dataset"
        )
    held_out = set(prompts[: max(1, round(share * len(prompts)))])
    return (
        pool.select([i for i, key in enumerate(keys) if key not in held_out]),
        pool.select([i for i, key in enumerate(keys) if key in held_out]),
    )
