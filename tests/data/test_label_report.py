"""Checks and counts of labeled data before training."""

from pathlib import Path

import numpy as np
import pytest
from helpers.evaluation_data import write_color_classes, write_color_image, write_masked_image
from PIL import Image
from sklearn.utils.class_weight import compute_class_weight

from gtsa_kit.data.class_weights import class_weights
from gtsa_kit.data.label_map import MaskOptions
from gtsa_kit.data.label_report import prepare_classes, prepare_masks
from gtsa_kit.data.labeled import read_classification_dataset
from gtsa_kit.data.labeled_masks import read_segmentation_dataset
from gtsa_kit.data.split_rule import SplitRule

NAMES = {0: "ground", 1: "thing", 2: "sky"}


def write(root: Path, masks: dict[str, list[int]], size: int = 20) -> Path:
    """Write an image and a mask of each name; the mask has equal stripes of the values."""
    for name, values in masks.items():
        split, _, stem = name.rpartition("/")
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (size, size), (90, 90, 90)).save(root / split / "images" / f"{stem}.png")
        mask = np.repeat(np.array(values, np.uint8), size // len(values))[:, None].repeat(size, 1)
        Image.fromarray(mask).save(root / split / "masks" / f"{stem}.png")
    return root


def test_pixels_of_each_class_are_counted_in_both_parts(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    masks = {split: [write_masked_image(tmp_path / split, f"{i}", rng) for i in range(3)] for split in ("train", "val")}
    data = read_segmentation_dataset(tmp_path, options=MaskOptions(NAMES, ignore=("sky",)))
    prepared = prepare_masks(data, SplitRule())
    report = prepared.report
    assert report.classes == ("ground", "thing")
    for split, part in (("train", report.train), ("val", report.val)):
        assert part.counts == tuple(sum(int((mask == i).sum()) for mask in masks[split]) for i in (0, 1))
        assert part.void == sum(int((mask == 2).sum()) for mask in masks[split])
        assert part.images_with == (3, 3)
        assert part.images == 3
    assert prepared.validation.tolist() == [pair.split == "val" for pair in data.pairs]
    assert report.split == "as the dataset has it"
    assert report.warnings == report.skipped == ()
    assert report.to_dict()["train"]["counts"] == report.train.counts


def test_what_looks_wrong_is_said_by_name_and_count(tmp_path: Path) -> None:
    common = {f"train/{i:02d}": [0, 1] for i in range(40)}
    write(tmp_path, common | {"train/void": [255], "train/odd": [0, 7], "val/0": [0, 2, 255, 255]})
    options = MaskOptions({0: "ground", 1: "thing", 2: "sky", 3: "car", 4: "tram"})
    report = prepare_masks(read_segmentation_dataset(tmp_path, options=options), SplitRule()).report
    assert report.skipped == ("1 skipped, first train/void.png: its mask is void everywhere",)
    assert report.train.images == 41
    values, one_image, learned, nowhere, no_score = report.warnings
    assert values.startswith(
        "1 mask holds values that no label has; their pixels are void: first train/odd.png: 7 in 200"
    )
    assert one_image == "val holds one image"
    assert learned == "1 class has no pixels in train and will not be learned: sky (100 pixels in val)"
    assert nowhere == "2 classes have no pixels in train, nor in val: car, tram"
    assert no_score == "1 class has no pixels in val and will have no score: thing"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"train/a": [0, 7], "train/b": [7], "val/c": [0, 9]},
            r"3 of 13 masks hold values that no label has, first train/a\.png: 7 in 200 pixels; name .*--ignore VALUE",
        ),
        (
            {"train/a": [255]},
            r"1 of 11 images and masks .* more than 5%, first train/a\.png: its mask is void everywhere",
        ),
        ({"train/a": [255, 0], "alone/b": [1]}, None),
    ],
)
def test_above_a_share_of_bad_pairs_the_data_is_refused(
    wrong: dict[str, list[int]], message: str | None, tmp_path: Path
) -> None:
    write(tmp_path, {f"{split}/{i}": [0, 1] for split in ("train", "val") for i in range(5)} | wrong)
    data = read_segmentation_dataset(tmp_path, options=MaskOptions(NAMES), max_missing=0.05)
    if message is None:
        assert len(prepare_masks(data, SplitRule()).data.pairs) == 11
        return
    with pytest.raises(ValueError, match=message):
        prepare_masks(data, SplitRule())
    assert prepare_masks(data, SplitRule(), max_bad=0.5).report.train.images >= 5


