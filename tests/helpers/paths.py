"""Where tests look for what is not in the checkout."""

from pathlib import Path

# Real images, where they lie beside the checkout; the gate brings a sample of its own where they do not.
ROOT = Path(__file__).parents[2]
SCENES = ROOT.parent / "shared" / "data" / "scenes" / "coco"
