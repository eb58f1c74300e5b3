"""Average precision and recall of detections, as COCO defines them, in percent; computed by faster-coco-eval.

A detection is right if its box, or its mask, overlaps an object of its class by an IoU threshold and no detection of a
higher score has taken that object. Detections on crowd regions count neither way. AP is the mean over thresholds from
0.5 to 0.95, recalls and classes. The areas of small (below 32 x 32), medium and large (from 96 x 96) objects are those
of the annotations.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

NAMES: Final = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
)
"""COCO's 12 numbers in pycocotools' order; those of masks have the prefix `mask_`."""
RECALLS: Final = 101
"""Number of recalls, from 0 to 1, at which precision is read."""


class PrecisionCurves(NamedTuple):
    """Precision by recall, at the IoU threshold 0.5."""

    recall: np.ndarray
    """Recalls from 0 to 1, (R,)."""
    precision: np.ndarray
    """Precision of each class, (K, R), 0 to 1; NaN for a class without objects."""


class DetectionScorer:
    """Detections and true objects of images, from which scores are computed."""

    def __init__(self, classes: int, masks: bool) -> None:
        """Begin without images.

        Args:
            classes: Number of classes, K.
            masks: Whether to score masks beside boxes.
        """
        self.classes, self.masks = classes, masks
        self._images: list[dict[str, Any]] = []
        self._truth: list[dict[str, Any]] = []
        self._detections: list[dict[str, Any]] = []

    def add(
        self,
        image: int,
        boxes: np.ndarray,
        scores: np.ndarray,
        classes: np.ndarray,
        masks: Sequence[Mapping[str, Any]] | None,
        truth: Sequence[Mapping[str, Any]],
        size: tuple[int, int],
    ) -> None:
        """Add an image.

        Args:
            image: Number of the image, another one for each.
            boxes: Detected boxes x0, y0, x1, y1 in pixels of the image, (N, 4).
            scores: Their scores, (N,).
            classes: Their class numbers, (N,).
            masks: Their masks as run lengths {"size", "counts"}; None for boxes alone.
            truth: Objects of the image, as `InstanceDataset.annotations` returns them.
            size: (height, width) of the image.

        Raises:
            ValueError: A value is not finite, or a class number is none of the classes.
        """
        corners, numbers = np.asarray(boxes, np.float64).reshape(-1, 4), np.asarray(classes, np.int64)
        if not (np.isfinite(corners).all() and np.isfinite(scores).all()):
            raise ValueError("the detections are not finite (NaN or infinity); check the model")
        if len(numbers) and not (numbers.min() >= 0 and numbers.max() < self.classes):
            raise ValueError(f"a detection has a class that is none of 0 to {self.classes - 1}")
        self._images.append({"id": image, "height": size[0], "width": size[1]})
        self._truth += [
            _with_text({**item, "id": len(self._truth) + i, "image_id": image}) for i, item in enumerate(truth, 1)
        ]
        extents = corners[:, 2:] - corners[:, :2]
        for i, score in enumerate(np.asarray(scores, np.float64).tolist()):
            item = {"image_id": image, "category_id": int(numbers[i]), "score": score}
            item["bbox"] = [*corners[i, :2].tolist(), *extents[i].tolist()]
            self._detections.append(_with_text(item | ({"segmentation": masks[i]} if masks is not None else {})))

    def scores(self) -> dict[str, Any]:
        """Return `NAMES`, and with masks the same with the prefix `mask_`, in percent; NaN where there are no objects.

        `ap_by_class` and `mask_ap_by_class` are lists by class number.

        Raises:
            ValueError: There are no images, or faster-coco-eval is not installed.
        """
        scores: dict[str, Any] = {}
        for prefix, kind in (("", "bbox"), *([("mask_", "segm")] if self.masks else [])):
            evaluation = self._evaluate(kind)
            values = (100 * _without_minus(evaluation.all_stats[: len(NAMES)])).tolist()
            scores |= {prefix + name: value for name, value in zip(NAMES, values, strict=True)}
            scores[f"{prefix}ap_by_class"] = (100 * _class_means(evaluation.eval["precision"][:, :, :, 0, -1])).tolist()
        return scores

    def curves(self, masks: bool = False) -> PrecisionCurves:
        """Return the precision of each class by recall at IoU 0.5, of boxes or masks; errors as `scores`."""
        precision = self._evaluate("segm" if masks else "bbox").eval["precision"][0, :, :, 0, -1]
        return PrecisionCurves(np.linspace(0, 1, RECALLS), _without_minus(precision.T))

    def _evaluate(self, kind: str) -> Any:
        """Return the finished evaluation of "bbox" or "segm"."""
        if not self._images:
            raise ValueError("there are no images to score; give a folder with labeled ones")
        library = _library()
        truth = library.COCO()
        truth.dataset = {
            "info": {},
            "images": self._images,
            "annotations": [dict(item) for item in self._truth],
            "categories": [{"id": number, "name": str(number)} for number in range(self.classes)],
        }
        truth.createIndex()
        other = "segmentation" if kind == "bbox" else "bbox"  # areas are then those of what is scored
        detections = [{key: value for key, value in item.items() if key != other} for item in self._detections]
        evaluation = library.COCOeval_faster(truth, truth.loadRes(detections), kind, print_function=_print_nothing)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        return evaluation


def _library() -> Any:
    try:
        import faster_coco_eval
    except ImportError as error:
        raise ValueError("faster-coco-eval is not installed; pip install 'gtsa-kit[finetune]'") from error
    return faster_coco_eval


def _print_nothing(*_: Any) -> None:
    """Take the place of the library's messages."""


def _with_text(item: dict[str, Any]) -> dict[str, Any]:
    """Return an object or detection whose run lengths are text, as the library takes them."""
    runs = item.get("segmentation")
    if runs is not None and isinstance(runs["counts"], bytes):
        return item | {"segmentation": {"size": list(runs["size"]), "counts": runs["counts"].decode()}}
    return item


def _without_minus(values: np.ndarray) -> np.ndarray:
    """Return values with NaN in place of the library's -1."""
    return np.where(np.asarray(values, np.float64) < 0, np.nan, values)


def _class_means(precision: np.ndarray) -> np.ndarray:
    """Return the mean precision of each class, (K,), of (T, R, K); NaN for a class without objects."""
    return np.array([own[own > -1].mean() if (own > -1).any() else np.nan for own in np.moveaxis(precision, 2, 0)])
