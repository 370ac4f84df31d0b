"""A kd-lab command as a user runs it, in a folder that has a tiny teacher and student.

On a GPU it has a process of its own: accelerate keeps the device that a process first had. On a
CPU it runs in this process, since importing takes longer than the command.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.helpers.toy_pair import TOKENIZER, toy_model

ROOT = Path(__file__).parents[2]
TEACHER, STUDENT = "runs/tiny/teacher", "runs/tiny/start"  # as the recipes of tiny/ name them


def tiny_folder(folder: str, **student: object) -> Path:
    """A folder with both models, untrained.

    Args:
        student: what its configuration has besides.
    """
    root = Path(folder)
    models = ((TEACHER, toy_model(64, 2, seed=2)), (STUDENT, toy_model(32, 1, seed=1, **student)))
    for name, model in models:
        model.save_pretrained(root / name)
        TOKENIZER.save_pretrained(root / name)
    return root


def kd_lab(folder: Path, words: Sequence[str], device: str) -> None:
    """Run ``kd-lab`` with these words in the folder.

    Args:
        device: "cuda" or "cpu"; recipes of tiny/ ask for a CPU, which is overruled.
    Raises:
        ValueError: it failed; with the end of its message.
    """
    if words[0] == "train":
        words = [*words, "--use_cpu", str(device == "cpu").lower()]
    if device == "cpu" and not sees_a_gpu():
        from kd_lab.cli import main

        with contextlib.chdir(folder), contextlib.redirect_stdout(None):
            if main(words):
                raise ValueError(f"kd-lab {' '.join(words)} failed")
        return
    in_a_process(folder, [sys.executable, "-m", "kd_lab", *words], device)


def in_a_process(folder: Path, words: Sequence[str], device: str) -> None:
    """Run any command in the folder, with this checkout's kd_lab.

    Raises:
        ValueError: it failed; with the end of its message.
    """
    done = subprocess.run(
        words, cwd=folder, env=environment(device), capture_output=True, text=True
    )
    if done.returncode:
        raise ValueError(f"{' '.join(words)} failed:\n{done.stderr.strip()[-2000:]}")


def environment(device: str) -> dict[str, str]:
    """That of a command, without the GPU where it is to run on a CPU."""
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    return {**with_this_checkout(), "HF_HUB_OFFLINE": "1", **hidden}


def with_this_checkout() -> dict[str, str]:
    """The environment of this process, and this checkout first where Python looks for modules."""
    places = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places)}


def sees_a_gpu() -> bool:
    """Whether a command in this process would take a GPU."""
    import torch

    return torch.cuda.is_available()
