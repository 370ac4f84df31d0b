"""What a run will cost: ``kd-lab plan``."""
