"""evaluation.json: what ``kd-lab evaluate`` measured, read as it was written or refused by name.

So are the files that say how its model was trained.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from kd_lab.files import check_sealed, sealed, write_text
from kd_lab.runs.run_files import CONFIG, RESULT, VERSIONS

PARTS = {
    "metrics": Mapping, "weights": Mapping, "missing": Mapping, "speed": Mapping,
    "student": Mapping, "teacher": Mapping | None, "test_set": Mapping, "settings": Mapping,
    "versions": Mapping,
}  # fmt: skip
FIGURES = ("mean", "low", "high")
# libyaml's, where PyYAML was built with it: a config.yaml takes 1 ms in place of 12.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def write_evaluation(path: Path, evaluation: Mapping[str, Any]) -> None:
    """Write the file with its own checksum, whole or not at all."""
    write_text(path, json.dumps(sealed(evaluation), ensure_ascii=False) + "\n")


def read_sealed(path: Path) -> dict[str, Any]:
    """The file as it was written, its checksum compared.

    Raises:
        ValueError: it is no JSON, or was changed since; names the file.
    """
    try:
        evaluation = json.loads(path.read_bytes())
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error.msg} in line {error.lineno}") from error
    if not isinstance(evaluation, dict):
        raise ValueError(f"{path} is not what was written: it holds no mapping")
    check_sealed(path, evaluation)
    return evaluation


def read_evaluation(path: Path) -> dict[str, Any]:
    """The evaluation, once its checksum and its parts are found right.

    Raises:
        ValueError: as ``read_sealed``; or a part is missing or wrong; names the file and the part.
    """
    evaluation = read_sealed(path)
    for part, kind in PARTS.items():
        if part not in evaluation:
            raise ValueError(f"{path} was not written by kd-lab evaluate: it has no {part!r}")
        if not isinstance(evaluation[part], kind):  # type: ignore[arg-type]
            raise ValueError(f"{path}: {part} is {evaluation[part]!r}, and should be a mapping")
    for name, metric in evaluation["metrics"].items():
        _check_metric(path, name, metric, evaluation["weights"])
    return evaluation


def _check_metric(path: Path, name: str, metric: Any, weights: Mapping[str, Any]) -> None:
    if not isinstance(metric, Mapping):
        raise ValueError(f"{path}: the metric {name} is {metric!r}, and should be a mapping")
    for key in FIGURES:
        if not isinstance(metric.get(key), int | float) or not math.isfinite(metric[key]):
            raise ValueError(f"{path}: {key} of {name} is {metric.get(key)!r}, and no number")
    if not isinstance(metric.get("values"), list) or not metric["values"]:
        raise ValueError(f"{path}: {name} has no values")
    if metric.get("weights") is not None and metric["weights"] not in weights:
        raise ValueError(f"{path}: {name} counts by {metric['weights']!r}, which is not there")


def read_config(folder: Path) -> dict[str, Any]:
    """The settings of a training; empty where there was none.

    Raises:
        ValueError: config.yaml is no YAML, or no mapping; names the file.
    """
    path = folder / CONFIG
    if not path.is_file():
        return {}
    config = read_yaml(path)
    if not isinstance(config, dict) or "alpha" not in config or "prefixes" not in config:
        raise ValueError(f"{path} was not written by kd-lab train: it has no alpha and prefixes")
    return config


def read_inputs(folder: Path) -> dict[str, Any]:
    """What identifies a training's rows and models; empty where it is not on record.

    Raises:
        ValueError: versions.json is no JSON, or was changed since; names the file.
    """
    path = folder / VERSIONS
    return read_sealed(path).get("inputs", {}) if path.is_file() else {}


def read_yaml(path: Path) -> Any:
    """The file's value.

    Raises:
        ValueError: it is no YAML; names the file.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), LOADER)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or no date or number
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is not YAML: {reason}") from error


def check_may_write(folder: Path, model: str, identity: Mapping[str, str]) -> None:
    """Refuse to write the evaluation of one model into the folder of another.

    Args:
        folder: where evaluation.json would go.
        model: the name of the model that is evaluated.
        identity: of that model.
    Raises:
        ValueError: the folder is another model's, or holds another model's evaluation.
    """
    if folder.resolve() == Path(model).resolve():
        return
    if any((folder / name).is_file() for name in (CONFIG, "config.json")):
        raise ValueError(
            f"{folder} holds another model than {model}: give an --output_dir of its own to the "
            "evaluation"
        )
    path = folder / RESULT
    if path.is_file() and read_evaluation(path)["student"] != dict(identity):
        raise ValueError(
            f"{path} is of another model ({read_evaluation(path)['student'].get('name')}): give "
            "another --output_dir"
        )
