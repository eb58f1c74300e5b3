"""Proof that the region loss compares the same points of the image, and tests of the sampled views.

The images hold their own coordinates: red is x, green is y. They go through the real pipeline and the real alignment,
with patch means in place of an encoder, so that every patch of a map holds its position in the image. Pixel i has its
center at i + 0.5 and holds the value i, so the position is the value plus one half. Lengths below are in pixels of
the image, and s is the scale of a view: pixels of the image per pixel of the view (0.4 to 2.7 here).

The error of a value has these bounds:

* ROUNDING. Views hold whole numbers: at most 0.5, in any average of view pixels too.
* FIXED. The resize works with weights that are multiples of 2**-14: at most 12 of them act on a pixel, each off by at
  most 2**-15, on values up to 255: 0.1.
* KERNEL. The cubic kernel keeps straight lines where it lies inside the crop and is not stretched. Stretched (s > 1)
  and sampled at whole pixels, its center is off by at most 0.03; where the crop's border cuts it, by at most 0.21.
  `test_bicubic_kernel_reproduces_linear_gradients` computes both in float64 for every size in use.
* CLAMP. RoIAlign continues the outer patches' values beyond their centers, half a patch of 8 view pixels from the
  border: there the error is at most 8 s. Inside, patch means, linear interpolation and the mean over a bin's samples,
  which lie evenly about its center, all keep straight lines: they add nothing.

`inner` bins read no patch at the border of a map, neither the student's nor the teacher's. There a position is correct
within INNER = 0.5 + 0.1 + 0.03, and elsewhere within that plus 0.21 - 0.03 and 8 s. Two positions that should be equal
differ by twice that at most.

That bound would miss a shift by a pixel. The mean of the signed error over many views does not: crops are
random, so the rounding error of a view has mean zero and a standard deviation of at most sqrt(1/12) (were it the same
all over the view; it is not: measured, it is a sixth of that). Over n views the mean stays within
4 sqrt(1/12 / n), with n the number of views that count where pairs share them (Kish): at most 0.21, as n is above 30.
That is less than half a pixel of a view, which is 0.2 to 0.8 and 0.4 in the mean. 4 standard deviations, in 16 pairs of
rotations x 2 axes x 3 comparisons x 2 kinds of student: a false alarm with p < 0.02, and the seeds are fixed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from gtsa_kit.config import ViewsConfig
from gtsa_kit.data import augment as views
from gtsa_kit.data.augment import Views, augment_color, collate, crop_and_rotate, make_views
from gtsa_kit.data.augmentation_params import sample_box, sample_boxes
from gtsa_kit.geometry import box_area, intersect, roi_weights, rotate_maps
from gtsa_kit.methods import region_pairs

PATCH = 16
ROUNDING, FIXED, KERNEL, CUT_KERNEL = 0.5, 0.1, 0.03, 0.21
INNER = ROUNDING + FIXED + KERNEL
IMAGES = 150
SIZES = [(256, 256), (190, 256), (256, 170)]
STILL = {"jitter_p": 0.0, "grayscale_p": 0.0, "blur_p": 0.0}
ROTATIONS = list(product(range(4), range(4)))


def coordinate_image(height: int, width: int) -> Tensor:
    """Return an image (3, H, W) of its own coordinates."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x, y, torch.zeros_like(x)]).to(torch.uint8)


@dataclass(frozen=True)
class Pairs:
    """Inputs of the region loss for one kind of student view, with maps of positions."""

    student: Tensor
    """Positions (B, V, 2, h, w) of the student's patches."""
    teacher: Tensor
    """Positions (B, G, 2, H, W) of the teacher's patches."""
    boxes: Tensor
    rotations: Tensor
    boxes_g: Tensor
    rotations_g: Tensor
    bins: int
    kept: np.ndarray
    """Pairs (B, V, G) bool of two different views."""


def sample_views(config: ViewsConfig, count: int = IMAGES) -> Views:
    images = [coordinate_image(*SIZES[i % len(SIZES)]) for i in range(count)]
    return collate([make_views(p, config, torch.Generator().manual_seed(i)) for i, p in enumerate(images)])


