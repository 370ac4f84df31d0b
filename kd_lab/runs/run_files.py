"""The files of a run's folder: their names, and the content of two of them."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from enum import Enum
from pathlib import Path
from typing import Any

CONFIG, VERSIONS, METRICS, COMPLETE = "config.yaml", "versions.json", "metrics.jsonl", "complete"
RESULT = "evaluation.json"  # of kd-lab evaluate
SECRETS = ("hub_token", "push_to_hub_token")


def resolved_config(*arguments: Any) -> dict[str, Any]:
    """All settings of the argument dataclasses in one dict of plain values, as YAML has them.

    Secrets are left out.
    """
    config: dict[str, Any] = {}
    for of in arguments:
        values = of.to_dict() if hasattr(of, "to_dict") else asdict(of)
        names = {field.name for field in fields(of) if field.init}
        # transformers takes every name that ends so for a secret, and writes <EOS_TOKEN>.
        values |= {name: getattr(of, name) for name in names if name.endswith("_token")}
        config |= {name: _plain(value) for name, value in values.items() if name in names}
    return {name: value for name, value in config.items() if name not in SECRETS}


def evaluation_settings(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in evaluation.json, by their present names.

    Older evaluations stay readable, those of assets/results/ among them: they call
    sampling_temperature ``temperature``.
    """
    settings = dict(evaluation["settings"])
    if "temperature" in settings:
        settings["sampling_temperature"] = settings.pop("temperature")
    return settings


def read_metrics(folder: str | Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a last line that was cut off is left out.

    Raises:
        ValueError: a line before the last is no JSON object with a step; names the file and line.
    """
    path = Path(folder) / METRICS
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    metrics = []
    for number, line in enumerate(lines, 1):
        try:
            metrics.append(_with_step(json.loads(line)))
        except ValueError as error:  # no JSON, or not UTF-8
            if number < len(lines) or line.endswith(b"\n"):
                reason = " ".join(str(error).split())
                raise ValueError(f"{path}:{number}: not JSON of a training: {reason}") from error
    return metrics


def _with_step(line: Any) -> dict[str, Any]:
    """The line, if it is one of a training."""
    if not isinstance(line, dict) or not isinstance(line.get("step"), int):
        raise ValueError("it has no step")
    return line


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(item) for item in value]
    return value
