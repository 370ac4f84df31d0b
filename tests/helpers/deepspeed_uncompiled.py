"""DeepSpeed, where it compiles nothing: for the server of forked_processes, which imports it.

On CPUs it would compile an all-reduce of its own for inference, 40 seconds on two cores. No
training uses it.
"""

import importlib

from deepspeed import ops

importlib.import_module("torch._inductor.compile_fx")  # of its first step, a second a process
ops.__compatible_ops__["deepspeed_shm_comm"] = False