def make_pairs(kind: str) -> Pairs:
    crops = {"global": (3, 0), "local": (2, 8)}[kind]
    sampled = sample_views(ViewsConfig(global_crops=crops[0], local_crops=crops[1], **STILL))
    globals_ = patch_means(sampled.global_images)
    g = slice(0, crops[0])
    v = g if kind == "global" else slice(crops[0], None)
    student = globals_ if kind == "global" else patch_means(sampled.local_images)
    kept = np.ones((len(student), student.shape[1], crops[0]), bool)
    if kind == "global":
        kept[:] = ~np.eye(crops[0], dtype=bool)
    bins = {"global": 10, "local": 4}[kind]
    boxes, rotations = sampled.boxes, sampled.rotations
    return Pairs(student, globals_, boxes[:, v], rotations[:, v], boxes[:, g], rotations[:, g], bins, kept)


correct_pairs = cache(make_pairs)


def patch_means(images: Tensor) -> Tensor:
    """Return the mean position of every patch, (B, V, 3, S, S) to (B, V, 2, S/16, S/16)."""
    return F.avg_pool2d(images[:, :, :2].float().flatten(0, 1), PATCH).unflatten(0, images.shape[:2])


def align(pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Return the student's and teacher's positions (B, V, G, 2, p, p) by the code of the region loss."""
    args = (pairs.boxes, pairs.rotations, pairs.boxes_g, pairs.rotations_g)
    region, target = region_pairs.roi_align_pairs(pairs.student, pairs.teacher, *args, pairs.bins)
    return region.numpy(), target.numpy()


@cache
def correct_regions(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the aligned positions of the correct pairs, which all rotations share."""
    return align(correct_pairs(kind))


@dataclass(frozen=True)
class Truth:
    """Expected position of each bin, computed from the boxes without code of the package."""

    position: np.ndarray
    """Positions (B, V, G, 2, p, p)."""
    inner: np.ndarray
    """Inner bins (B, V, G, p, p) bool."""
    tolerance: np.ndarray
    """Tolerance (B, V, G, 2, 1, 1) of a bin that is not inner, for the coarser of the two views."""


@cache
def truth(kind: str) -> Truth:
    pairs = correct_pairs(kind)
    a = pairs.boxes.numpy().astype(float)[:, :, None]
    b = pairs.boxes_g.numpy().astype(float)[:, None]
    position, inner, tolerance = [], [], []
    for axis in (0, 1):
        low, high = np.maximum(a, b)[..., axis], np.minimum(a, b)[..., axis + 2]
        edges = low[..., None] + (high - low)[..., None] * np.arange(pairs.bins + 1) / pairs.bins
        position.append((edges[..., 1:] + edges[..., :-1]) / 2 - 0.5)
        inside, scales = [], []
        for box, maps in ((a, pairs.student), (b, pairs.teacher)):
            length, start, size = maps.shape[-1], box[..., axis], box[..., axis + 2] - box[..., axis]
            at = (edges - start[..., None]) / size[..., None] * length
            # Interpolation reads half a patch beyond the bin; patches 0 and length - 1 are not read.
            inside.append((at[..., :-1] >= 1.5) & (at[..., 1:] <= length - 1.5))
            scales.append(size / (length * PATCH))
        inner.append(inside[0] & inside[1])
        tolerance.append(CUT_KERNEL - KERNEL + PATCH / 2 * np.maximum(*np.broadcast_arrays(*scales)))
    grid = np.broadcast_arrays(position[0][..., None, :], position[1][..., :, None])
    return Truth(
        np.stack(grid, 3), inner[0][..., None, :] & inner[1][..., :, None], np.stack(tolerance, -1)[..., None, None]
    )


def upright_view(regions: np.ndarray, rotation: int) -> np.ndarray:
    return np.rot90(regions, -rotation, axes=(-2, -1))


def effective(ids: np.ndarray) -> float:
    """Effective number of independent views among pairs that share views (Kish)."""
    _, times = np.unique(ids, return_counts=True)
    return times.sum() ** 2 / (times**2).sum()


def faults(kind: str, regions: tuple[np.ndarray, np.ndarray], rotation: int, rotation_g: int) -> list[str]:
    """Return the errors of the aligned regions of the pairs of views with these rotations."""
    pairs, true, (region, target) = correct_pairs(kind), truth(kind), regions
    which = (
        (pairs.rotations.numpy()[:, :, None] == rotation)
        & (pairs.rotations_g.numpy()[:, None] == rotation_g)
        & pairs.kept
    )
    position, inner, tolerance = true.position[which], true.inner[which], true.tolerance[which]
    counts = inner.any((1, 2))  # some overlaps are all border
    image, view, view_g = (index[counts] for index in np.nonzero(which))
    n = effective(image * 1000 + view), effective(image * 1000 + view_g)
    assert min(n) > 30, "too few views for the statistics"
    # Both regions have the orientation of the student's view.
    a, b = upright_view(region[which], rotation), upright_view(target[which], rotation)
    errors = []
    for name, error, parts, variance in (
        ("student", a - position, 1, 1 / 12 / n[0]),
        ("teacher", b - position, 1, 1 / 12 / n[1]),
        ("one against the other", a - b, 2, 1 / 12 / n[0] + 1 / 12 / n[1]),
    ):
        if (off := np.abs(error).transpose(0, 2, 3, 1)[inner].max()) > parts * INNER:
            errors.append(f"{name}: {off:.2f} px off inside")
        if (np.abs(error) > parts * (INNER + tolerance)).any():
            errors.append(f"{name}: {np.abs(error).max():.2f} px off at a border")
        weights = inner / np.maximum(inner.sum((1, 2), keepdims=True), 1)  # every view has the same weight
        bias = np.einsum("ncpq,npq->c", error, weights) / counts.sum()
        if (np.abs(bias) > 4 * math.sqrt(variance)).any():
            errors.append(f"{name}: biased by {bias.round(3)} px, allowed {4 * math.sqrt(variance):.3f}")
    return errors


# --- the region loss compares the same positions ---------------------------------------------------------------------


@pytest.mark.parametrize(("rotation", "rotation_g"), ROTATIONS)
@pytest.mark.parametrize("kind", ["global", "local"])
def test_region_loss_compares_equal_positions(kind, rotation, rotation_g):
    assert faults(kind, correct_regions(kind), rotation, rotation_g) == []


# Deliberate mistakes, and the pairs of rotations for which they change nothing. For all others the test must fail.

Mistake = Callable[[Pairs], Pairs]


def of_student(change: Callable[[Tensor], Tensor], what: str) -> Mistake:
    return lambda pairs: replace(pairs, **{what: change(getattr(pairs, what))})


def of_teacher(change: Callable[[Tensor], Tensor], what: str) -> Mistake:
    return of_student(change, what + "_g")


def of_both(change: Callable[[Tensor], Tensor], what: str) -> Mistake:
    return lambda pairs: of_student(change, what)(of_teacher(change, what)(pairs))


def swap_axes(boxes: Tensor) -> Tensor:
    return boxes[..., [1, 0, 3, 2]]


def shift(x: float, y: float) -> Callable[[Tensor], Tensor]:
    return lambda boxes: boxes + torch.tensor([x, y, x, y])


def never(_rotation: int, _rotation_g: int) -> bool:
    return False


WRONG_INPUTS = {
    "student's rotation reversed": (of_student(torch.neg, "rotations"), lambda t, _: t % 2 == 0),
    "teacher's rotation reversed": (of_teacher(torch.neg, "rotations"), lambda _, g: g % 2 == 0),
    "all rotations the other way": (of_both(torch.neg, "rotations"), lambda t, g: t % 2 == g % 2 == 0),
    "student's rotation ignored": (of_student(torch.zeros_like, "rotations"), lambda t, _: t == 0),
    "x and y swapped in the student's boxes": (of_student(swap_axes, "boxes"), never),
    "x and y swapped in the teacher's boxes": (of_teacher(swap_axes, "boxes"), never),
    "x and y swapped in all boxes": (of_both(swap_axes, "boxes"), never),
    "student's boxes a pixel to the right": (of_student(shift(1, 0), "boxes"), never),
    "student's boxes a pixel up": (of_student(shift(0, -1), "boxes"), never),
    "teacher's boxes a pixel to the left": (of_teacher(shift(-1, 0), "boxes"), never),
    "teacher's boxes a pixel down": (of_teacher(shift(0, 1), "boxes"), never),
}


def shifted_weights(patches: float) -> Callable[..., Tensor]:
    def weights(low: Tensor, high: Tensor, bins: int, length: int) -> Tensor:
        return roi_weights(low + patches / length, high + patches / length, bins, length)

    return weights


WRONG_CODE = {
    "boxes not rotated": ("rotate_boxes", lambda boxes, _: boxes, lambda t, g: t == g == 0),
    "teacher's region not rotated": ("rotate_maps", lambda maps, _: maps, lambda t, g: t == g),
    "teacher's region rotated back": (
        "rotate_maps",
        lambda m, rotations: rotate_maps(m, -rotations),
        lambda t, g: t % 2 == g % 2,
    ),
    "the student's crop for the overlap": (
        "intersect",
        lambda a, b: a.expand(*b.shape[:1], a.shape[1], b.shape[2], 4),
        never,
    ),
    "half a patch off, as aligned=False": ("roi_weights", shifted_weights(0.5), never),
    "half a patch off, the other way": ("roi_weights", shifted_weights(-0.5), never),
    "half a view pixel off": ("roi_weights", shifted_weights(0.5 / PATCH), never),
    "half a view pixel off, the other way": ("roi_weights", shifted_weights(-0.5 / PATCH), never),
}


def wrong_rotations(kind: str, regions: tuple[np.ndarray, np.ndarray]) -> set[tuple[int, int]]:
    return {pair for pair in ROTATIONS if faults(kind, regions, *pair)}


@pytest.mark.parametrize("mistake", WRONG_INPUTS)
@pytest.mark.parametrize("kind", ["global", "local"])
def test_wrong_inputs_are_detected(kind, mistake):
    change, harmless = WRONG_INPUTS[mistake]
    regions = align(change(correct_pairs(kind)))
    assert wrong_rotations(kind, regions) == {pair for pair in ROTATIONS if not harmless(*pair)}


@pytest.mark.parametrize("mistake", WRONG_CODE)
@pytest.mark.parametrize("kind", ["global", "local"])
def test_wrong_code_is_detected(kind, mistake, monkeypatch):
    name, wrong, harmless = WRONG_CODE[mistake]
    monkeypatch.setattr(region_pairs, name, wrong)
    regions = align(correct_pairs(kind))
    assert wrong_rotations(kind, regions) == {pair for pair in ROTATIONS if not harmless(*pair)}


# --- a view shows its box --------------------------------------------------------------------------------------------


def view_faults(sampled: Views) -> list[str]:
    """Return the errors of views of positions, pixel by pixel."""
    errors = []
    for images, part in ((sampled.global_images, slice(0, 2)), (sampled.local_images, slice(2, None))):
        size = images.shape[-1]
        boxes, rotations = sampled.boxes[:, part].flatten(0, 1).numpy(), sampled.rotations[:, part].flatten().tolist()
        means = []
        for view, box, rotation in zip(images.flatten(0, 1).numpy(), boxes, rotations, strict=True):
            view = upright_view(view.astype(float), rotation)
            scale = (box[2:] - box[:2]) / size
            x, y = (box[:2, None] + (np.arange(size) + 0.5) * scale[:, None]) - 0.5
            error = view[:2] - np.stack(np.broadcast_arrays(x[None], y[:, None]))
            means.append(error.mean((1, 2)))
            if np.abs(error[:, 8:-8, 8:-8]).max() > INNER or np.abs(error).max() > INNER - KERNEL + CUT_KERNEL:
                errors.append(f"view of {box} rotated {rotation}: {np.abs(error).max():.2f} px off")
        if (np.abs(np.mean(means, 0)) > 4 * math.sqrt(1 / 12 / len(means))).any():
            errors.append(f"{size}: biased by {np.mean(means, 0).round(3)} px")
    return errors


def test_views_are_crops_of_their_boxes():
    assert view_faults(sample_views(ViewsConfig(**STILL), 24)) == []


def half_a_pixel_off(image: Tensor, box: list[int], rotation: int, size: int, _: str) -> Tensor:
    double = crop_and_rotate(image, box, 0, 2 * size).float()
    double = torch.cat([double, double[..., -1:]], -1)
    view = (
        double[..., ::2, 1:-1:2] + double[..., ::2, 2::2]
    ) / 2  # pixel centers at (j + 1) / size, not (j + 0.5) / size
    return torch.rot90(view.round().to(torch.uint8), rotation, dims=(-2, -1))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda p, box, rotation, size, _: crop_and_rotate(p, [max(0, box[0] - 1), *box[1:]], rotation, size),
        lambda p, box, rotation, size, _: crop_and_rotate(p.roll(1, -1), box, rotation, size),
        lambda p, box, rotation, size, _: crop_and_rotate(p.roll(-1, -2), box, rotation, size),
        lambda p, box, rotation, size, _: crop_and_rotate(p, box, -rotation, size),
        lambda p, box, rotation, size, _: crop_and_rotate(p, box, rotation, size).mT,
        half_a_pixel_off,
    ],
    ids=["one more column", "a pixel right", "a pixel up", "clockwise", "transposed", "half a view pixel"],
)
def test_views_of_other_boxes_are_detected(wrong, monkeypatch):
    monkeypatch.setattr(views, "crop_and_rotate", wrong)
    assert view_faults(sample_views(ViewsConfig(**STILL), 24))


