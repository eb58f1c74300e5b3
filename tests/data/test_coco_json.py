"""COCO's files against pycocotools: boxes, areas, masks, crowd regions; layouts of folders; orientations."""

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.instance_data import NAMES, coco_content, draw_images, save_images, write_coco
from PIL import Image
from torchvision.ops import box_convert

from gtsa_kit.data.instance_reader import read_instance_dataset
from gtsa_kit.data.rgb import apply_orientation
from gtsa_kit.data.rle_text import check_counts, compress_counts, decode_counts, mask_of_counts, run_lengths
from gtsa_kit.data.segmentations import SegmentationColumns
from gtsa_kit.progress import Note

coco_mask = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")


def load_pycocotools(file: Path) -> Any:
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(file))


def varied_annotations(size: tuple[int, int]) -> list[dict[str, Any]]:
    """Return objects of an image of (height, width): polygons, two polygons, run lengths as list and text, crowd."""
    height, width = size
    rng = np.random.default_rng(0)
    blob = np.zeros(size, bool)
    blob[5:20, 8:30] = rng.random((15, 22)) < 0.7
    runs = run_lengths(blob)
    masks: list[Any] = [
        [[2.5, 3.25, 20.75, 4.0, 17.1, 22.9]],
        [[1.0, 1.0, 9.0, 1.5, 5.0, 8.0], [20.2, 20.1, 30.9, 20.0, 30.0, 31.7, 21.0, 30.0]],
        {"size": [height, width], "counts": compress_counts(runs)},
        {"size": [height, width], "counts": runs},
        [[-3.0, -2.0, 60.0, -1.0, 20.0, 50.0]],  # reaches beyond the image
    ]
    items = []
    for i, mask in enumerate(masks):
        box = (rng.uniform(0, 15, 4).round(2) + np.array([0, 0, 1, 1])).tolist()
        items.append({"id": i, "image_id": 7, "category_id": 3 - i % 2 * 2, "bbox": box, "area": 10.25 + i})
        items[-1] |= {"iscrowd": int(i == 3), "segmentation": mask}
    return items


