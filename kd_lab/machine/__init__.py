"""The machine under a run: its GPUs, and the memory that a run took."""