def test_bicubic_kernel_reproduces_linear_gradients():
    # KERNEL and CUT_KERNEL of the comment above, for every crop that these images allow.
    line = torch.arange(256, dtype=torch.float64).expand(1, 1, 256)
    for size, min_error in ((224, 90), (96, 50)):
        for crop in range(min_error, 257):
            view = tv.resize(
                line[..., :crop], [1, size], interpolation=InterpolationMode.BICUBIC, antialias=True
            ).flatten()
            position = (torch.arange(size) + 0.5) * crop / size
            error = (view + 0.5 - position).abs()
            reach = 2 * max(crop / size, 1)  # of the kernel
            assert error[(position > reach) & (position < crop - reach)].max() <= KERNEL
            assert error.max() <= CUT_KERNEL
            assert reach / (crop / size) < PATCH  # a cut kernel spoils no more than the outer patch


def test_rotations_permute_pixels_exactly():
    image = torch.randint(256, (3, 50, 70), dtype=torch.uint8)
    still = crop_and_rotate(image, [10, 5, 60, 45], 0, 96)
    for rotation in range(4):
        assert torch.equal(crop_and_rotate(image, [10, 5, 60, 45], rotation, 96), torch.rot90(still, rotation, (1, 2)))


def test_resize_is_antialiased():
    y, x = torch.meshgrid(torch.arange(600), torch.arange(600), indexing="ij")
    checks = (((x + y) % 2) * 255).to(torch.uint8).expand(3, 600, 600)
    view = crop_and_rotate(checks, [0, 0, 590, 580], 0, 96)[:, 2:-2, 2:-2].float()
    assert (view - 127.5).abs().max() < 10


