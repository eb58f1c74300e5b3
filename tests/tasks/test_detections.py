"""Detections in pixels of the image, against torchvision's pasting of masks and pycocotools."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.task_models import LABELS
from PIL import Image
from torchvision.models.detection.roi_heads import paste_masks_in_image

from gtsa_kit.data.image_io import ImageError
from gtsa_kit.models.outputs import TaskOutput
from gtsa_kit.tasks import masks
from gtsa_kit.tasks.detection_pictures import MASK_OPACITY, draw_detections
from gtsa_kit.tasks.detections import ImageDetections, describe_detections, paste_mask, to_detections
from gtsa_kit.tasks.rle import encode_part, encode_rle

SIZE = (83, 130)
BOXES = np.array(
    [
        *([10.2, 20.7, 60.1, 70.9], [0, 0, 130, 83], [-9.5, -20, 40, 30], [100, 60, 150, 100.4]),
        *([5.4, 5.4, 5.6, 5.9], [20, 30, 20.5, 80], [129.2, 82.1, 130, 83], [60, 10, 61, 11]),
    ],
    np.float32,
)
"""Boxes inside, as large as the image, over each edge, and thinner than a pixel."""


def small_masks() -> np.ndarray:
    noise = torch.rand(len(BOXES), 1, 6, 6, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(noise, (28, 28), mode="bicubic").clamp(0, 1)[:, 0].numpy()


@pytest.mark.parametrize("band", [64 << 20, 1], ids=["at once", "row by row"])
def test_masks_are_pasted_as_by_torchvision(band: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "BAND_BYTES", band)
    small = small_masks()
    pasted = paste_masks_in_image(torch.from_numpy(small)[:, None], torch.from_numpy(BOXES), SIZE)[:, 0].numpy()
    detections = ImageDetections(SIZE, BOXES, np.ones(len(BOXES)), np.zeros(len(BOXES), int), small)
    for i, expected in enumerate(pasted):
        clear = abs(expected - 0.5) > 1e-6
        assert clear.mean() > 0.99
        assert (detections.mask(i) == (expected > 0.5))[clear].all(), BOXES[i]
        assert detections.rle(i) == encode_rle(detections.mask(i))
    assert pasted.reshape(len(BOXES), -1).any(axis=1).sum() >= 5


def test_a_part_has_the_run_lengths_of_the_whole_mask() -> None:
    rng = np.random.default_rng(0)
    for height, width, x, y in ((3, 4, 0, 0), (3, 4, 2, 1), (7, 9, 0, 0), (1, 1, 6, 8), (0, 3, 2, 2), (7, 2, 7, 0)):
        for share in (0, 0.5, 1):
            part = rng.random((height, width)) < share
            whole = np.zeros((9, 9), bool)
            whole[y : y + height, x : x + width] = part
            assert encode_part(part, x, y, (9, 9)) == encode_rle(whole)


def output(boxes: list[list[float]], scores: list[float], with_masks: bool = True) -> TaskOutput:
    count = len(scores)
    small = np.full((count, 28, 28), 0.9, np.float32) if with_masks else None
    labels = np.arange(count, dtype=np.int32) % len(LABELS)
    return TaskOutput(
        boxes=np.array(boxes, np.float32), scores=np.array(scores, np.float32), labels=labels, masks=small
    )


def test_boxes_are_scaled_clipped_sorted_and_chosen_by_score() -> None:
    boxes = [[10, 20, 30, 60], [-4, 0, 64, 200], [0, 0, 8, 8], [0, 0, 0, 0], [64, 10, 70, 20]]
    detections = to_detections(output(boxes, [0.3, 0.8, 0.1, 0, 0.9]), (96, 64), (192, 256), 0.2)
    assert detections.boxes.tolist() == [[0, 0, 256, 192], [40, 40, 120, 120]]
    assert detections.scores.tolist() == pytest.approx([0.8, 0.3])
    assert detections.classes.tolist() == [1, 0]
    assert len(to_detections(output(boxes, [0.3, 0.8, 0.1, 0, 0.9]), (96, 64), (192, 256), 0)) == 3
    bad = output([[0, 0, float("nan"), 1]], [0.9])
    with pytest.raises(ImageError, match="not finite"):
        to_detections(bad, (96, 64), (192, 256), 0.2)


@pytest.mark.parametrize("with_masks", [True, False], ids=["instances", "boxes"])
def test_results_are_those_of_coco(with_masks: bool) -> None:
    mask_api = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    boxes = [[10, 20, 30, 60], [0, 0, 63.5, 90.25]]
    detections = to_detections(output(boxes, [0.3, 0.8], with_masks), (96, 64), (96, 64), 0.2)
    first, second = describe_detections(detections, LABELS)
    assert (first["category_id"], first["bbox"], first["score"]) == (LABELS[1].id, [0, 0, 63.5, 90.25], 0.8)
    assert ("segmentation" in first, "segmentation" in second) == (with_masks, with_masks)
    assert "segmentation" not in describe_detections(detections, LABELS, with_masks=False)[0]
    if with_masks:
        assert (mask_api.decode(second["segmentation"]) == detections.mask(1)).all()
        x, y, width, height = mask_api.toBbox(second["segmentation"]).tolist()
        assert abs(np.array([x, y, x + width, y + height]) - [10, 20, 30, 60]).max() <= 1


@pytest.mark.parametrize("box", [[-40, -40, -20, -15], [140, 10, 160, 20], [10, 100, 20, 120]])
def test_a_box_outside_has_no_pixels(box: list[float]) -> None:
    detections = ImageDetections(SIZE, np.array([box], np.float32), np.ones(1), np.zeros(1, int), small_masks()[:1])
    assert not detections.mask(0).any()
    assert detections.rle(0) == encode_rle(detections.mask(0))


def test_a_box_of_no_size_gets_one_pixel() -> None:
    part, x, y = paste_mask(np.ones((28, 28), np.float32), np.array([5.4, 7.9, 5.4, 7.9]), SIZE)
    assert (part.shape, x, y) == ((1, 1), 5, 7)


def drawn(detections: ImageDetections, shade: int) -> np.ndarray:
    image = np.full((*detections.size, 3), shade, np.uint8)
    return np.asarray(Image.open(io.BytesIO(draw_detections(image, detections, LABELS)))).astype(int)


@pytest.mark.parametrize("shade", [0, 128, 255])
def test_pictures_show_boxes_masks_names_and_scores(shade: int) -> None:
    boxes = np.array([[60, 80, 160, 180], [200, 0, 298, 60]], np.float32)
    small = np.zeros((2, 28, 28), np.float32)
    small[0, 14:] = 1  # the lower half
    detections = ImageDetections((200, 300), boxes, np.array([0.93, 0.5]), np.array([2, 4]), small)
    picture = drawn(detections, shade)
    blue, tan = (np.array(LABELS[number].color) for number in (2, 4))
    assert abs(picture[82:178, 61:63] - blue).max(axis=2).min(axis=1).mean() < 30  # the left edge
    assert abs(picture[1:58, 201:203] - tan).max(axis=2).min(axis=1).mean() < 30
    blend = (1 - MASK_OPACITY) * shade + MASK_OPACITY * blue
    assert abs(picture[140:170, 80:150].mean(axis=(0, 1)) - blend).max() < 3
    assert abs(picture[90:125, 70:150] - shade).max() < 12
    assert abs(picture[190:, 170:] - shade).max() < 3
    name = picture[67:80, 62:120]  # above its box
    assert (abs(name - blue).max(axis=2) < 40).mean() > 0.3
    assert (name.min(axis=2) > 180).mean() > 0.05, "white on dark blue"
    inside = picture[2:14, 204:270]  # there is no room above
    assert (abs(inside - tan).max(axis=2) < 40).mean() > 0.2
    assert (inside.max(axis=2) < 70).mean() > 0.05, "black on tan"
    other = replace(detections, scores=np.array([0.11, 0.5]))
    assert abs(drawn(other, shade) - picture)[67:80, 62:120].max() > 100, "the score is part of the text"


def test_pictures_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ImageDetections(
        (1, 1), np.array([[0, 0, 1, 1]], np.float32), np.ones(1), np.zeros(1, int), small_masks()[:1]
    )
    assert drawn(whole, 100).shape == (1, 1, 3)
    monkeypatch.setattr("gtsa_kit.tasks.detection_pictures.MAX_OVERLAY_SIDE", 200)
    boxes = np.array([[100, 100, 300, 200]], np.float32)
    large = ImageDetections((300, 400), boxes, np.ones(1), np.zeros(1, int), np.ones((1, 28, 28), np.float32))
    picture = drawn(large, 255)
    assert picture.shape == (150, 200, 3)
    assert picture[60:90, 60:140].mean() < 220 < picture[110:].mean()
    assert (drawn(replace(large, masks=None), 255)[70:90, 60:140] > 240).all()
