"""Segmentation metrics against slow loops and scikit-learn, and the segmentation evaluation on images."""

from pathlib import Path

import numpy as np
import pytest
from helpers.evaluation_data import BLOCK_COLORS, write_blocks, write_masked_image
from PIL import Image
from sklearn.metrics import accuracy_score, jaccard_score, recall_score

from gtsa_kit.data.label_map import VOID, MaskOptions
from gtsa_kit.data.labeled_masks import read_segmentation_dataset
from gtsa_kit.evaluation.dense_probes import LinearProbeOptions
from gtsa_kit.evaluation.dense_tokens import InputOptions
from gtsa_kit.evaluation.models import Model, open_models, random_runner
from gtsa_kit.evaluation.segment import SegmentOptions, pixel_counts, segment, segmentation_metrics
from gtsa_kit.export.build_manifest import build_manifest
from gtsa_kit.export.spec import ExportOptions, Range
from gtsa_kit.models.encoder import Encoder

QUICK = LinearProbeOptions(epochs=1, min_steps=80)


@pytest.fixture(scope="session")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_blocks(tmp_path_factory.mktemp("blocks"))


@pytest.fixture(scope="session")
def models(tiny_run: Path) -> list[Model]:
    return open_models([tiny_run], ["vit_test"], device="cpu")


@pytest.fixture(scope="session")
def fixed() -> Model:
    """Open a model that takes batches of 3 and inputs of 48 x 80."""
    runner = random_runner("vit_test", 0, "cpu")
    options = ExportOptions(height=Range(48, 48), width=Range(80, 80), batch=Range(3, 3))
    runner.manifest = build_manifest(Encoder("vit_test"), "pytorch", options, {"torch": "any"}, "random")
    return Model("fixed", runner, None)


def maps(classes: int = 5, present: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, present, (30, 40)).astype(np.uint8)
    predicted = np.where(rng.random(labels.shape) < 0.6, labels, rng.integers(0, present, labels.shape)).astype(
        np.int64
    )
    labels[:5] = VOID
    return predicted, labels


def test_measures_against_nested_loops_and_scikit_learn() -> None:
    predicted, labels = maps()
    metrics = segmentation_metrics(pixel_counts(predicted, labels, 5))
    intersection, union, labeled_pixels = [0] * 5, [0] * 5, [0] * 5
    correct = pixels = 0
    for row in range(30):
        for column in range(40):
            truth, prediction = int(labels[row, column]), int(predicted[row, column])
            if truth == VOID:
                continue
            pixels, correct = pixels + 1, correct + (truth == prediction)
            labeled_pixels[truth] += 1
            intersection[truth] += truth == prediction
            for index in {truth, prediction}:
                union[index] += 1
    assert metrics["iou"][4] is None  # neither in the mask nor predicted
    assert metrics["iou"][:4] == pytest.approx([100 * i / u for i, u in zip(intersection[:4], union[:4], strict=True)])
    assert metrics["miou"] == pytest.approx(
        100 * sum(i / u for i, u in zip(intersection[:4], union[:4], strict=True)) / 4
    )
    assert metrics["macc"] == pytest.approx(
        100 * sum(i / t for i, t in zip(intersection[:4], labeled_pixels[:4], strict=True)) / 4
    )
    assert metrics["aacc"] == pytest.approx(100 * correct / pixels)
    labeled = labels != VOID
    assert metrics["miou"] == pytest.approx(100 * jaccard_score(labels[labeled], predicted[labeled], average="macro"))
    assert metrics["macc"] == pytest.approx(100 * recall_score(labels[labeled], predicted[labeled], average="macro"))
    assert metrics["aacc"] == pytest.approx(100 * accuracy_score(labels[labeled], predicted[labeled]))


def test_a_class_that_is_predicted_but_absent_counts_in_miou_alone() -> None:
    labels, predicted = np.array([[0, 0, 1, 1]], np.uint8), np.array([[0, 0, 1, 2]])
    metrics = segmentation_metrics(pixel_counts(predicted, labels, 4))
    assert metrics["iou"] == [100, 50, 0, None]
    assert metrics["miou"] == 50
    assert metrics["macc"] == 75


def test_predictions_under_void_do_not_matter() -> None:
    predicted, labels = maps()
    other = predicted.copy()
    other[labels == VOID] = 4
    np.testing.assert_array_equal(pixel_counts(predicted, labels, 5), pixel_counts(other, labels, 5))


@pytest.mark.parametrize("tile", [None, 32])
def test_both_probes_of_both_models_segment_blocks_of_color(blocks: Path, models: list[Model], tile: int) -> None:
    data = read_segmentation_dataset(blocks)
    assert (data.classes, data.has_split, len(data.pairs)) == (("0", "1", "2"), True, 14)
    options = SegmentOptions(InputOptions(96 if tile is None else None, tile), seeds=1, linear=QUICK)
    report = segment(models, data, options)
    assert [row["model"].split(", ")[1] for row in report.rows] == ["linear", "knn"] * 2
    for row in report.rows:
        assert row["aacc"] > 85  # edges are blurred by upsampling
        assert row["miou_low"] <= row["miou"] <= row["miou_high"]
        assert row["inputs"] == ([[64, 96]] if tile is None else [[32, 32]])
        assert row["iou"].keys() == {"0", "1", "2"}


