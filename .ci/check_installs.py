"""Resolve what each install command of the README takes, as a stranger's machine would.

    make check-installs

``uv pip compile`` reads metadata only, for another platform and Python too. It sees neither pip's
configuration nor local wheels, and takes wheels only, but for the packages in SDISTS. Whoever can
install `dev` can install each extra that it contains, so these are resolved only where it fails.
One line says what was found for a command on a platform. A failure is told with uv's reason, and
the exit code is then 1.
"""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
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
    """Some commands of the README, the extras that they install, and where they must work."""

    extras: tuple[str, ...]
    platforms: tuple[str, ...]
    commands: dict[str, tuple[str, ...]]  # each with its own extras
    constrained: bool = True


INSTALLS = (
    Install(
        ("dev",),
        (LINUX_X86, LINUX_ARM, MACOS),
        {
            "make figures": (),
            "make demo": ("demo",),
            "make site": ("site",),
            "make notebooks": ("notebooks",),
            "make test, conda": ("dev",),
            "pip install -e '.[llm]'": ("llm",),
            "pip install -e '.[deepspeed]'": ("deepspeed",),  # on macOS it leaves DeepSpeed out
        },
    ),
    Install(
        ("llm", "notebooks"),
        (WINDOWS,),
        {
            "pip install -e .": (),
            "pip install -e '.[llm]'": ("llm",),
            "pip install -e '.[notebooks]'": ("notebooks",),
        },
    ),
    # In an environment of its own: vLLM wants an older transformers than constraints.txt has.
    Install(
        ("vllm",),
        (LINUX_X86, LINUX_ARM),
        {"pip install -e '.[vllm]'": ("vllm",)},
        constrained=False,
    ),
)


def resolve(extras: tuple[str, ...], platform: str, python: str, *, constrained: bool) -> str:
    """Why an install does not resolve, in uv's words; empty where it does."""
    words = ["pip", "compile", "--no-config", "--quiet", "pyproject.toml"]
    words += ["--python-platform", PLATFORMS[platform], "--python-version", python]
    words += ["--only-binary", ":all:", *(f"--no-binary={name}" for name in SDISTS)]
    words += [f"--extra={extra}" for extra in extras]
    if constrained:
        words += ["--constraint", "constraints.txt"]
    # uv's own settings, an index among them, may stand in the environment. PyTorch has no wheels
    # for a macOS before 14.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("UV_")}
    environment["MACOSX_DEPLOYMENT_TARGET"] = "14.0"
    done = subprocess.run([UV, *words], cwd=ROOT, env=environment, capture_output=True, text=True)
    return done.stderr.strip() if done.returncode else ""


def check(install: Install, platform: str, python: str) -> dict[str, str]:
    """For each command of an install, why it does not resolve."""
    whole = resolve(install.extras, platform, python, constrained=install.constrained)
    if not whole:
        return dict.fromkeys(install.commands, "")
    return {
        command: whole
        if extras == install.extras
        else resolve(extras, platform, python, constrained=install.constrained)
        for command, extras in install.commands.items()
    }


def main() -> int:
    start, failed = perf_counter(), False
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for install in INSTALLS:
            for platform in install.platforms:
                found = list(pool.map(partial(check, install, platform), PYTHONS))
                for command in install.commands:
                    whys = dict(zip(PYTHONS, (one[command] for one in found), strict=True))
                    told = (f"{python} {'FAILS' if why else 'ok'}" for python, why in whys.items())
                    print(f"{command:31}{platform:16}{', '.join(told)}", flush=True)
                    for python, why in whys.items():
                        if why:
                            failed = True
                            print(f"  {python}: {why}", flush=True)
    print(f"{perf_counter() - start:.0f} s")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
