"""Parity report of an artifact: differences from the float32 model, by output and input shape."""

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Immutable model that rejects unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Difference(Record):
    """Difference between reference and artifact for one output and one input shape."""

    output: str
    batch: int
    height: int
    width: int
    problem: str = ""
    """Reason why the outputs can't be compared: values that are not finite, or another shape; the numbers are
    then None."""
    max_abs: float | None = None
    mean_abs: float | None = None
    min_cosine: float | None = None
    """Cosines of patch tokens and embeddings; None for the outputs of task models."""
    mean_cosine: float | None = None
    neighbors: float | None = None
    """Share of tokens with the same nearest neighbor, 0 to 1; None for fewer than three tokens."""
    agreement: float | None = None
    """Share of pixels or images with the same best class, or of detections with a counterpart within the tolerance, 0
    to 1, of task models; see `task_parity` and `detection_comparison`."""
    detections: int | None = None
    """Number of detections that were compared, of both sides, of detectors."""
    image: str
    """Name of the image with the lowest cosine, of task models with the lowest agreement."""
    passed: bool


class ParityReport(Record):
    """Result and measurements of the parity gate."""

    reference: str = "gtsa-kit encoder, float32, PyTorch"
    runtime: str
    """Runtime and device that ran the artifact, for display."""
    images: str
    """Origin of the images, for display."""
    tolerance: dict[str, float]
    preprocessing: str = ""
    """Difference between the manifest's preprocessing and the encoder's; "" if they are equal."""
    advice: str = ""
    """Explanation of values that are not finite: where they begin, and which precision holds; "" if there are none."""
    problem: str = ""
    """Reason why a comparison of detections proves nothing; "" if there is none."""
    settled: bool | None = None
    """True if one more round of non-maximum suppression changes nothing; None for models without one."""
    passed: bool
    differences: tuple[Difference, ...]

    @property
    def worst(self) -> Difference:
        """Difference with the lowest cosine or agreement, then the largest absolute difference.

        Failed ones precede passed ones, and those without numbers precede all others.
        """
        return min(self.differences, key=_rank)


def _rank(d: Difference) -> tuple[bool, bool, float, float]:
    return d.passed, not d.problem, d.min_cosine or d.agreement or 0.0, -(d.max_abs or 0.0)
