"""Resolve what each install command of the README takes, as a stranger's machine would.

    make check-installs

``uv pip compile`` reads metadata only, for another platform and Python too. It sees neither pip's
configuration nor local wheels. Wheels are required, but of the packages in SDISTS. One line says
what was resolved for a command on a platform; one that fails is told with uv's reason, exit code 1.
"""

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
UV = Path(sys.executable).with_name("uv")

# The lowest patch that pyproject.toml allows, then uv's reading of a minor version, its lowest;
# 3.11.5 besides, where the pin of soupsieve changes.
PYTHONS = ("3.11.0", "3.11.5", "3.12", "3.13", "3.14")
LINUX_X86, LINUX_ARM = "Linux x86-64", "Linux aarch64"
MACOS, WINDOWS = "macOS 14 arm64", "Windows x86-64"
PLATFORMS = {
    LINUX_X86: "x86_64-unknown-linux-gnu",  # glibc 2.28
    LINUX_ARM: "aarch64-unknown-linux-gnu",
    MACOS: "aarch64-apple-darwin",
    WINDOWS: "x86_64-pc-windows-msvc",
}
# They are published as source only; neither needs a compiler to install.
SDISTS = ("deepspeed", "rouge-score")


class Install(NamedTuple):
    """A command of the README, the extra that it installs, and where it is said to work."""

    command: str
    extra: str | None
    platforms: tuple[str, ...]
    constrained: bool = True


UNIX = (LINUX_X86, LINUX_ARM, MACOS)
INSTALLS = (
    Install("make figures", None, UNIX),
    Install("make demo", "demo", UNIX),
    Install("make site", "site", UNIX),
    Install("make notebooks", "notebooks", UNIX),
    Install("make test, conda", "dev", UNIX),
    Install("pip install -e .", None, (WINDOWS,)),
    Install("pip install -e '.[llm]'", "llm", (*UNIX, WINDOWS)),
    Install("pip install -e '.[notebooks]'", "notebooks", (WINDOWS,)),
    Install("pip install -e '.[deepspeed]'", "deepspeed", (LINUX_X86, LINUX_ARM)),
    # In an environment of its own: vLLM wants an older transformers than constraints.txt has.
    Install("pip install -e '.[vllm]'", "vllm", (LINUX_X86, LINUX_ARM), constrained=False),
)


def resolve(install: Install, platform: str, python: str) -> str:
    """Why an install does not resolve; empty where it does."""
    with tempfile.TemporaryDirectory() as folder:
        words = [UV, "pip", "compile", "--no-config", "--quiet", "pyproject.toml"]
        words += ["--output-file", Path(folder, "resolved.txt")]
        words += ["--python-platform", PLATFORMS[platform], "--python-version", python]
        words += ["--only-binary", ":all:"]
        for name in SDISTS:
            words += ["--no-binary", name]
        if install.extra is not None:
            words += ["--extra", install.extra]
        if install.constrained:
            words += ["--constraint", "constraints.txt"]
        done = subprocess.run(words, cwd=ROOT, env=strangers(), capture_output=True, text=True)
    return done.stderr.strip() if done.returncode else ""


def strangers() -> dict[str, str]:
    """The environment of a machine on which nobody has set up uv; macOS is the oldest with torch."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("UV_", "PIP_"))}
    cache = {name: os.environ[name] for name in ("UV_CACHE_DIR",) if name in os.environ}
    return kept | cache | {"MACOSX_DEPLOYMENT_TARGET": "14.0"}


def main() -> int:
    start, failed = perf_counter(), False
    lines = [(install, platform) for install in INSTALLS for platform in install.platforms]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(
            pool.map(lambda one: resolve(*one[0], one[1]), product(lines, PYTHONS))
        )
    for number, (install, platform) in enumerate(lines):
        reasons = found[number * len(PYTHONS) : (number + 1) * len(PYTHONS)]
        told = [f"{python} {'fails' if why else 'ok'}" for python, why in zip(PYTHONS, reasons, strict=True)]
        print(f"{install.command:31}{platform:16}{', '.join(told)}")
        for python, why in zip(PYTHONS, reasons, strict=True):
            if why:
                failed = True
                print(f"  {python}: {why}", file=sys.stderr)
    print(f"{len(found)} resolved in {perf_counter() - start:.0f} s")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
