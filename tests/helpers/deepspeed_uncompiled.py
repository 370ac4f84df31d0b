"""DeepSpeed, where it compiles nothing: for the server of forked_processes, which imports it.

On CPUs it would compile an all-reduce of its own for inference, 40 seconds on two cores. No
training uses it.
"""

from deepspeed import ops

ops.__compatible_ops__["deepspeed_shm_comm"] = False