def test_data_that_nothing_can_be_learned_from_is_refused(tmp_path: Path) -> None:
    options = MaskOptions(NAMES)
    write(tmp_path / "one", {f"{split}/{i}": [0] for split in ("train", "val") for i in (1, 2)})
    one = read_segmentation_dataset(tmp_path / "one", options=options)
    with pytest.raises(ValueError, match="train holds pixels of 1 class, and two are needed"):
        prepare_masks(one, SplitRule())
    ignored = MaskOptions({0: "x", 1: "y", 2: "z"}, ignore=("z",))
    void = read_segmentation_dataset(write(tmp_path / "v", {"a1": [2], "b2": [255, 2]}), options=ignored)
    with pytest.raises(ValueError, match="every pixel of all masks is void"):
        prepare_masks(void, SplitRule())
    part = read_segmentation_dataset(write(tmp_path / "p", {"train/1": [0, 1], "val/2": [255]}), options=options)
    with pytest.raises(ValueError, match="no usable image is in val"):
        prepare_masks(part, SplitRule(), max_bad=0.9)


def test_images_of_each_class_are_counted_and_unreadable_ones_skipped(tmp_path: Path) -> None:
    root = write_color_classes(tmp_path)
    damaged = sorted((root / "rot").iterdir())[0]
    damaged.write_bytes(damaged.read_bytes()[:200])
    calls = []
    prepared = prepare_classes(
        read_classification_dataset(root),
        SplitRule(0.25, "order"),
        on_progress=lambda task, done, total: calls.append((done, total)),
    )
    assert prepared.report.unit == "images"
    assert prepared.report.train.counts == (9, 9, 8)
    assert prepared.report.val.counts == (3, 3, 3)
    assert len(prepared.data.paths) == len(prepared.data.names) == len(prepared.validation) == 35
    assert prepared.report.skipped[0].startswith(f"1 skipped, first rot/{damaged.name}: ")
    assert calls[-1] == (36, 36)
    with pytest.raises(ValueError, match=r"1 of 36 images can't be used, more than 1%, first rot/.*--max-missing"):
        prepare_classes(read_classification_dataset(root), SplitRule(), max_bad=0.01)


def test_a_class_that_one_part_lacks_is_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    folders = {"train/cat": 3, "train/dog": 2, "train/emu": 1, "val/cat": 1, "val/dog": 1, "val/fox": 2}
    for folder, count in folders.items():
        for i in range(count):
            write_color_image(tmp_path / folder / f"{i}.png", (10, 200, 10), rng)
    data = read_classification_dataset(tmp_path)
    report = prepare_classes(data, SplitRule(), max_bad=0.3).report
    assert report.warnings == ("1 class has no images in val and will have no score: emu",)
    assert report.skipped == ("2 skipped, first val/fox/0.png: none of its class is in train",)
    with pytest.raises(ValueError, match=r"2 of 10 images can't be used, more than 5%, first val/fox/0\.png"):
        prepare_classes(data, SplitRule())


def test_inverse_weights_are_those_of_scikit_learn() -> None:
    labels = np.random.default_rng(0).choice(4, 1000, p=[0.7, 0.2, 0.09, 0.01])
    counts = np.bincount(labels)
    expected = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    np.testing.assert_allclose(class_weights(counts, "inverse"), expected, rtol=1e-6)


@pytest.mark.parametrize("kind", ["none", "inverse", "sqrt", "log"])
def test_weights_grow_with_rarity_and_their_mean_over_pixels_is_1(kind: str) -> None:
    counts = [10**9, 0, 10**6, 10**3, 10]
    weights = class_weights(counts, kind)
    assert weights.dtype == np.float32
    assert weights[1] == 1
    assert np.dot(weights, counts) / sum(counts) == pytest.approx(1, rel=1e-6)
    there = weights[[0, 2, 3, 4]]
    if kind == "none":
        assert (weights == 1).all()
    else:
        assert (np.diff(there) > 0).all()
    ratio = {
        "none": 1,
        "inverse": 10**8,
        "sqrt": 10**4,
        "log": np.log(1.02 + counts[0] / sum(counts)) / np.log(1.02 + 10 / sum(counts)),
    }[kind]
    assert there[3] / there[0] == pytest.approx(ratio, rel=1e-4)
    with pytest.raises(ValueError, match="unknown class weights 'cubic'; choose none, inverse, sqrt, log"):
        class_weights(counts, "cubic")
    with pytest.raises(ValueError, match="no class has a pixel"):
        class_weights([0, 0], kind)
