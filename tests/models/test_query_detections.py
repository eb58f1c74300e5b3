"""Detections of queries beside transformers' post-processing and slow computations in float64."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gtsa_kit.models.detector_spec import DetectorSpec
from gtsa_kit.models.eomt import QueryMasks
from gtsa_kit.models.query_detections import mask_boxes, query_detections, resample_boxes

CLASSES, QUERIES = 3, 12


@pytest.fixture(name="queries", scope="module")
def made_queries() -> QueryMasks:
    """Queries of smooth masks, of which one is empty and one covers the whole image."""
    generator = torch.Generator().manual_seed(0)
    masks = 6 * F.interpolate(torch.randn(2, QUERIES, 4, 5, generator=generator), size=(24, 32), mode="bicubic") - 2
    masks[0, 3], masks[1, 4] = -1.0, 2.0
    return QueryMasks(masks, 3 * torch.randn(2, QUERIES, CLASSES + 1, generator=generator))


def test_scores_labels_and_masks_are_those_of_transformers(queries: QueryMasks) -> None:
    processing = pytest.importorskip("transformers.models.eomt.image_processing_eomt", reason="needs transformers")
    spec, size = DetectorSpec(score_threshold=0.1, max_detections=20), {"shortest_edge": 24, "longest_edge": 32}
    outputs = SimpleNamespace(masks_queries_logits=queries.masks, class_queries_logits=queries.classes)
    expected = processing.EomtImageProcessor().post_process_instance_segmentation(
        outputs, [(24, 32)] * 2, spec.score_threshold, size
    )
    detections = query_detections(queries, spec, stride=4)
    assert [len(values[0]) for values in detections] == [20] * 4
    for i, image in enumerate(expected):
        segments = sorted(image["segments_info"], key=lambda one: -one["score"])
        assert len(segments) > 4
        count = int((detections.scores[i] > 0).sum())
        np.testing.assert_allclose(detections.scores[i, :count], [one["score"] for one in segments], atol=2e-6)
        assert detections.labels[i, :count].tolist() == [one["label_id"] for one in segments]
        assert not any(values[i, count:].any() for values in detections)
        for box, one in zip(detections.boxes[i, :count] / 4, segments, strict=True):
            ys, xs = torch.nonzero(image["segmentation"] == one["id"], as_tuple=True)  # later masks cover it in part
            if len(xs):
                assert (box[:2] <= torch.stack([xs.min(), ys.min()]) + 0.5).all()
                assert (box[2:] >= torch.stack([xs.max(), ys.max()]) + 0.5).all()


def test_boxes_enclose_the_enlarged_masks(queries: QueryMasks) -> None:
    factor = 16
    boxes = mask_boxes(queries.masks.double())
    large = F.interpolate(queries.masks.double(), scale_factor=factor, mode="bilinear") > 0
    checked = 0
    for own, mask in zip(boxes.flatten(0, 1), large.flatten(0, 1), strict=True):
        ys, xs = torch.nonzero(mask, as_tuple=True)
        if not len(xs):
            continue
        checked += 1
        expected = torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) / factor
        half = 0.5 / factor + 1e-9  # pixels of the enlarged mask are seen at their centers
        assert (own[:2] <= expected[:2] + half).all()
        assert (own[2:] >= expected[2:] - half).all()
        assert (own - expected).abs().max() < 1
    assert checked == 2 * QUERIES - 1
    assert boxes[1, 4].tolist() == [0, 0, 32, 24]
    ramp = torch.linspace(-3, 4, 8)[None, None, None].expand(1, 1, 8, 8)
    assert mask_boxes(ramp)[0, 0].tolist() == [3.5, 0, 8, 8]  # 0 in the center of the fourth column


def test_masks_are_averages_by_triangles(queries: QueryMasks) -> None:
    values = queries.masks[:1, :2].sigmoid()
    boxes = torch.tensor([[[2.0, 3.0, 30.0, 21.0], [0.0, 0.0, 5.6, 24.0]]])
    side = 7
    actual = resample_boxes(values, boxes, side)
    for number, (x0, y0, x1, y1) in enumerate(boxes[0].double().tolist()):
        for row, column in ((0, 0), (3, 5), (6, 6)):
            total = weights = 0.0
            for y in range(24):
                for x in range(32):
                    weight = 1.0
                    for at, low, high, bin_, n in ((y, y0, y1, row, 24), (x, x0, x1, column, 32)):
                        step = (high - low) / side
                        center = min(max(low + (bin_ + 0.5) * step - 0.5, 0), n - 1)
                        weight *= max(0.0, 1 - abs(at - center) / max(step, 1))
                    total, weights = total + weight * float(values[0, number, y, x]), weights + weight
            assert float(actual[0, number, row, column]) == pytest.approx(total / weights, abs=1e-5)
    whole = resample_boxes(values, torch.tensor([0.0, 0.0, 32.0, 24.0]).expand(1, 2, 4), 8)
    assert whole.mean() == pytest.approx(float(values.mean()), abs=0.03)
    same = resample_boxes(values[..., :24], torch.tensor([0.0, 0.0, 24.0, 24.0]).expand(1, 2, 4), 24)
    torch.testing.assert_close(same, values[..., :24])
