"""Detectors: equal to torchvision where its strides are right, exact where they are not, losses, files."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import paste_masks_in_image

from gtsa_kit.models.detections import Detections
from gtsa_kit.models.detector import DetectorHead
from gtsa_kit.models.detector_spec import DetectorSpec
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.task_model import TaskModel, load_task_model, save_task_model
from gtsa_kit.models.task_spec import TaskSpec
from tests.helpers.stock_detector import stock_detector
from tests.helpers.task_models import DETECTORS, LABELS, PATCH_14, SMALL_DETECTOR, random_task_model, task_spec

SIZE = (64, 128)
"""Input whose grid of 4 x 8 patches has the strides that torchvision guesses."""
Target = dict[str, torch.Tensor]


def make_targets(masks: bool) -> list[Target]:
    """Return two objects in an image, and one in another."""
    boxes = [torch.tensor([[3.0, 5.0, 30.0, 41.0], [50.5, 20.0, 90.0, 60.0]]), torch.tensor([[8.0, 8.0, 24.0, 40.0]])]
    targets = [{"boxes": x, "labels": torch.arange(1, 1 + len(x))} for x in boxes]
    if masks:
        for target in targets:
            target["masks"] = torch.zeros(len(target["boxes"]), *SIZE, dtype=torch.uint8)
            for mask, (x0, y0, x1, y1) in zip(target["masks"], target["boxes"].int().tolist(), strict=True):
                mask[y0 : y0 + (y1 - y0) // 2, x0:x1] = 1
    return targets


@pytest.mark.parametrize("kind", DETECTORS)
def test_detections_are_those_of_torchvision_with_the_same_weights(kind: str) -> None:
    model = random_task_model(task_spec(kind))
    images = torch.randn(2, 3, *SIZE)
    with torch.no_grad():
        ours, theirs = model(images), stock_detector(model)(list(images))
    for i, expected in enumerate(theirs):
        count = len(expected["scores"])
        assert count > 5
        assert torch.equal(ours.boxes[i, :count], expected["boxes"])
        assert torch.equal(ours.scores[i, :count], expected["scores"])
        assert torch.equal(ours.labels[i, :count], expected["labels"].int() - 1)
        assert not ours.scores[i, count:].any()
        if kind == "mask-rcnn":
            pasted = paste_masks_in_image(ours.masks[i, :count, None], ours.boxes[i, :count], SIZE)
            assert torch.equal(pasted, expected["masks"])
    assert (ours.masks is None) == (kind == "faster-rcnn")


@pytest.mark.parametrize("kind", DETECTORS)
def test_losses_are_those_of_torchvision_for_padded_images_too(kind: str) -> None:
    model = random_task_model(task_spec(kind))
    stock = stock_detector(model)
    images = torch.randn(2, 3, *SIZE)
    images[1, :, 48:], images[1, :, :, 32:] = 0, 0
    targets = make_targets(kind == "mask-rcnn")
    model.train()
    torch.manual_seed(1)  # both sample anchors and proposals
    ours = model.losses(images, [SIZE, (48, 32)], targets)
    stock.train()
    small = dict(targets[1])
    if kind == "mask-rcnn":
        small["masks"] = small["masks"][:, :48, :32]
    torch.manual_seed(1)
    theirs = stock([images[0], images[1, :, :48, :32]], [targets[0], small])
    assert ours.keys() == theirs.keys()
    assert ("loss_mask" in ours) == (kind == "mask-rcnn")
    for name, loss in ours.items():
        torch.testing.assert_close(loss, theirs[name])
        assert loss > 0


def slow_anchors(rows: int, columns: int, stride: float, size: int, ratios: tuple[float, ...]) -> np.ndarray:
    """Return torchvision's anchors in float64: (rows * columns * ratios, 4), around multiples of the stride."""
    result = []
    for row in range(rows):
        for column in range(columns):
            for ratio in ratios:  # height to width
                width, height = size / np.sqrt(ratio), size * np.sqrt(ratio)
                half = np.round(np.float32([width / 2, height / 2]))
                center = np.array([column * stride, row * stride])
                result.append([*(center - half), *(center + half)])
    return np.array(result)


