"""What may be exported, how close it must be, and where it is measured: every tolerance stands here, once."""

from dataclasses import dataclass
from typing import Final, Literal, get_args

from gtsa_kit.config import PATCH

Format = Literal["onnx", "torchscript"]
FORMATS: Final[tuple[str, ...]] = get_args(Format)
SUFFIX: Final[dict[str, str]] = {"onnx": ".onnx", "torchscript": ".ts"}
OPSET: Final = 20
"""The first with native Gelu; LayerNormalization came with 17."""

INPUT: Final = "images"
EMBEDDING: Final = "embedding"
FEATURE_MAP: Final = "feature_map"


@dataclass(frozen=True)
class Tolerance:
    """Bounds on the difference from the float32 PyTorch encoder; an artifact that breaks one does not pass."""

    max_abs: float
    mean_abs: float
    min_cosine: float
    """Of the worst patch token (of the worst image, for embeddings)."""
    neighbours: float
    """Share of patch tokens whose nearest neighbour among all others is the same."""


# Measured over all cases with random weights of real variance (tests/parity): in ONNX Runtime ViT-S/16 differs by 7e-6
# at most and 6e-7 in the mean, ViT-B/16 by 8e-6 and 7e-7. The bounds leave room for features of larger scale and for
# other machines' arithmetic; 1% in one layer lies far above them.
TOLERANCES: Final[dict[str, Tolerance]] = {
    "fp32": Tolerance(max_abs=2e-4, mean_abs=2e-5, min_cosine=0.999999, neighbours=0.995),
}


@dataclass(frozen=True)
class Case:
    """One input shape of the parity gate."""

    batch: int
    height: int
    width: int


CASES: Final[tuple[Case, ...]] = (
    Case(1, 224, 224),
    Case(2, 224, 224),
    Case(7, 96, 96),
    Case(1, 160, 320),
    Case(2, 336, 112),
    Case(1, PATCH, PATCH),
)
"""Square at the base size, a small one in a large batch, a wide and a tall one, and the smallest there is."""
