"""Scores of a detector on labeled images: average precision and recall as COCO defines them."""

from typing import Any

from gtsa_kit.tasks.detection_metrics import DetectionScorer
from gtsa_kit.tasks.detections import ImageDetections
from gtsa_kit.tasks.object_data import Objects


class DetectScorer:
    """Detections and true objects of images; masks are kept as run lengths."""

    def __init__(self, classes: int, masks: bool) -> None:
        self.classes, self.masks = classes, masks
        self.detections: dict[int, tuple[Any, ...]] = {}

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.detections)

    def add(self, output: ImageDetections, label: Objects) -> ImageDetections:
        """Add the detections of an image with its true objects; return the detections."""
        masks = [output.rle(i) for i in range(len(output))] if self.masks else None
        self.detections[label.number] = output.boxes, output.scores, output.classes, masks, label
        return output

    def merge(self, other: "DetectScorer") -> None:
        """Add the images of another scorer."""
        self.detections |= other.detections

    def scores(self) -> dict[str, Any]:
        """Return the scores of `DetectionScorer`."""
        return self.collected().scores()

    def collected(self) -> DetectionScorer:
        """Return all images in the order of their numbers, for scores and curves."""
        scorer = DetectionScorer(self.classes, self.masks)
        for index in sorted(self.detections):
            boxes, scores, classes, masks, label = self.detections[index]
            scorer.add(index, boxes, scores, classes, masks, label.annotations, label.size)
        return scorer
