"""Figures of the segmentation evaluation, by their matplotlib objects."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from helpers.evaluation_data import write_blocks
from matplotlib.colors import to_hex, to_rgb
from PIL import Image

from gtsa_kit.data.label_map import VOID
from gtsa_kit.data.labeled_masks import SegmentationDataset, read_segmentation_dataset
from gtsa_kit.evaluation.segment_plot import (
    MAX_LEGEND,
    Example,
    ExampleCollector,
    class_colors,
    draw_class_iou,
    draw_predictions,
)
from gtsa_kit.evaluation.support.report import Report


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> SegmentationDataset:
    return read_segmentation_dataset(write_blocks(tmp_path_factory.mktemp("blocks")))


def make_example(classes: int = 3, void: bool = True) -> Example:
    labels = np.arange(24).reshape(4, 6).astype(np.uint8) % classes
    predicted = {name: np.roll(labels, shift) for shift, name in enumerate(("trained", "random"))}
    labels = np.where(np.arange(6) < 2, VOID, labels).astype(np.uint8) if void else labels
    return Example("val/a.png", Image.new("RGB", (6, 4)), labels, predicted)


def legend_labels(figure: object) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]  # type: ignore[attr-defined]


def test_a_row_shows_image_truth_and_every_prediction_in_the_colors_of_the_classes() -> None:
    example = make_example()
    figure = draw_predictions([example, example], ["road", "sky", "_x$1"])
    rows = np.array(figure.axes).reshape(2, 4)
    assert [axis.get_title() for axis in rows[1]] == ["image", "truth", "trained", "random"]
    assert rows[0, 0].get_xlabel() == "val/a.png"
    colors = [np.round(255 * np.array(to_rgb(color))) for color in class_colors(3)]
    for axis, labels in zip(rows[0, 1:], (example.labels, *example.predictions.values()), strict=True):
        drawn = axis.images[0].get_array()
        for number in range(3):
            assert (drawn[labels == number] == colors[number]).all()
        assert (drawn[labels == VOID] == 255).all()
    assert legend_labels(figure) == ["road", "sky", "_x$1", "void (truth)"]
    faces = [to_hex(patch.get_facecolor()) for patch in figure.legends[0].get_patches()]
    assert faces[:3] == class_colors(3)


def test_a_legend_of_many_classes_ends_with_their_number() -> None:
    names = [f"class {i}" for i in range(90)]
    labels = legend_labels(draw_predictions([make_example(24, void=False)], names))
    assert labels == [*names[:MAX_LEGEND], f"and {90 - MAX_LEGEND} more classes"]


def test_the_iou_of_each_class_is_drawn_from_zero_to_one_hundred() -> None:
    """The bar is the mean over seeds; a class that is neither in the masks nor predicted has none."""
    rows = [
        {"model": model, "seed": seed, "iou": {"a": 10.0 * seed + add, "b": None, "c": 50.0}}
        for model, add in (("trained", 30.0), ("random x", 20.0))
        for seed in range(2)
    ]
    figure = draw_class_iou(Report("segment", "t", {}, rows, {"classes": ["a", "b", "c"]}))
    [axis] = figure.axes
    widths = [[bar.get_width() for bar in container] for container in axis.containers]
    np.testing.assert_array_equal(widths, [[35, np.nan, 50], [25, np.nan, 50]])
    assert axis.get_xlim() == (0, 105)
    assert [text.get_text() for text in axis.get_yticklabels()] == ["a", "b", "c"]
    assert legend_labels(figure) == ["trained", "random x"]
    squares = [text.get_color() for text in axis.texts if text.get_text() == "■"]
    assert squares == class_colors(3)


def test_the_first_24_classes_have_different_colors() -> None:
    assert len(set(class_colors(24))) == 24
    assert class_colors(30)[24:] == class_colors(6)


def test_neighboring_classes_differ_in_gray() -> None:
    """The first eight; lightness is the gray level of a print, 0 to 255."""
    gray = [Image.new("RGB", (1, 1), color).convert("L").getpixel((0, 0)) for color in class_colors(8)]
    assert min(abs(a - b) for a, b in pairwise(gray)) >= 15


def test_the_collector_keeps_the_first_seed_of_evenly_spaced_validation_images(blocks: SegmentationDataset) -> None:
    collector = ExampleCollector(blocks, 0.2, count=2)
    val = np.flatnonzero(blocks.validation(0.2, 0))
    for index in val:
        for seed in range(2):
            collector("row", seed, int(index), np.full((64, 96), seed))
    first, last = collector.examples()
    assert [first.name, last.name] == [blocks.pairs[val[0]].name, blocks.pairs[val[-1]].name]
    np.testing.assert_array_equal(first.labels, blocks.labels(blocks.pairs[val[0]]))
    assert first.image.size == (96, 64)
    assert not first.predictions["row"].any()


def test_large_images_are_drawn_smaller_with_their_masks(tmp_path: Path) -> None:
    for index in range(2):
        for kind, mode in (("images", "RGB"), ("masks", "L")):
            (tmp_path / kind).mkdir(exist_ok=True)
            canvas = Image.new(mode, (1500, 700))
            canvas.paste(1 if mode == "L" else (1, 1, 1), (0, 0, 750, 700))
            canvas.save(tmp_path / kind / f"{index}.png")
    data = read_segmentation_dataset(tmp_path)
    collector = ExampleCollector(data, 0.5, count=1)
    [index] = np.flatnonzero(data.validation(0.5, 0))
    collector("row", 0, int(index), np.zeros((700, 1500), np.int64))
    [example] = collector.examples()
    assert example.image.size == (500, 234)
    assert example.labels.shape == example.predictions["row"].shape == (234, 500)
