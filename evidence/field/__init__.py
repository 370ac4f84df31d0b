"""FIELD.md: what the losses of other projects optimise, by ``kd-lab check``."""
