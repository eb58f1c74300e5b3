"""Evaluations of trained encoders: probes, and the figures and tables of the paper."""

from typing import Final

NO_MODEL: Final = "no model given; name a run folder, weights or an exported file, or add --random vit_small"
"""Error of an evaluation without a model."""
