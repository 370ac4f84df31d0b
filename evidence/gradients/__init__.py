"""The gradient of sequence-level reverse KL: exact, and estimated from sampled answers."""