def two_images(folder: Path, annotations: list[dict[str, Any]], **fields: Any) -> Path:
    """Write two gray images, 7 and 8, of 40 x 32 pixels with these annotations of the first and one of the other."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for name in "ab":
        Image.new("RGB", (40, 32), "gray").save(folder / "images" / f"{name}.png")
    other = {"id": 99, "image_id": 8, "category_id": 1, "bbox": [1, 2, 3, 4], "iscrowd": 0}
    other |= {"segmentation": [[1, 2, 4, 2, 4, 6, 1, 6]]}
    images = [{"id": 7 + i, "file_name": f"{name}.png", "width": 40, "height": 32} for i, name in enumerate("ab")]
    categories = [{"id": 3, "name": "nut"}, {"id": 1, "name": "bolt"}]
    content = {"images": images, "annotations": [*annotations, other], "categories": categories} | fields
    (folder / "labels.json").write_text(json.dumps(content))
    return folder / "labels.json"


def test_boxes_areas_masks_and_crowd_regions_are_those_of_pycocotools(tmp_path: Path) -> None:
    file = two_images(tmp_path, varied_annotations((32, 40)))
    data, oracle = read_instance_dataset(file), load_pycocotools(file)
    assert [(label.id, label.name) for label in data.labels] == [(1, "bolt"), (3, "nut")]
    assert data.has_masks
    assert not data.skipped
    expected = oracle.imgToAnns[7]
    result, annotations = data.instances(0), data.annotations(0)
    boxes = box_convert(torch.tensor([item["bbox"] for item in expected], dtype=torch.float64), "xywh", "xyxy")
    limits = torch.tensor([40.0, 32.0, 40.0, 32.0])
    np.testing.assert_array_equal(result.boxes, boxes.float().clamp(min=torch.zeros(4), max=limits).numpy())
    assert result.boxes.dtype == np.float32
    assert result.classes.tolist() == [1, 0, 1, 0, 1]
    assert result.crowd.tolist() == [False, False, False, True, False]
    assert result.masks is not None
    for item, own, mask in zip(expected, annotations, result.masks, strict=True):
        assert {key: item[key] for key in ("bbox", "area", "iscrowd")} == {
            key: own[key] for key in ("bbox", "area", "iscrowd")
        }
        np.testing.assert_array_equal(mask, oracle.annToMask(item).astype(bool))
        runs = oracle.annToRLE(item)
        text = runs["counts"] if isinstance(runs["counts"], bytes) else runs["counts"].encode()
        assert own["segmentation"] == runs | {"counts": text}
    assert data.annotations(1)[0]["area"] == 12  # not stated: that of the mask
    np.testing.assert_array_equal(data.counts(), [[1, 3], [1, 0]])  # without the crowd region
    boxes_alone = read_instance_dataset(file, masks=False)
    assert not boxes_alone.has_masks
    assert boxes_alone.instances(0).masks is None
    assert "segmentation" not in boxes_alone.annotations(0)[0]
    np.testing.assert_array_equal(boxes_alone.instances(0).boxes, result.boxes)


def test_an_object_without_a_box_has_that_of_its_mask(tmp_path: Path) -> None:
    items = varied_annotations((32, 40))[:4]
    for item in items:
        del item["bbox"]
    data = read_instance_dataset(two_images(tmp_path, items))
    polygons = np.array([(2.5, 3.25, 20.75, 22.9), (1, 1, 30.9, 31.7)], np.float32)
    np.testing.assert_array_equal(data.instances(0).boxes[:2], polygons)
    text = items[2]["segmentation"]["counts"].encode()
    x, y, w, h = coco_mask.toBbox({"size": [32, 40], "counts": text})
    np.testing.assert_array_equal(data.instances(0).boxes[2:], [[x, y, x + w, y + h]] * 2)


def test_run_lengths_are_read_as_pycocotools_does_and_damaged_ones_never_drawn() -> None:
    rng = np.random.default_rng(1)
    for shape in ((1, 1), (7, 5), (90, 40), (300, 200)):
        for share in (0.0, 0.01, 0.5, 1.0):
            mask = rng.random(shape) < share
            text = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
            np.testing.assert_array_equal(mask_of_counts(decode_counts(text), shape), mask)
    for text in (b"", b"~", b"o", b"Q", b"ooooooooo1"):
        with pytest.raises(ValueError, match="damaged"):
            decode_counts(text)
    with pytest.raises(ValueError, match="5 x 7"):
        check_counts(np.array([3, 30]), (7, 5))
    with pytest.raises(ValueError, match="5 x 7"):
        check_counts(np.array([40, -5]), (7, 5))
    for value in ({"size": [4, 4], "counts": "é"}, {"size": [4], "counts": "0"}, {"counts": [16]}, 3, [3], [["a"] * 6]):
        assert SegmentationColumns().add(value) == "a segmentation that is no polygons or run lengths"


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("stored", [True, False])
def test_labels_are_for_the_pixels_whose_size_they_state(tmp_path: Path, orientation: int, stored: bool) -> None:
    """The size tells where the sides are exchanged; the others follow, or are upright."""
    exif = Image.Exif()
    mask = np.zeros((32, 40), bool)
    mask[4:10, 20:36] = True
    (tmp_path / "images").mkdir()
    for name, tag in (("a", orientation), ("b", 6)):
        exif[0x0112] = tag
        Image.fromarray(np.uint8(255 * mask)).convert("RGB").save(tmp_path / "images" / f"{name}.png", exif=exif)
    listed, annotations = [], []
    for number, tag in enumerate((orientation, 6)):
        drawn = mask if stored else np.asarray(apply_orientation(Image.fromarray(mask), tag))
        height, width = drawn.shape
        y, x = np.nonzero(drawn)
        box = [int(x.min()), int(y.min()), int(np.ptp(x)) + 1, int(np.ptp(y)) + 1]
        runs = {"size": [height, width], "counts": run_lengths(drawn)}
        annotations.append({"id": number, "image_id": number, "category_id": 1, "bbox": box, "segmentation": runs})
        listed.append({"id": number, "file_name": f"{'ab'[number]}.png", "width": width, "height": height})
    file = tmp_path / "labels.json"
    file.write_text(
        json.dumps({"images": listed, "annotations": annotations, "categories": [{"id": 1, "name": "bolt"}]})
    )
    data = read_instance_dataset(file)
    for index, tag in enumerate((orientation, 6)):
        upright = np.asarray(apply_orientation(Image.fromarray(mask), tag))
        result = data.instances(index)
        assert (data.images[index].height, data.images[index].width) == upright.shape
        assert result.masks is not None
        np.testing.assert_array_equal(result.masks[0], upright)
        y, x = np.nonzero(upright)
        np.testing.assert_array_equal(result.boxes, [[x.min(), y.min(), x.max() + 1, y.max() + 1]])
        np.testing.assert_array_equal(coco_mask.decode(data.annotations(index)[0]["segmentation"]), upright)


def test_orientations_that_no_size_decides_are_said(tmp_path: Path) -> None:
    images = draw_images(2)
    file, exif = write_coco(tmp_path, images), Image.Exif()
    exif[0x0112] = 3
    Image.open(tmp_path / "images" / "0.png").save(tmp_path / "images" / "0.png", exif=exif)
    with pytest.warns(Note, match=r"1 images have an EXIF orientation.*0\.png"):
        data = read_instance_dataset(file)
    np.testing.assert_array_equal(data.instances(0).boxes, [images[0].objects[0][1]])


def as_annotations_folder(root: Path) -> tuple[Path, ...]:
    """COCO's own layout, with a file of captions that is none of objects."""
    (root / "annotations").mkdir()
    for split in ("train", "val"):
        images = draw_images(3, prefix=split)
        save_images(root / f"{split}2017", images)
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(coco_content(images)))
        (root / "annotations" / f"captions_{split}2017.json").write_text("{}")
    return (root,)


