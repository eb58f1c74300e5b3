"""Detections of sliding windows: merging against torchvision's NMS, and objects on the seams of windows."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from helpers.task_models import LABELS, save_random_task, task_spec
from torchvision.ops import batched_nms

from gtsa_kit.export.open_options import LoadOptions
from gtsa_kit.models.outputs import TaskOutput
from gtsa_kit.tasks.detection_tiles import merge, tiled_detections
from gtsa_kit.tasks.detections import ImageDetections
from gtsa_kit.tasks.predictor import Predictor, open_predictor
from gtsa_kit.tasks.tiles import Tiling

OBJECTS = {  # class number: box; a tile has 64 pixels, an overlap 16
    1: (52, 10, 62, 20),  # in the overlap of two windows
    2: (40, 30, 56, 40),  # whole in the first window, cut by the edge of the second at column 48
    3: (50, 60, 104, 70),  # larger than the overlap: whole in the second window alone, near its edge
    4: (100, 44, 110, 60),  # across a seam of rows
    0: (160, 90, 170, 100),  # at the edge of the image
}


def color(number: int) -> tuple[int, int, int]:
    """Return the color of a class; edges that a reduction mixes with black have no class."""
    return 255, 100 + number, 0


@dataclass(frozen=True)
class Rectangles(Predictor):
    """Predictor that detects rectangles of one `color`, as far as a window shows them."""

    def __call__(self, images: np.ndarray) -> TaskOutput:
        mean, std = (np.array(self.manifest.preprocessing[name])[:2, None, None] for name in ("mean", "std"))
        levels = np.rint((images[:, :2] * std + mean) * 255).astype(int)
        outputs = [self._detect(np.where(red == 255, green, 0)) for red, green in levels]
        return TaskOutput(**{key: np.stack([one[key] for one in outputs]) for key in outputs[0]})

    def _detect(self, level: np.ndarray) -> dict[str, np.ndarray]:
        boxes, scores = np.zeros((8, 4), np.float32), np.zeros(8, np.float32)
        for number in range(5):
            rows, columns = np.nonzero(level == 100 + number)
            if len(rows):
                boxes[number] = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
                scores[number] = 0.9 + 0.01 * (len(rows) % 7)  # cut boxes have no lower scores
        return {"boxes": boxes, "scores": scores, "labels": np.arange(8, dtype=np.int32), "masks": np.ones((8, 28, 28))}


@pytest.fixture(scope="module")
def rectangles(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    folder = save_random_task(tmp_path_factory.mktemp("run"), task_spec("linear"))
    return Rectangles(open_predictor(folder, LoadOptions("cpu")).runner, "detect", LABELS, None, "")


def test_an_object_on_a_seam_is_detected_once_and_whole(rectangles: Predictor) -> None:
    image = np.zeros((104, 170, 3), np.uint8)
    for number, (x0, y0, x1, y1) in OBJECTS.items():
        image[y0:y1, x0:x1] = color(number)
    for batch_size in (1, 4):
        detections = tiled_detections(image, rectangles, Tiling(64, 16), batch_size, 0.5)
        assert dict(zip(detections.classes.tolist(), map(tuple, detections.boxes.tolist()), strict=True)) == OBJECTS
        assert len(detections) == len(OBJECTS)
        assert (np.diff(detections.scores) <= 0).all()
        for i, number in enumerate(detections.classes):
            x0, y0, x1, y1 = OBJECTS[int(number)]
            assert detections.mask(i)[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1].all()
            assert detections.mask(i).sum() < 1.5 * (x1 - x0) * (y1 - y0)


def test_an_object_larger_than_the_tile_is_seen_whole(rectangles: Predictor) -> None:
    """Windows see parts of it; the image reduced to a window shows all of it, if more coarsely."""
    image, large, small = np.zeros((104, 170, 3), np.uint8), (20, 10, 150, 90), (2, 92, 12, 102)
    for number, (x0, y0, x1, y1) in enumerate((large, small)):
        image[y0:y1, x0:x1] = color(number)
    detections = tiled_detections(image, rectangles, Tiling(64, 16), 4, 0.5)
    boxes = dict(zip(detections.classes.tolist(), detections.boxes.tolist(), strict=True))
    assert len(detections) == 2
    np.testing.assert_allclose(boxes[0], large, atol=6)  # a pixel of the reduced image is 2.7 wide
    assert boxes[1] == list(small)
    mask = detections.mask(detections.classes.tolist().index(0))
    assert mask[14:86, 24:146].all()


def test_detections_in_the_padding_of_a_small_image_are_left_out(rectangles: Predictor) -> None:
    image = np.zeros((20, 40, 3), np.uint8)
    image[-1, -1] = color(0)  # the padding repeats it
    detections = tiled_detections(image, rectangles, Tiling(64, 16), 4, 0.5)
    assert detections.boxes.tolist() == [[39, 19, 40, 20]]
    assert not len(tiled_detections(np.zeros((20, 40, 3), np.uint8), rectangles, Tiling(64, 16), 4, 0.5))


def test_whole_boxes_are_merged_as_by_torchvision() -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 30, (300, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 40, (300, 2))], axis=1).astype(np.float32)
    classes, scores = rng.integers(0, 4, 300), rng.random(300).astype(np.float32)
    detections = ImageDetections((120, 120), boxes, scores, classes)
    kept = merge(detections, np.zeros(300, bool), rng.integers(0, 9, 300))
    expected = batched_nms(torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(classes), 0.5)
    assert kept.tolist() == expected.tolist()
    assert 50 < len(kept) < 250


def test_boxes_that_are_cut_off_yield_to_whole_ones_of_other_windows() -> None:
    boxes = np.array([[0, 0, 100, 10], [0, 0, 30, 10], [60, 0, 160, 10]], np.float32)
    detections = ImageDetections((20, 200), boxes, np.array([0.6, 0.9, 0.8]), np.zeros(3, int))
    cut = np.array([False, True, True])
    assert merge(detections, cut, np.array([0, 1, 2])).tolist() == [2, 0]  # of the third, 60% lie outside
    assert merge(detections, ~cut | cut, np.array([0, 1, 2])).tolist() == [2, 0]  # the larger of two cut ones stays
    assert merge(detections, cut, np.array([0, 0, 0])).tolist() == [1, 2, 0]  # one window merged its own
    assert merge(replace(detections, classes=np.array([0, 1, 0])), cut, np.arange(3)).tolist() == [1, 2, 0]


def test_outputs_that_are_not_finite_are_an_error_of_the_image(rectangles: Predictor) -> None:
    from gtsa_kit.tasks.predict import predict

    class Broken(Rectangles):
        def _detect(self, level: np.ndarray) -> dict[str, np.ndarray]:
            return super()._detect(level) | {"scores": np.full(8, np.nan, np.float32)}

    broken = Broken(rectangles.runner, "detect", LABELS, None, "")
    for options in ({}, {"tile": 32}):
        failed: list[tuple[str, str]] = []
        image = np.zeros((40, 40, 3), np.uint8)
        assert not list(predict(broken, [image], on_unreadable=lambda *x: failed.append(x), **options))  # noqa: B023
        assert failed == [("0", "the model's detections are not finite (NaN or infinity)")]