def test_sampled_views_are_rotated_crops_of_their_boxes():
    image = torch.randint(256, (3, 120, 160), dtype=torch.uint8)
    sampled = make_views(image, ViewsConfig(**STILL), torch.Generator().manual_seed(3))
    assert sampled.rotations.unique().numel() > 2
    both = [*sampled.global_images, *sampled.local_images]
    for view, box, rotation in zip(both, sampled.boxes.int().tolist(), sampled.rotations.tolist(), strict=True):
        assert torch.equal(view, torch.rot90(crop_and_rotate(image, box, 0, view.shape[-1]), rotation, (1, 2)))


# --- boxes -----------------------------------------------------------------------------------------------------------


def rule_holds(boxes: Tensor, height: int, width: int, config: ViewsConfig) -> bool:
    """Every pair of globals, and every local with each global, shares its part of the image."""
    shared = box_area(intersect(boxes[..., None, :], boxes[..., None, :, :])) / (height * width)
    g = config.global_crops
    globals_, locals_ = shared[..., :g, :g], shared[..., g:, :g]
    return bool((globals_ >= config.min_global_overlap).all() and (locals_ >= config.min_overlap).all())


def inside(boxes: Tensor, height: int, width: int) -> bool:
    low, high = boxes[..., :2], boxes[..., 2:]
    return bool((low >= 0).all() and (low < high).all() and (high <= torch.tensor([width, height])).all())