def as_one_images_folder(root: Path) -> tuple[Path, ...]:
    """Files train.json, val.json and test.json beside a folder of all images."""
    for split in ("train", "val", "test"):
        images = draw_images(3, prefix=split)
        save_images(root / "images", images)
        (root / f"{split}.json").write_text(json.dumps(coco_content(images)))
    return (root,)


def as_split_folders(root: Path) -> tuple[Path, ...]:
    """Folders of the splits with a JSON file beside the images."""
    for split in ("train", "valid"):
        images = draw_images(3, prefix=split[:5])
        save_images(root / split, images)
        (root / split / "_annotations.coco.json").write_text(json.dumps(coco_content(images)))
    return (root,)


def as_two_files(root: Path) -> tuple[Path, ...]:
    """Two files of any names and a folder of images that is named."""
    files = []
    for name, split in (("first", "train"), ("second", "val")):
        images = draw_images(3, prefix=split)
        save_images(root / "pictures", images)
        files.append(root / f"{name}.json")
        files[-1].write_text(json.dumps(coco_content(images)))
    return files[0], root / "pictures", files[1]


@pytest.mark.parametrize("write", [as_annotations_folder, as_one_images_folder, as_split_folders, as_two_files])
def test_layouts_of_files_and_images(tmp_path: Path, write: Callable[[Path], tuple[Path, ...]]) -> None:
    data = read_instance_dataset(*write(tmp_path))
    names = [(image.split, image.path.name) for image in data.images]
    assert [split for split, _ in names] == ["train"] * 3 + ["val"] * 3
    assert all(name.startswith(split[:3]) for split, name in names if split)
    assert data.classes == NAMES
    assert data.images[0].name.startswith("train/")


def test_a_dataset_of_a_hundred_thousand_objects_holds_few_bytes_for_each() -> None:
    """Peak and rest of the parser's memory, by polygons of 30 points, which as Python objects would be 2 kB each."""
    import tracemalloc

    from gtsa_kit.data.coco_json import _Annotations
    from gtsa_kit.data.object_columns import ObjectColumns

    polygon = [round(0.37 * i % 40, 2) for i in range(60)]
    item = {"image_id": 1, "category_id": 1, "bbox": [0.5, 0.5, 30.5, 20.5], "segmentation": [polygon], "area": 5.5}
    text = json.dumps([item | {"id": i} for i in range(4000)])
    columns = ObjectColumns(masks=True)
    tracemalloc.start()
    rows = json.loads(text, object_hook=_Annotations(columns))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(rows) == len(columns) == 4000
    assert peak / 4000 < 1300