@pytest.mark.parametrize("patch", [14, 16])
@pytest.mark.parametrize("grid", [(5, 7), (1, 3), (4, 21)])
def test_anchors_lie_at_exact_strides_on_every_grid(patch: int, grid: tuple[int, int]) -> None:
    head = DetectorHead(8, 3, patch, replace(SMALL_DETECTOR, channels=8)).eval()
    levels = head.levels(*[torch.randn(2, 8, *grid)] * 4)
    sizes = [(patch * grid[0], patch * grid[1])] * 2
    first, second = head.rpn.anchor_generator(ImageList(levels[0], sizes), levels)
    halves = [(-(-grid[0] // n), -(-grid[1] // n)) for n in (2, 4)]
    grids = [(4 * grid[0], 4 * grid[1]), (2 * grid[0], 2 * grid[1]), grid, *halves]
    expected = [
        slow_anchors(*shape, patch * factor, size, head.spec.anchor_ratios)
        for shape, factor, size in zip(grids, (0.25, 0.5, 1, 2, 4), head.spec.anchor_sizes, strict=True)
    ]
    assert torch.equal(first, second)
    np.testing.assert_array_equal(first.double().numpy(), np.concatenate(expected))


@pytest.mark.parametrize("patch", [14, 16])
def test_boxes_are_read_at_their_position_on_every_level(patch: int) -> None:
    """A map that holds the x of each position gives the centers of the bins, at the far end of a wide image too."""
    grid = (35, 101)  # odd, also on the coarser levels
    head = DetectorHead(8, 3, patch, replace(SMALL_DETECTOR, channels=8)).eval()
    maps = {}
    for name, factor in enumerate((0.25, 0.5, 1, 2)):
        rows, columns = (int(np.ceil(side / factor)) for side in grid)
        x = torch.arange(columns) * float(patch * factor)
        maps[str(name)] = x.expand(1, 1, rows, columns).contiguous()
    image = (patch * grid[0], patch * grid[1])
    sides = (30.0, 150.0, 300.0, 460.0)  # of boxes of each level
    boxes = torch.tensor([[left, 7, left + side, 7 + side] for side in sides for left in (20.0, image[1] - 500.0)])
    for pool, bins in ((head.roi_heads.box_roi_pool, 7), (head.roi_heads.mask_roi_pool, 14)):
        pooled = pool(maps, [boxes], [image])[:, 0]
        for values, (left, _, right, _) in zip(pooled, boxes.tolist(), strict=True):
            centers = left + (torch.arange(bins) + 0.5) / bins * (right - left)
            torch.testing.assert_close(values, centers.expand(bins, bins), atol=1e-3, rtol=0)


def test_each_level_holds_boxes_of_its_size() -> None:
    head = DetectorHead(8, 3, 14, replace(SMALL_DETECTOR, channels=8)).eval()
    maps = {str(i): torch.full((1, 1, n, n), float(i)) for i, n in enumerate((160, 80, 40, 20))}
    sides = [10.0, 111.0, 113.0, 223.0, 225.0, 447.0, 449.0, 560.0]
    boxes = torch.tensor([[0.0, 0.0, side, side] for side in sides])
    levels = head.roi_heads.box_roi_pool(maps, [boxes], [(560, 560)])[:, 0, 0, 0]
    assert levels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_an_object_at_the_end_of_a_wide_image_is_found_there() -> None:
    """A detector with patches of 14 pixels is trained for seconds on squares at random positions."""
    torch.manual_seed(0)
    labels = LABELS[:1]
    spec = replace(task_spec("faster-rcnn"), labels=labels, detector=replace(SMALL_DETECTOR, masks=False, proposals=20))
    model = TaskModel(Encoder(PATCH_14), spec).train()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    size = (42, 294)

    def make_image(left: int) -> tuple[torch.Tensor, Target]:
        image = torch.zeros(3, *size)
        image[:, 8:32, left : left + 24] = 2.0
        return image, {"boxes": torch.tensor([[left, 8.0, left + 24, 32.0]]), "labels": torch.ones(1).long()}

    for _ in range(40):
        images, targets = zip(*[make_image(left) for left in torch.randint(0, 270, (3,)).tolist()], strict=True)
        losses = model.losses(torch.stack(images), [size] * 3, targets)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    with torch.no_grad():
        detections = model.eval()(torch.stack([make_image(266)[0], make_image(3)[0]]))
    expected = torch.tensor([[266.0, 8.0, 290.0, 32.0], [3.0, 8.0, 27.0, 32.0]])
    torch.testing.assert_close(detections.boxes[:, 0], expected, atol=5.0, rtol=0)


def test_losses_in_mixed_precision_are_float32_and_close() -> None:
    model = random_task_model(task_spec("mask-rcnn")).train()
    images = torch.randn(2, 3, *SIZE)
    targets = make_targets(masks=True)
    torch.manual_seed(1)
    expected = model.losses(images, [SIZE] * 2, targets)
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        actual = model.losses(images, [SIZE] * 2, targets)
    for name, loss in actual.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected[name], atol=0.05, rtol=0.2)
    sum(actual.values()).backward()
    gradients = [value.grad for value in model.head.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_images_without_objects_have_losses_of_the_background() -> None:
    model = random_task_model(task_spec("mask-rcnn")).train()
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long(), "masks": torch.zeros(0, *SIZE).byte()}
    losses = model.losses(torch.randn(2, 3, *SIZE), [SIZE] * 2, [empty, empty])
    assert losses["loss_classifier"] > 0
    assert losses["loss_objectness"] > 0
    assert losses["loss_box_reg"] == losses["loss_mask"] == losses["loss_rpn_box_reg"] == 0
    sum(losses.values()).backward()


def test_images_of_a_batch_do_not_change_each_other_and_slots_without_detection_are_zero() -> None:
    spec = task_spec("mask-rcnn")
    model = random_task_model(spec)
    images = torch.stack([torch.randn(3, *SIZE), torch.zeros(3, *SIZE)])
    with torch.no_grad():
        both, alone = model(images), model(images[1:])
    for name, together, single in zip(Detections._fields, both, alone, strict=True):
        torch.testing.assert_close(together[1:], single, msg=name, atol=1e-4, rtol=1e-4)
    unsure = random_task_model(replace(spec, detector=replace(SMALL_DETECTOR, score_threshold=1.0)))
    with torch.no_grad():
        nothing = unsure(images)
    assert [tuple(x.shape) for x in nothing] == [(2, 30, 4), (2, 30), (2, 30), (2, 30, 28, 28)]
    assert not any(x.any() for x in nothing)


@pytest.mark.parametrize("kind", DETECTORS)
def test_saved_detectors_are_equal_after_loading(kind: str, tmp_path: Path) -> None:
    model = random_task_model(replace(task_spec(kind), short_side=64), PATCH_14)
    save_task_model(tmp_path, model, {})
    loaded = load_task_model(tmp_path)
    assert loaded.spec == model.spec
    images = torch.randn(1, 3, 70, 42)
    with torch.no_grad():
        for name, actual, expected in zip(Detections._fields, loaded(images), model(images), strict=True):
            assert actual is None if expected is None else torch.equal(actual, expected), name
    content = json.loads((tmp_path / "model.json").read_text())
    del content["task"]["detector"]["nms"]
    (tmp_path / "model.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="'nms'"):
        load_task_model(tmp_path)


def test_specs_of_other_tasks_have_no_detector() -> None:
    spec = task_spec("linear")
    assert "detector" not in spec.to_dict()
    assert TaskSpec.from_dict(spec.to_dict()) == spec
    with pytest.raises(ValueError, match="linear does not go with the settings of a detector"):
        replace(spec, detector=SMALL_DETECTOR)
    detector = task_spec("mask-rcnn")
    with pytest.raises(ValueError, match="mask-rcnn does not go with"):
        replace(detector, detector=None)
    with pytest.raises(ValueError, match="faster-rcnn does not go with"):
        replace(detector, head="faster-rcnn")
    with pytest.raises(ValueError, match="mask-rcnn takes the maps of 4 blocks"):
        replace(detector, layers=(1,))
    with pytest.raises(ValueError, match="heads: mask-rcnn, faster-rcnn"):
        replace(detector, head="fpn")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"proposals": 0}, "proposals of a detector must be positive, got 0"),
        ({"nms": 1.5}, "nms of a detector must lie between 0 and 1"),
        ({"score_threshold": float("nan")}, "score_threshold"),
        ({"anchor_sizes": (8, 16)}, "5 positive sizes"),
        ({"anchor_ratios": ()}, "positive ratios"),
    ],
)
def test_impossible_settings_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DetectorSpec(**values)  # type: ignore[arg-type]