@pytest.mark.parametrize("size", [(480, 640), (640, 480), (300, 300), (200, 1000), (1000, 200), (37, 53)])
def test_crops_overlap_enough(size):
    config, generator = ViewsConfig(), torch.Generator().manual_seed(0)
    boxes = torch.stack([sample_boxes(*size, config, generator) for _ in range(350)])
    assert boxes.shape == (350, 10, 4)
    assert boxes.dtype == torch.int64
    assert inside(boxes, *size)
    assert rule_holds(boxes, *size, config)


def test_crops_overlap_enough_when_all_samples_are_rejected():
    # Local crops must overlap both globals by a quarter of the image: sometimes none of 50 samples is valid.
    config = ViewsConfig(local_area=(0.25, 0.3), min_overlap=0.25, min_global_overlap=0.25)
    generator = torch.Generator().manual_seed(0)
    boxes = torch.stack([sample_boxes(480, 640, config, generator) for _ in range(15)])
    assert rule_holds(boxes, 480, 640, config)
    assert (boxes[:, 2:] == torch.tensor([0, 0, 640, 480])).all(-1).any()


def test_crop_positions_are_uniform():
    generator = torch.Generator().manual_seed(0)
    sampled = torch.stack([sample_box(2, 3, (1 / 6, 1 / 6), (1.0, 1.0), generator) for _ in range(600)])
    assert (sampled[:, 2:] - sampled[:, :2] == 1).all()
    counts = torch.bincount(sampled[:, 0] + 3 * sampled[:, 1], minlength=6)
    assert (counts - 100).abs().max() < 4 * math.sqrt(600 * 5 / 36)


