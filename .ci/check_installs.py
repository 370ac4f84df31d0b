"""Resolve what each install command of the README takes, as a stranger's machine would.

    make check-installs

uv resolves an extra for all platforms and Pythons at once (``uv pip compile``, metadata only), and
then says for each of them whether every package has a wheel there (``uv pip sync --dry-run``). It
sees neither pip's configuration nor local wheels. Who can install `dev` can install each extra that
it contains. One line says what was found for a command on a platform; a failure is told with uv's
reason, and the exit code is then 1.
"""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
UV = Path(sys.executable).with_name("uv")

# Of a minor version uv takes the lowest patch. At 3.11.5 the pin of soupsieve changes.
PYTHONS = ("3.11.0", "3.11.5", "3.12", "3.13", "3.14")
PLATFORMS = {
    "Linux x86-64": "x86_64-unknown-linux-gnu",  # with glibc 2.28
    "Linux aarch64": "aarch64-unknown-linux-gnu",
    "macOS 14 arm64": "aarch64-apple-darwin",
    "Windows x86-64": "x86_64-pc-windows-msvc",
    "Linux x86-64, glibc 2.31": "x86_64-manylinux_2_31",
    "Linux aarch64, glibc 2.34": "aarch64-manylinux_2_34",
}
# Published as source only. Neither needs a compiler to install.
SDISTS = ("deepspeed", "rouge-score")


class Install(NamedTuple):
    """Some commands of the README, the extras that contain theirs, and where they must work."""

    extras: tuple[str, ...]
    platforms: tuple[str, ...]
    commands: tuple[str, ...]


INSTALLS = (
    Install(
        ("dev",),
        ("Linux x86-64", "Linux aarch64", "macOS 14 arm64"),
        (
            "make figures",
            "make demo",
            "make site",
            "make notebooks",
            "make test; conda",
            "pip install -e '.[llm]'",
            "pip install -e '.[deepspeed]'",  # on macOS it leaves DeepSpeed out
        ),
    ),
    Install(
        ("llm", "notebooks"),
        ("Windows x86-64",),
        ("pip install -e .", "pip install -e '.[llm]'", "pip install -e '.[notebooks]'"),
    ),
)
AT_A_TIME = 8  # uv waits for the registry most of the time
# In an environment of its own, without constraints.txt: vLLM wants an older transformers.
VLLM = Install(
    ("vllm",),
    ("Linux x86-64, glibc 2.31", "Linux aarch64, glibc 2.34"),
    ("pip install -e '.[vllm]'",),
)


def lock(install: Install, folder: Path) -> Path:
    """Resolve an install for every platform and Python; returns the list of its packages' files.

    Raises:
        ValueError: there is no such list; with uv's reason.
    """
    written = folder / f"pylock.{'-'.join(install.extras)}.toml"
    words = ["compile", *_of_project(install), "--constraint", "constraints.txt"]
    words += ["--universal", "--python-version", PYTHONS[0], "--format", "pylock.toml"]
    if why := _uv([*words, "--output-file", str(written)]):
        raise ValueError(why)
    return written


def lacking(locked: Path, platform: str, python: str) -> str:
    """What has no wheel on a platform, in uv's words; empty where all have."""
    words = ["sync", "--dry-run", "--offline", "--preview-features", "pylock", str(locked)]
    target = str(locked.with_suffix(""))
    return _uv([*words, "--target", target, *_on(platform, python), *_wheels()])


def unresolved(install: Install, platform: str, python: str) -> str:
    """Why an install by itself, without constraints.txt, does not resolve; empty where it does."""
    return _uv(["compile", *_of_project(install), *_on(platform, python), *_wheels()])


def _of_project(install: Install) -> list[str]:
    return ["pyproject.toml", *(f"--extra={extra}" for extra in install.extras)]


def _on(platform: str, python: str) -> list[str]:
    return ["--python-platform", PLATFORMS[platform], "--python-version", python]


def _wheels() -> list[str]:
    return ["--only-binary", ":all:", *(f"--no-binary={name}" for name in SDISTS)]


def _uv(words: list[str]) -> str:
    # Settings of this machine's user, an index among them, may stand in the environment. PyTorch
    # has no wheels for a macOS before 14.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("UV_")}
    environment["MACOSX_DEPLOYMENT_TARGET"] = "14.0"
    command = [UV, "pip", *words, "--no-config", "--quiet"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    return (done.stderr.strip() or f"uv exits with {done.returncode}") if done.returncode else ""


def _tell(install: Install, platform: str, whys: dict[str, str]) -> bool:
    """Print a line for each command; returns whether all Pythons are well."""
    told = ", ".join(f"{python} {'FAILS' if why else 'ok'}" for python, why in whys.items())
    for command in install.commands:
        print(f"{command:31}{platform:27}{told}", flush=True)
    for reason in dict.fromkeys(filter(None, whys.values())):
        print(f"  {reason}", flush=True)
    return not any(whys.values())


def main() -> int:
    start, well = perf_counter(), True
    with TemporaryDirectory() as folder, ThreadPoolExecutor(AT_A_TIME) as pool:
        locks = pool.map(partial(lock, folder=Path(folder)), INSTALLS)
        minors = [python for python in PYTHONS if python != "3.11.5"]
        alone = {  # the longest of all, so it begins at once
            platform: pool.map(partial(unresolved, VLLM, platform), minors)
            for platform in VLLM.platforms
        }
        for install, locked in zip(INSTALLS, locks, strict=True):
            for platform in install.platforms:
                whys = pool.map(partial(lacking, locked, platform), PYTHONS)
                well &= _tell(install, platform, dict(zip(PYTHONS, whys, strict=True)))
        for platform, whys in alone.items():
            well &= _tell(VLLM, platform, dict(zip(minors, whys, strict=True)))
    print(f"{perf_counter() - start:.0f} s")
    return 0 if well else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ValueError as error:
        sys.exit(f"check-installs: {error}")
