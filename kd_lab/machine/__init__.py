"""The machine under a run: GPUs, memory, and ``kd-lab doctor``."""
