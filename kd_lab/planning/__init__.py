"""The cost of a run before it starts: ``kd-lab plan`` and ``kd-lab recipe``."""
