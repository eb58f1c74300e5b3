"""Losses of GTSA compared with loops written from their definitions, in float64: values and gradients."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_align

from gtsa_kit.config import LossConfig
from gtsa_kit.methods.gtsa import GTSAOutputs
from gtsa_kit.methods.gtsa_losses import (
    GTSALosses,
    constant_baseline_loss,
    correspondence_loss,
    gtsa_loss,
    region_loss,
    rotation_loss,
)

# Both compute in float64 in a different order: a few thousand roundings of 1e-16 relative to terms of size 1.
CLOSE: dict[str, Any] = {"rtol": 0, "atol": 1e-12}
ROI_SIZES = (10, 4)
# The paper's views, and edge cases: no local view, one global view, one image.
CASES = [
    pytest.param((2, 2, 8), id="paper"),
    pytest.param((1, 2, 8), id="one-image"),
    pytest.param((2, 3, 0), id="no-local"),
    pytest.param((2, 1, 3), id="one-global"),
    pytest.param((1, 1, 1), id="one-pair"),
]


def make_outputs(
    batch: int, n_global: int, n_local: int, sides: tuple[int, int, int] = (7, 3, 7), channels: int = 5, seed: int = 0
) -> tuple[GTSAOutputs, Tensor, Tensor]:
    """Return random outputs, boxes and rotations; `sides` are the sides of global, local and teacher maps."""
    g = torch.Generator().manual_seed(seed)

    def maps(views: int, side: int) -> Tensor:
        return torch.randn(batch, views, channels, side, side, generator=g, dtype=torch.float64)

    views = n_global + n_local
    # Every box contains the point (50, 40), so that all pairs overlap, as in training.
    corners = torch.rand(batch, views, 4, generator=g, dtype=torch.float64)
    center = torch.tensor([50.0, 40.0, 50.0, 40.0], dtype=torch.float64)
    boxes = center + (5 + 40 * corners) * torch.tensor([-1, -1, 1, 1])
    rotations = torch.randint(4, (batch, views), generator=g)
    outputs = GTSAOutputs(
        global_maps=maps(n_global, sides[0]).requires_grad_(),
        local_maps=maps(n_local, sides[1]).requires_grad_(),
        rotation_logits=torch.randn(batch, views, 4, generator=g, dtype=torch.float64, requires_grad=True),
        targets=maps(n_global, sides[2]),
        tokens=torch.zeros(batch, n_global, 1, 1, 1),
    )
    return outputs, boxes, rotations


def student_map(outputs: GTSAOutputs, image: int, view: int) -> Tensor:
    """Return the student map (C, h, w) of a view, by its index among all views."""
    n_global = outputs.global_maps.shape[1]
    return outputs.global_maps[image, view] if view < n_global else outputs.local_maps[image, view - n_global]


def pairs(outputs: GTSAOutputs) -> list[tuple[int, int, int]]:
    """Return (image, student view, teacher view) of all pairs."""
    batch, n_global = outputs.targets.shape[:2]
    views = n_global + outputs.local_maps.shape[1]
    return [(b, v, g) for b in range(batch) for v in range(views) for g in range(n_global) if v != g]


def value(scalar: Tensor) -> float:
    return float(scalar.detach())


def mean_of(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).sum() / len(terms)


# --- region -----------------------------------------------------------------------------------------------------------


def overlap_of(a: list[float], b: list[float]) -> list[float]:
    return [max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])]


def box_on_map(box: list[float], crop: list[float], rotation: int, side: int) -> list[float]:
    """Return a box of the image in map coordinates of a view that was cropped, then rotated counter-clockwise."""
    (cx0, cy0, cx1, cy1), corners = crop, []
    for x, y in ((box[0], box[1]), (box[2], box[3])):
        x, y = (x - cx0) / (cx1 - cx0), (y - cy0) / (cy1 - cy0)
        for _ in range(rotation):  # rot90 moves the right edge to the top
            x, y = y, 1 - x
        corners.append((x * side, y * side))
    xs, ys = zip(*corners, strict=True)
    return [min(xs), min(ys), max(xs), max(ys)]


def slow_region(
    outputs: GTSAOutputs, boxes: Tensor, rotations: Tensor, roi_sizes: tuple[int, int] = ROI_SIZES
) -> Tensor:
    terms = []
    for b, v, g in pairs(outputs):
        size = roi_sizes[0] if v < outputs.targets.shape[1] else roi_sizes[1]
        overlap = overlap_of(boxes[b, v].tolist(), boxes[b, g].tolist())
        regions = []
        for view, its_map in ((v, student_map(outputs, b, v)), (g, outputs.targets[b, g])):
            box = box_on_map(overlap, boxes[b, view].tolist(), int(rotations[b, view]), its_map.shape[-1])
            roi = torch.tensor([[0.0, *box]], dtype=its_map.dtype)
            regions.append(roi_align(its_map[None], roi, size, aligned=True)[0])
        student_region, target = regions
        target = torch.rot90(target, int(rotations[b, v] - rotations[b, g]), (1, 2))
        cosines = []
        for i in range(size):
            for j in range(size):
                x, y = student_region[:, i, j], target[:, i, j]
                cosines.append((x * y).sum() / (x.norm() * y.norm()))
        terms.append(-mean_of(cosines))
    return mean_of(terms)


def our_region(
    outputs: GTSAOutputs, boxes: Tensor, rotations: Tensor, roi_sizes: tuple[int, int] = ROI_SIZES
) -> Tensor:
    return region_loss(outputs.global_maps, outputs.local_maps, outputs.targets, boxes, rotations, roi_sizes)


def gradients(loss: Tensor, *inputs: Tensor) -> list[Tensor]:
    """Return gradients; zeros for inputs that the loss does not depend on, such as empty local maps."""
    return list(torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True, materialize_grads=True))


def assert_same(ours: Tensor, slow: Tensor, outputs: GTSAOutputs) -> None:
    torch.testing.assert_close(ours, slow, **CLOSE)
    maps = (outputs.global_maps, outputs.local_maps)
    for a, b in zip(gradients(ours, *maps), gradients(slow, *maps), strict=True):
        torch.testing.assert_close(a, b, **CLOSE)
    assert max(float(gradient.abs().max()) for gradient in gradients(ours, *maps) if gradient.numel()) > 1e-4


@pytest.mark.parametrize("shape", CASES)
def test_region_loss_equals_the_loops(shape: tuple[int, int, int]) -> None:
    outputs, boxes, rotations = make_outputs(*shape)
    assert_same(our_region(outputs, boxes, rotations), slow_region(outputs, boxes, rotations), outputs)


def test_region_loss_at_the_papers_sizes() -> None:
    # Maps of 14 x 14 and 6 x 6: several samples per bin for the local grid, one or two for the global one.
    outputs, boxes, rotations = make_outputs(1, 2, 2, sides=(14, 6, 14), channels=3)
    assert_same(our_region(outputs, boxes, rotations), slow_region(outputs, boxes, rotations), outputs)


@pytest.mark.parametrize("rotation", [0, 1, 2, 3])
def test_region_loss_with_equal_rotations(rotation: int) -> None:
    outputs, boxes, rotations = make_outputs(1, 2, 2)
    rotations[:] = rotation
    assert_same(our_region(outputs, boxes, rotations), slow_region(outputs, boxes, rotations), outputs)


def test_region_loss_with_identical_boxes() -> None:
    outputs, boxes, rotations = make_outputs(2, 2, 2)
    boxes[:] = boxes[:, :1]
    assert_same(our_region(outputs, boxes, rotations), slow_region(outputs, boxes, rotations), outputs)


def test_region_loss_is_invariant_to_the_views_rotations() -> None:
    # Maps of upright views and the same maps rotated with their views contain the same regions. This test needs no
    # formula for rotated boxes.
    outputs, boxes, rotations = make_outputs(2, 2, 3)
    upright = our_region(outputs, boxes, torch.zeros_like(rotations))

    def rotate_each(maps: Tensor, its_rotations: Tensor) -> Tensor:
        rows = zip(maps, its_rotations.tolist(), strict=True)
        return torch.stack(
            [torch.stack([torch.rot90(m, k, (1, 2)) for m, k in zip(*row, strict=True)]) for row in rows]
        )

    rotated = outputs._replace(
        global_maps=rotate_each(outputs.global_maps, rotations[:, :2]),
        local_maps=rotate_each(outputs.local_maps, rotations[:, 2:]),
        targets=rotate_each(outputs.targets, rotations[:, :2]),
    )
    torch.testing.assert_close(our_region(rotated, boxes, rotations), upright, **CLOSE)


def test_constant_baseline_is_the_lowest_loss_of_a_constant_student() -> None:
    outputs, boxes, rotations = make_outputs(3, 2, 0)
    targets = outputs.targets + torch.tensor([1.0, -0.5, 0.3, 0.0, 0.8], dtype=torch.float64)[:, None, None]

    def loss_of(direction: Tensor) -> Tensor:
        maps = direction[:, None, None].expand_as(targets)
        return region_loss(maps, maps[:, :0], targets, boxes, rotations, ROI_SIZES)

    direction = torch.ones(5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([direction], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(direction)
        loss.backward()
        return loss

    optimizer.step(closure)
    best = constant_baseline_loss(targets, boxes, rotations, ROI_SIZES[0])
    torch.testing.assert_close(best, loss_of(direction.detach()), rtol=0, atol=1e-9)
    assert constant_baseline_loss(outputs.targets[:, :1], boxes[:, :1], rotations[:, :1], ROI_SIZES[0]) == 0  # no pair


def test_perfect_student_has_region_loss_minus_one() -> None:
    # The teacher's maps are constant and the student's equal to them: cosine 1 for any overlap.
    outputs, boxes, rotations = make_outputs(2, 2, 3)
    constant = torch.randn(2, 1, 5, 1, 1, dtype=torch.float64)
    perfect = outputs._replace(
        global_maps=constant.expand(2, 2, 5, 7, 7),
        local_maps=constant.expand(2, 3, 5, 3, 3) * 4,  # a cosine does not depend on the length
        targets=constant.expand(2, 2, 5, 7, 7),
    )
    torch.testing.assert_close(our_region(perfect, boxes, rotations), torch.tensor(-1.0, dtype=torch.float64), **CLOSE)
    # Maps that vary: same crop, same features, rotated with the view.
    image = torch.randn(2, 1, 5, 7, 7, dtype=torch.float64)
    maps = torch.stack([torch.rot90(image[:, 0], k, (2, 3)) for k in (1, 3)], dim=1)
    same_boxes = boxes[:, :1].expand(2, 2, 4)
    loss = region_loss(maps, maps[:, :0], maps, same_boxes, torch.tensor([[1, 3], [1, 3]]), ROI_SIZES)
    torch.testing.assert_close(loss, torch.tensor(-1.0, dtype=torch.float64), **CLOSE)


# --- patch correspondence ---------------------------------------------------------------------------------------------


def slow_correspondence(outputs: GTSAOutputs, k_global: int, k_local: int) -> Tensor:
    terms = []
    for b, v, g in pairs(outputs):
        k = k_global if v < outputs.targets.shape[1] else k_local
        student = [patch / patch.norm() for patch in student_map(outputs, b, v).flatten(1).T]
        teacher = [patch / patch.norm() for patch in outputs.targets[b, g].flatten(1).T]
        directions = []
        for here, there in ((student, teacher), (teacher, student)):
            best = [max((x @ y for y in there), key=value) for x in here]
            directions.append(mean_of(sorted(best, key=value, reverse=True)[:k]))
        terms.append(-(directions[0] + directions[1]) / 2)
    return mean_of(terms)


def our_correspondence(outputs: GTSAOutputs, match_fraction: float = 0.5) -> Tensor:
    return correspondence_loss(outputs.global_maps, outputs.local_maps, outputs.targets, match_fraction)


@pytest.mark.parametrize("shape", CASES)
def test_correspondence_loss_equals_the_loops(shape: tuple[int, int, int]) -> None:
    outputs, _, _ = make_outputs(*shape, sides=(4, 2, 4))
    assert_same(our_correspondence(outputs), slow_correspondence(outputs, k_global=8, k_local=2), outputs)


@pytest.mark.parametrize(("match_fraction", "k_global", "k_local"), [(0.01, 1, 1), (0.25, 4, 1), (1.0, 16, 4)])
def test_correspondence_loss_with_other_match_fractions(match_fraction: float, k_global: int, k_local: int) -> None:
    outputs, _, _ = make_outputs(1, 2, 2, sides=(4, 2, 4))
    assert_same(our_correspondence(outputs, match_fraction), slow_correspondence(outputs, k_global, k_local), outputs)


def test_correspondence_loss_when_the_teacher_has_fewer_patches_than_k() -> None:
    # Half of the local view's 36 patches are 18; a teacher map of 9 patches gives at most 9 matches in each direction.
    outputs, _, _ = make_outputs(2, 1, 2, sides=(3, 6, 3))
    assert_same(our_correspondence(outputs), slow_correspondence(outputs, k_global=4, k_local=9), outputs)


@pytest.mark.parametrize(("side", "k"), [(14, 98), (6, 18)])
def test_correspondence_keeps_the_papers_k(side: int, k: int) -> None:
    # All teacher patches are equal: student patch i has similarity cos(angle i) with each of them, and each of them
    # matches the best student patch. The loss then has a closed form.
    angles = torch.linspace(0.1, 3.0, side * side, dtype=torch.float64)
    shuffled = angles[torch.randperm(len(angles), generator=torch.Generator().manual_seed(0))]
    local = torch.stack([shuffled.cos(), shuffled.sin()]).reshape(1, 1, 2, side, side)
    teacher = torch.tensor([1.0, 0.0], dtype=torch.float64).reshape(1, 1, 2, 1, 1).expand(1, 1, 2, 14, 14)
    expected = -(angles.cos()[:k].mean() + math.cos(0.1)) / 2
    torch.testing.assert_close(
        correspondence_loss(teacher, local, teacher, LossConfig().match_fraction), expected, **CLOSE
    )


def test_correspondence_loss_is_invariant_to_patch_positions() -> None:
    outputs, _, _ = make_outputs(1, 2, 3)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    moved = outputs._replace(local_maps=outputs.local_maps.flatten(3)[..., order].reshape(outputs.local_maps.shape))
    torch.testing.assert_close(our_correspondence(moved), our_correspondence(outputs), **CLOSE)


def test_perfect_student_has_correspondence_loss_minus_one() -> None:
    outputs, _, _ = make_outputs(2, 2, 3)
    teacher = outputs.targets[:, :1].expand_as(outputs.targets)
    perfect = outputs._replace(global_maps=teacher * 3, local_maps=teacher[:, :1, :, :3, :3], targets=teacher)
    torch.testing.assert_close(our_correspondence(perfect), torch.tensor(-1.0, dtype=torch.float64), **CLOSE)


# --- rotation and total loss ------------------------------------------------------------------------------------------


def slow_rotation(logits: Tensor, rotations: Tensor) -> Tensor:
    terms = []
    for row, labels in zip(logits, rotations.tolist(), strict=True):
        for view, label in zip(row, labels, strict=True):
            terms.append(view.exp().sum().log() - view[label])
    return mean_of(terms)


@pytest.mark.parametrize("shape", CASES)
def test_rotation_loss_equals_the_loops(shape: tuple[int, int, int]) -> None:
    outputs, _, rotations = make_outputs(*shape)
    ours, slow = rotation_loss(outputs.rotation_logits, rotations), slow_rotation(outputs.rotation_logits, rotations)
    torch.testing.assert_close(ours, slow, **CLOSE)
    both = (gradients(loss, outputs.rotation_logits)[0] for loss in (ours, slow))
    torch.testing.assert_close(*both, **CLOSE)


def test_rotation_loss_of_a_uniform_prediction() -> None:
    loss = rotation_loss(torch.zeros(2, 10, 4), torch.randint(4, (2, 10)))
    assert float(loss) == pytest.approx(math.log(4))


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_total_is_the_weighted_sum(alpha: float) -> None:
    outputs, boxes, rotations = make_outputs(2, 2, 3, sides=(4, 2, 4))
    config = LossConfig(rotation_weight=0.25, roi_size_global=5, roi_size_local=3)
    ours = gtsa_loss(*outputs[:4], boxes, rotations, config, alpha)
    region = slow_region(outputs, boxes, rotations, roi_sizes=(5, 3))
    correspondence = slow_correspondence(outputs, k_global=8, k_local=2)
    rotation = slow_rotation(outputs.rotation_logits, rotations)
    total = region + alpha * correspondence + 0.25 * rotation
    for a, b in zip(ours, (total, region, correspondence, rotation), strict=True):
        torch.testing.assert_close(a, b, **CLOSE)
    inputs = (outputs.global_maps, outputs.local_maps, outputs.rotation_logits)
    for a, b in zip(gradients(ours.total, *inputs), gradients(total, *inputs), strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


def all_losses(outputs: GTSAOutputs, boxes: Tensor, rotations: Tensor) -> GTSALosses:
    return gtsa_loss(*outputs[:4], boxes, rotations, LossConfig(), alpha=0.5)


def test_one_global_view_alone_has_no_pairs() -> None:
    outputs, boxes, rotations = make_outputs(2, 1, 0)
    losses = all_losses(outputs, boxes, rotations)
    assert (value(losses.region), value(losses.correspondence)) == (0.0, 0.0)
    losses.total.backward()  # both zeros are part of the graph, so the trainer needs no special case
    torch.testing.assert_close(losses.total, 0.5 * slow_rotation(outputs.rotation_logits, rotations), **CLOSE)
    for tensor in (outputs.global_maps, outputs.local_maps):
        assert tensor.grad is None or bool((tensor.grad == 0).all())  # also excludes NaN
    assert outputs.rotation_logits.grad is not None


def test_targets_need_no_gradient() -> None:
    outputs, boxes, rotations = make_outputs(1, 2, 1)
    all_losses(outputs, boxes, rotations).total.backward()
    assert outputs.targets.grad is None
    for tensor in (outputs.global_maps, outputs.local_maps, outputs.rotation_logits):
        assert tensor.grad is not None
        assert bool(tensor.grad.isfinite().all())


def take(outputs: GTSAOutputs, boxes: Tensor, rotations: Tensor, rows: Any) -> tuple[GTSAOutputs, Tensor, Tensor]:
    return GTSAOutputs(*(tensor[rows] for tensor in outputs if tensor is not None)), boxes[rows], rotations[rows]


def test_losses_are_invariant_to_the_order_of_images() -> None:
    batch = make_outputs(4, 2, 3)
    for a, b in zip(all_losses(*batch), all_losses(*take(*batch, [2, 0, 3, 1])), strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


def test_a_batch_is_the_mean_of_its_halves() -> None:
    # Required for averaging gradients over processes and micro-steps.
    batch = make_outputs(4, 2, 3)
    whole = all_losses(*batch)
    halves = [all_losses(*take(*batch, rows)) for rows in (slice(0, 2), slice(2, 4))]
    for a, *b in zip(whole, *halves, strict=True):
        torch.testing.assert_close(a, (b[0] + b[1]) / 2, **CLOSE)


def test_images_are_compared_with_themselves_only() -> None:
    outputs, boxes, rotations = make_outputs(2, 2, 3)
    losses = all_losses(*take(outputs, boxes, rotations, [0]))
    for tensor in gradients(losses.total, outputs.global_maps, outputs.local_maps, outputs.rotation_logits):
        assert float(tensor[0].abs().max()) > 0
        assert float(tensor[1].abs().max()) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_losses_are_float32_for_maps_of_any_lower_precision(dtype: torch.dtype) -> None:
    outputs, boxes, rotations = make_outputs(2, 2, 3)
    lower = GTSAOutputs(*(tensor.detach().to(dtype) for tensor in outputs if tensor is not None))
    ours = all_losses(lower, boxes.float(), rotations)
    assert {loss.dtype for loss in ours} == {torch.float32}
    exact = all_losses(
        GTSAOutputs(*(tensor.double() for tensor in lower if tensor is not None)), boxes.float().double(), rotations
    )
    # About ten sums of a few numbers of size 1 precede each cosine, each rounded by 6e-8. Positions on a map of side 7
    # are rounded by 5e-7 and move a sample by as much. Cosines computed in bfloat16 would be off by 1e-3.
    for a, b in zip(ours, exact, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=2e-6)
