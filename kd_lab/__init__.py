"""KD Lab: distilling language models, as prefix source x divergence (+ a share of plain SFT)."""

__version__ = "0.1.0"
