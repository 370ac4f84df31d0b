"""The model hub, asked once and briefly: a machine without a network says so in seconds.

The libraries retry for half a minute. Here one question with a short time-out decides. If the hub
does not answer, this process goes on offline, with its cache.
"""

import logging
from functools import cache
from pathlib import Path
from typing import Literal

logger = logging.getLogger(__name__)

SECONDS = 5.0  # to wait for the hub's answer

Kind = Literal["model", "dataset"]


@cache
def hub_commit(kind: Kind, name: str, revision: str | None = None) -> str | None:
    """The commit that a revision of a model or dataset names; None if the hub does not answer.

    A silent hub makes transformers, datasets and huggingface_hub of this process read only their
    caches, at once and without retries.

    Raises:
        ValueError: the hub has no such model, dataset or revision, or does not show it to us.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError

    if constants.is_offline_mode():
        _go_offline()
        return None
    ask = HfApi().model_info if kind == "model" else HfApi().dataset_info
    try:
        return ask(name, revision=revision, timeout=SECONDS).sha
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", 500)
        if status >= 500:
            reason = f"status {status}"
        else:
            at = f" at revision {revision}" if revision else ""
            raise ValueError(
                f"the hub shows no {kind} {name}{at} (status {status}): check the name, or log in "
                "with `hf auth login` if it is private or gated"
            ) from error
    except Exception as error:  # of the HTTP client, whose classes differ between versions
        reason = f"{type(error).__name__}: {error}"
    logger.warning("the hub does not answer (%s); going on with this machine's cache", reason)
    _go_offline()
    return None


def check_model_at_hand(key: str, name: str | None, revision: str | None = None) -> None:
    """Refuse a model of the hub that can be neither fetched nor found in this machine's cache.

    A local folder, or None, needs no hub.

    Raises:
        ValueError: names the key and the command that fetches the model beforehand; or as
            ``hub_commit``.
    """
    from huggingface_hub import try_to_load_from_cache

    if name is None or Path(name).expanduser().is_dir():
        return
    if hub_commit("model", name, revision) is not None:
        return
    if not isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
        at = f" --revision {revision}" if revision not in (None, "main") else ""
        folder = f"models/{name.rpartition('/')[2]}"
        raise ValueError(
            f"{key}: no network, and {name} is not in this machine's cache. Where there is one, "
            f"run `hf download {name}{at} --local-dir {folder}`, copy the folder here, and give "
            f"{folder}"
        )


def _go_offline() -> None:
    """Make the libraries read only their caches; they look at these values at every call."""
    import huggingface_hub.constants

    huggingface_hub.constants.HF_HUB_OFFLINE = True
    try:
        import datasets.config
    except ModuleNotFoundError:
        return
    datasets.config.HF_HUB_OFFLINE = True
