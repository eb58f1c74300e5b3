"""YOLO's and Pascal VOC's datasets: the same objects read equal in all formats, whatever the layout."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.instance_data import NAMES, draw_images, write_coco, write_voc, write_yolo

from gtsa_kit.data.instance_reader import read_instance_dataset
from gtsa_kit.data.instances import InstanceDataset


def assert_equal_objects(first: InstanceDataset, second: InstanceDataset, masks: bool) -> None:
    assert first.classes == second.classes == NAMES
    assert [image.path.name for image in first.images] == [image.path.name for image in second.images]
    assert first.has_masks == second.has_masks == masks
    for i in range(len(first.images)):
        a, b = first.instances(i), second.instances(i)
        np.testing.assert_allclose(a.boxes, b.boxes, rtol=0, atol=1e-4)
        np.testing.assert_array_equal(a.classes, b.classes)
        np.testing.assert_array_equal(a.crowd, b.crowd)
        if masks:
            np.testing.assert_array_equal(a.masks, b.masks)
        for x, y in zip(first.annotations(i), second.annotations(i), strict=True):
            assert x["area"] == pytest.approx(y["area"])


def test_the_same_objects_are_equal_in_all_formats(tmp_path: Path) -> None:
    images = draw_images(5)
    polygons = read_instance_dataset(write_coco(tmp_path / "coco", images))
    assert_equal_objects(polygons, read_instance_dataset(write_yolo(tmp_path / "yolo", images)), masks=True)
    boxes = read_instance_dataset(write_coco(tmp_path / "coco", images, masks=False))
    assert_equal_objects(boxes, read_instance_dataset(write_yolo(tmp_path / "boxes", images, False)), masks=False)
    assert_equal_objects(boxes, read_instance_dataset(write_voc(tmp_path / "voc", images)), masks=False)
    assert boxes.counts()[-1].sum() == 0  # the last image has no object, and is kept
    for i, image in enumerate(images):  # and they are those that were drawn
        result = polygons.instances(i)
        assert result.boxes.tolist() == [list(box) for _, box in image.objects]
        assert result.masks is not None
        for (_, (x0, y0, x1, y1)), mask in zip(image.objects, result.masks, strict=True):
            expected = np.zeros((image.height, image.width), bool)
            expected[y0:y1, x0:x1] = True
            np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("layout", ["folders", "split first", "yaml", "yaml with lists", "yaml of an export"])
def test_layouts_of_yolo(tmp_path: Path, layout: str) -> None:
    train, val = draw_images(3), draw_images(2, seed=1, prefix="v")
    root, names = tmp_path / "data", dict(enumerate(NAMES))
    if layout in ("split first", "yaml of an export"):
        write_yolo(root / "train", train)
        write_yolo(root / "valid", val)
        shutil.copy(root / "train" / "classes.txt", root)
    else:
        write_yolo(root, train, split="train")
        write_yolo(root, val, split="val")
    settings = {"train": "images/train", "val": ["images/val"], "names": names, "nc": 3}
    if layout == "yaml with lists":
        for split, images in (("train", train), ("val", val)):
            (root / f"{split}.txt").write_text("\n".join(f"./images/{split}/{image.name}" for image in images))
        settings |= {"train": "train.txt", "val": "val.txt", "names": list(NAMES)}
    elif layout == "yaml of an export":
        settings |= {"train": "../train/images", "val": "../valid/images"}
    if layout.startswith("yaml"):
        (root / "classes.txt").unlink()
        (root / "data.yaml").write_text(json.dumps(settings))
    data = read_instance_dataset(root)
    assert data.classes == NAMES
    assert [label.id for label in data.labels] == [0, 1, 2]
    assert [image.split for image in data.images] == ["train"] * 3 + ["val"] * 2
    assert not data.skipped
    for i, image in enumerate([*train, *val]):
        np.testing.assert_allclose(
            data.instances(i).boxes, np.reshape([b for _, b in image.objects], (-1, 4)), atol=1e-4
        )
    if layout.startswith("yaml"):
        assert len(read_instance_dataset(root / "data.yaml").images) == 5


def test_classes_without_names_are_numbers(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path, draw_images(4))
    (folder / "classes.txt").unlink()
    (folder / "labels" / "0.txt").write_text("7 0.5 0.5 0.2 0.2")
    assert read_instance_dataset(folder).classes == ("0", "1", "2", "7")


def test_splits_and_difficult_objects_of_voc(tmp_path: Path) -> None:
    folder = write_voc(tmp_path, draw_images(5))
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("0\n1\n")
    (lists / "val.txt").write_text("2  1\n3 -1\n")
    (lists / "trainval.txt").write_text("0\n1\n2\n3\n")
    labels = folder / "Annotations" / "1.xml"
    labels.write_text(labels.read_text().replace("<difficult>0", "<difficult>1", 1))
    data = read_instance_dataset(folder)
    assert [(image.name, image.split) for image in data.images] == [
        (f"{split}/{i}.png", split) for i, split in enumerate(["train", "train", "val", "val"])
    ]
    assert [item.path for item in data.skipped] == ["4.xml"]
    assert data.instances(1).crowd.tolist() == [True, False]
    assert data.annotations(1)[0]["iscrowd"] == 1
    (lists / "train.txt").write_text("0\n1\nmissing\n")
    assert ("train/missing", "no XML file of labels") in [
        (x.path, x.reason) for x in read_instance_dataset(folder).skipped
    ]


def test_a_folder_of_another_kind_is_refused_with_the_formats(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"does not exist; expected COCO"):
        read_instance_dataset(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"holds no dataset of objects; expected COCO"):
        read_instance_dataset(tmp_path)
    with pytest.raises(ValueError, match=r"no JSON file of COCO, to which --images"):
        read_instance_dataset(write_voc(tmp_path, draw_images(2)), images=tmp_path)
    file = write_coco(tmp_path, draw_images(2))
    with pytest.raises(ValueError, match=r"is no folder; give that of the images by --images"):
        read_instance_dataset(file, images=file)
