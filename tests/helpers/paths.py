"""Paths of the checkout and of the data beside it."""

from pathlib import Path

# Real images beside the checkout; where they are missing, the parity gate uses its own sample.
ROOT = Path(__file__).parents[2]
SCENES = ROOT.parent / "shared" / "data" / "scenes" / "coco"
