"""What the Makefile's environments take: megabytes on disk and seconds, each made anew.

    python benchmarks/install.py --json assets/results/bench_install.json

Every environment is made from nothing in a temporary folder and deleted again. Seconds are those of
this machine and its network; pip's cache is not used.
"""

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
from pathlib import Path

STAMPS = {"make figures": ".core", "make demo": ".demo", "make site": ".site", "make test": ".dev"}


def measure(stamp: str, folder: Path) -> dict[str, float | str]:
    """Make one environment; its size in MB, the seconds it took, and its build of torch."""
    started = time.perf_counter()
    subprocess.run(
        ["make", f"{folder}/{stamp}", f"VENV={folder}"],
        check=True,
        env=os.environ | {"PIP_NO_CACHE_DIR": "1"},
        stdout=subprocess.DEVNULL,
    )
    seconds = time.perf_counter() - started
    used = subprocess.run(["du", "-sm", str(folder)], check=True, capture_output=True, text=True)
    ask = "import torch; print(torch.__version__)"
    torch = subprocess.run(
        [folder / "bin" / "python", "-c", ask], check=True, capture_output=True, text=True
    )
    return {
        "megabytes": int(used.stdout.split()[0]),
        "seconds": round(seconds, 1),
        "torch": torch.stdout.strip(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--only", choices=list(STAMPS), action="append", help="default: all")
    options = parser.parse_args()
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for command in options.only or STAMPS:
        with tempfile.TemporaryDirectory() as folder:
            found[command] = measure(STAMPS[command], Path(folder) / "environment")
        print(f"{command}: {found[command]}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