def test_areas_and_aspects_are_in_their_ranges():
    config, generator = ViewsConfig(), torch.Generator().manual_seed(1)
    sampled = torch.stack([sample_boxes(480, 640, config, generator) for _ in range(300)]).double()
    width, height = (sampled[..., 2:] - sampled[..., :2]).unbind(-1)
    whole = box_area(sampled) == 480 * 640
    assert whole.double().mean() < 0.01  # the fallback is rarely used
    for part, (low, high) in ((slice(0, 2), config.global_area), (slice(2, None), config.local_area)):
        w, h = (side[:, part][~whole[:, part]] for side in (width, height))
        share = w * h / (480 * 640)
        # Sides are rounded to whole pixels.
        tolerance = 0.5 / w + 0.5 / h + 0.25 / (w * h)
        assert (share >= low * (1 - tolerance)).all()
        assert (share <= high * (1 + tolerance)).all()
        assert ((w + 0.5) / (h - 0.5) >= config.aspect[0]).all()
        assert ((w - 0.5) / (h + 0.5) <= config.aspect[1]).all()
        # and both ranges are used
        assert share.min() < low + 0.1 * (high - low)
        assert share.max() > high - 0.15 * (high - low)
        assert (w / h).min() < 0.77
        assert (w / h).max() > 1.3


def test_crops_cover_the_whole_image():
    generator = torch.Generator().manual_seed(2)
    sampled = torch.stack([sample_boxes(480, 640, ViewsConfig(), generator) for _ in range(150)])[:, 2:].flatten(0, 1)
    assert sampled[:, :2].amin(0).tolist() <= [10, 10]
    assert sampled[:, 2].max() >= 630
    assert sampled[:, 3].max() >= 470
    center = ((sampled[:, :2] + sampled[:, 2:]) / 2).mean(0) / torch.tensor([640, 480])
    assert (center - 0.5).abs().max() < 0.03


@pytest.mark.timeout(120)
@pytest.mark.parametrize("size", [(3, 5000), (5000, 3), (1, 1), (2, 2), (1, 2), (1, 10000), (10000, 1), (2, 3)])
def test_thin_and_tiny_images(size):
    config = ViewsConfig(global_size=32, local_size=16)
    image = torch.randint(256, (3, *size), dtype=torch.uint8)
    for seed in range(10):
        sampled = make_views(image, config, torch.Generator().manual_seed(seed))
        assert inside(sampled.boxes, *size)
        assert rule_holds(sampled.boxes, *size, config)
        assert sampled.global_images.shape == (2, 3, 32, 32)
        assert sampled.local_images.shape == (8, 3, 16, 16)


def test_single_pixel_image():
    image = torch.tensor([10, 20, 30], dtype=torch.uint8).view(3, 1, 1)
    sampled = make_views(image, ViewsConfig(**STILL), torch.Generator().manual_seed(0))
    for images in (sampled.global_images, sampled.local_images):
        assert (images == image).all()


# --- randomness ------------------------------------------------------------------------------------------------------


def same(a: Views, b: Views) -> bool:
    return all(map(torch.equal, a, b))


def test_views_depend_on_the_generator_alone():
    image = torch.randint(256, (3, 60, 80), dtype=torch.uint8)
    config = ViewsConfig(noise_std=0.05)

    def sampled(seed: int) -> Views:
        return make_views(image, config, torch.Generator().manual_seed(seed))

    first, state = sampled(5), torch.get_rng_state()
    torch.manual_seed(99)
    other = torch.get_rng_state()
    assert same(sampled(5), first)
    assert torch.equal(torch.get_rng_state(), other)  # torch's own generator is neither read nor moved
    torch.set_rng_state(state)
    assert not same(sampled(6), first)
    assert not torch.equal(sampled(6).boxes, first.boxes)


