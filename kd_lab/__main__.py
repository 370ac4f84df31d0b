"""``python -m kd_lab`` is ``kd-lab``: the form that torchrun and accelerate launch."""

import sys

from kd_lab.cli import main

if __name__ == "__main__":
    sys.exit(main())