def test_chance_is_the_most_frequent_class_everywhere(blocks: Path, models: list[Model]) -> None:
    data = read_segmentation_dataset(blocks)
    report = segment(models[:1], data, SegmentOptions(InputOptions(96), ("knn",), 1))
    labels = np.concatenate([data.labels(pair).ravel() for pair in data.pairs if pair.split == "val"])
    constant = np.full_like(labels, np.bincount(labels).argmax())
    assert report.chance["miou"] == pytest.approx(100 * jaccard_score(labels, constant, average="macro"))
    assert report.chance["aacc"] == pytest.approx(100 * accuracy_score(labels, constant))
    assert report.chance["macc"] == pytest.approx(100 * recall_score(labels, constant, average="macro"))


def test_masks_of_one_class_each_give_perfect_scores(models: list[Model], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for index in range(4):
            for kind in ("images", "masks"):
                (tmp_path / split / kind).mkdir(parents=True, exist_ok=True)
            pixels = BLOCK_COLORS[index % 2] + rng.integers(0, 9, (48, 48, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / split / "images" / f"{index}.png")
            Image.new("L", (48, 48), index % 2).save(tmp_path / split / "masks" / f"{index}.png")
    report = segment(
        models, read_segmentation_dataset(tmp_path), SegmentOptions(InputOptions(48), seeds=2, linear=QUICK)
    )
    assert {(row["miou"], row["aacc"], row["macc"]) for row in report.rows} == {(100.0, 100.0, 100.0)}


def test_classes_without_training_or_validation_pixels_are_noted(models: list[Model], tmp_path: Path) -> None:
    """Class 2 is in the validation masks alone, class 1 in the training masks alone."""
    rng = np.random.default_rng(0)
    for split, kept in (("train", 1), ("val", 2)):
        for index in range(2):
            mask = write_masked_image(tmp_path / split, f"{index}", rng)
            Image.fromarray(np.where(mask == kept, mask, 0).astype(np.uint8)).save(
                tmp_path / split / "masks" / f"{index}.png"
            )
    report = segment(models[:1], read_segmentation_dataset(tmp_path), SegmentOptions(InputOptions(64), ("knn",), 1))
    assert report.notes == ("no training pixel of 2, so no probe predicts it", "no validation pixel of 1")
    assert report.rows[0]["iou"]["2"] == 0


def test_seeds_reproduce_and_the_split_is_random(models: list[Model], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(6):
        write_masked_image(tmp_path, f"{index}", rng)
    data, options = (
        read_segmentation_dataset(tmp_path),
        SegmentOptions(InputOptions(64), seeds=2, linear=QUICK, val_share=0.3),
    )
    assert not data.has_split
    reports = [segment(models[:1], data, options).to_dict() for _ in range(2)]
    assert reports[0] == reports[1]
    assert all((row["train"], row["val"]) == (4, 2) for row in reports[0]["rows"])
    separate = read_segmentation_dataset(tmp_path / "images", tmp_path / "masks")
    assert [pair.name for pair in separate.pairs] == [pair.name for pair in data.pairs]


def test_pixels_under_void_do_not_matter(models: list[Model], tmp_path: Path) -> None:
    """Two void values, shuffled, change no metric."""
    predicted = []
    for kind in ("a", "b"):
        rng = np.random.default_rng(0)
        for index in range(5):
            mask = write_masked_image(tmp_path / kind, f"{index}", rng)
            mask[:20] = np.random.default_rng(index).choice([11, 255], mask[:20].shape) if kind == "a" else 11
            Image.fromarray(mask).save(tmp_path / kind / "masks" / f"{index}.png")
        data = read_segmentation_dataset(tmp_path / kind, options=MaskOptions(ignore=("11",)))
        assert data.classes == ("0", "1", "2")
        predicted.append(segment(models[:1], data, SegmentOptions(InputOptions(64), seeds=1, linear=QUICK)).rows)
    assert predicted[0] == predicted[1]
    assert predicted[0][0]["void"] == pytest.approx(100 * 20 / 64)


def test_a_model_of_one_input_shape_gets_that_shape(blocks: Path, fixed: Model) -> None:
    for framing in (InputOptions(96), InputOptions(tile=32)):
        row = segment(
            [fixed], read_segmentation_dataset(blocks), SegmentOptions(framing, ("linear",), 1, linear=QUICK)
        ).rows[0]
        assert row["inputs"] == [[48, 80]]
        assert row["aacc"] > 60


def test_skipped_files_are_in_the_report(models: list[Model], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a", "b", "unreadable"):
        write_masked_image(tmp_path, name, rng)
    (tmp_path / "images" / "unreadable.png").write_bytes(b"")
    data = read_segmentation_dataset(tmp_path, max_missing=0.5)
    report = segment(models[:1], data, SegmentOptions(InputOptions(64), ("knn",), 1))
    assert [item["path"] for item in report.settings["skipped"]] == ["unreadable.png"]