def test_input_image_is_unchanged():
    image = torch.randint(256, (3, 60, 80), dtype=torch.uint8)
    before = image.clone()
    for seed in range(5):
        make_views(image, ViewsConfig(noise_std=0.1), torch.Generator().manual_seed(seed))
    assert torch.equal(image, before)


def test_rotations_are_uniform():
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    config = ViewsConfig(global_size=16, local_size=16, **STILL)
    sampled = [make_views(image, config, torch.Generator().manual_seed(i)).rotations for i in range(100)]
    counts = torch.bincount(torch.stack(sampled).flatten(), minlength=4)
    assert len(counts) == 4
    assert (counts - 250).abs().max() < 4 * math.sqrt(1000 * 0.25 * 0.75)


def noise_of(seed: int, **changes: object) -> Views:
    config = ViewsConfig(global_size=32, local_size=16, noise_std=0.02, **changes)
    return make_views(coordinate_image(90, 70), config, torch.Generator().manual_seed(seed))


def test_disabling_rotations_keeps_crops_and_colors():
    sampled = make_views(coordinate_image(90, 70), ViewsConfig(**STILL), torch.Generator().manual_seed(2))
    upright = make_views(coordinate_image(90, 70), ViewsConfig(**STILL, rotate=False), torch.Generator().manual_seed(2))
    assert torch.equal(upright.boxes, sampled.boxes)
    assert sampled.rotations.any()
    assert not upright.rotations.any()
    for part, rotations in (("global_images", sampled.rotations[:2]), ("local_images", sampled.rotations[2:])):
        pairs = zip(getattr(sampled, part), getattr(upright, part), rotations.tolist(), strict=True)
        assert all(torch.equal(torch.rot90(a, -rotation, dims=(-2, -1)), b) for a, b, rotation in pairs)


def test_flipped_views_are_mirrored():
    for seed in range(3):
        sampled, mirrored = noise_of(seed), noise_of(seed, hflip_p=1.0)
        assert torch.equal(mirrored.global_images, sampled.global_images.flip(-1))
        assert torch.equal(mirrored.local_images, sampled.local_images.flip(-1))
        assert torch.equal(mirrored.boxes, sampled.boxes)
        assert torch.equal(mirrored.rotations, sampled.rotations)


def test_flips_are_independent_with_probability_hflip_p():
    mirrored = []
    for seed in range(40):
        sampled, some = noise_of(seed, local_crops=3), noise_of(seed, local_crops=3, hflip_p=0.25)
        for part in ("global_images", "local_images"):
            for a, b in zip(getattr(sampled, part), getattr(some, part), strict=True):
                assert torch.equal(a, b) or torch.equal(a.flip(-1), b)
                mirrored.append(not torch.equal(a, b))
    assert abs(sum(mirrored) - 50) < 4 * math.sqrt(200 * 0.25 * 0.75)
    assert noise_of(0, local_crops=0, hflip_p=0.5).local_images.shape[0] == 0


def test_types_and_shapes():
    sampled = make_views(coordinate_image(90, 70), ViewsConfig(), torch.Generator().manual_seed(0))
    assert (sampled.global_images.shape, sampled.global_images.dtype) == ((2, 3, 224, 224), torch.uint8)
    assert (sampled.local_images.shape, sampled.local_images.dtype) == ((8, 3, 96, 96), torch.uint8)
    assert (sampled.boxes.shape, sampled.boxes.dtype) == ((10, 4), torch.float32)
    assert (sampled.rotations.shape, sampled.rotations.dtype) == ((10,), torch.int64)
    assert torch.equal(sampled.boxes, sampled.boxes.round())
    assert same(sampled.to(torch.device("cpu")), sampled)
    both = collate([sampled, sampled])
    assert both.local_images.shape == (2, 8, 3, 96, 96)
    assert both.rotations.shape == (2, 10)


@pytest.mark.parametrize("global_crops", [1, 2, 3])
def test_no_local_views(global_crops):
    config = ViewsConfig(global_crops=global_crops, local_crops=0)
    image = coordinate_image(90, 70)
    sampled = collate([make_views(image, config, torch.Generator().manual_seed(i)) for i in range(2)])
    assert sampled.global_images.shape == (2, global_crops, 3, 224, 224)
    assert (sampled.local_images.shape, sampled.local_images.dtype) == ((2, 0, 3, 96, 96), torch.uint8)
    assert sampled.boxes.shape == (2, global_crops, 4)


# --- color augmentation ----------------------------------------------------------------------------------------------


def colors() -> Tensor:
    return torch.randint(256, (3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(4))


def changed_share(config: ViewsConfig, count: int = 400) -> float:
    generator, view = torch.Generator().manual_seed(0), colors()
    return sum(not torch.equal(augment_color(view, config, generator), view) for _ in range(count)) / count


def test_color_augmentation_off_leaves_views_unchanged():
    assert changed_share(ViewsConfig(**STILL), 50) == 0
    assert changed_share(ViewsConfig(**STILL | {"jitter_p": 1.0}, jitter_strength=0.0), 50) == 0


@pytest.mark.parametrize("which", ["jitter_p", "grayscale_p", "blur_p"])
@pytest.mark.parametrize("p", [0.2, 0.8, 1.0])
def test_color_augmentation_probabilities(which, p):
    # A blur of 0.1 pixels changes nothing, so the range has larger ones.
    share = changed_share(ViewsConfig(**STILL | {which: p}, blur_sigma=(0.8, 2.0)))
    assert abs(share - p) <= 4 * math.sqrt(p * (1 - p) / 400)


def test_color_augmentations_are_independent():
    config, generator = ViewsConfig(jitter_p=0.0, grayscale_p=0.5, blur_p=0.5, blur_sigma=(1.5, 2.0)), torch.Generator()
    table = torch.zeros(2, 2)
    for _ in range(400):
        view = augment_color(colors(), config, generator).float()
        table[int(torch.equal(view[0], view[1])), int(view.std(dim=(1, 2)).mean() < 40)] += 1
    assert ((table / 400 - 0.25).abs() < 4 * math.sqrt(0.25 * 0.75 / 400)).all()


def test_gray_has_equal_channels():
    view = augment_color(colors(), ViewsConfig(**STILL | {"grayscale_p": 1.0}), torch.Generator())
    assert view.shape == (3, 32, 32)
    assert torch.equal(view[0], view[1])
    assert torch.equal(view[0], view[2])
    luma = (colors().float() * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0)
    assert (view[0] - luma).abs().max() <= 1.1  # truncated, with weights of four digits


def test_jitter_is_within_its_range():
    # Contrast, saturation and hue don't change the mean of a uniform gray; brightness changes it by at most 0.8.
    view = torch.full((3, 16, 16), 100, dtype=torch.uint8)
    for strength, most in ((1.0, 0.8), (0.25, 0.2)):
        config, generator = ViewsConfig(**STILL | {"jitter_p": 1.0}, jitter_strength=strength), torch.Generator()
        ratios = torch.tensor([augment_color(view, config, generator).float().mean() / 100 for _ in range(200)])
        assert ratios.min() >= 1 - most - 0.03
        assert ratios.max() <= 1 + most + 0.03
        assert ratios.min() < 1 - 0.85 * most
        assert ratios.max() > 1 + 0.85 * most


def test_strongest_jitter_is_allowed():
    config = ViewsConfig(**STILL | {"jitter_p": 1.0}, jitter_strength=2.5)
    for seed in range(20):
        assert augment_color(colors(), config, torch.Generator().manual_seed(seed)).dtype == torch.uint8


def test_blur_of_a_point_has_variance_sigma_squared():
    view = torch.zeros(3, 49, 49, dtype=torch.uint8)
    view[:, 24, 24] = 255
    view = augment_color(
        view * 1, ViewsConfig(**STILL | {"blur_p": 1.0}, blur_sigma=(1.5, 1.5)), torch.Generator()
    ).double()
    position = torch.arange(49.0) - 24
    variance = (view[0].sum(0) * position**2).sum() / view[0].sum()
    assert abs(variance.sqrt() - 1.5) < 0.15  # the tails are lost to 8 bits
    assert torch.equal(view[0], view[0].T)


def test_noise_is_off_by_default_and_has_its_standard_deviation():
    assert ViewsConfig().noise_std == 0
    view = torch.full((3, 64, 64), 128, dtype=torch.uint8)
    noisy = augment_color(view, ViewsConfig(**STILL, noise_std=0.05), torch.Generator().manual_seed(0))
    assert noisy.dtype == torch.uint8
    assert abs(noisy.float().mean() - 128) < 0.5
    assert abs(noisy.float().std() / 255 - 0.05) < 0.002
    # At the ends of the range it is clipped and does not wrap around.
    dark = augment_color(torch.zeros_like(view), ViewsConfig(**STILL, noise_std=0.05), torch.Generator().manual_seed(0))
    assert dark.max() < 80
