"""Faults of datasets with objects: each is named by file and count before training, and too many stop it."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.instance_data import DrawnImage, coco_content, draw_images, save_images, write_voc, write_yolo

from gtsa_kit.data.instance_reader import read_instance_dataset
from gtsa_kit.data.instance_report import prepare_instances
from gtsa_kit.data.split_rule import SplitRule

RULE = SplitRule(0.25, "order")


def many_images() -> list[DrawnImage]:
    """Return 12 images with 24 objects."""
    return draw_images(13)[:12]


Content = dict[str, Any]


def change(items: str, **fields: Any) -> Callable[[Content], None]:
    """Return a change of the first item of a list: fields, or `None` for one that is taken away."""

    def apply(content: Content) -> None:
        content[items][0] = {key: value for key, value in (content[items][0] | fields).items() if value is not None}

    return apply


def add_twin(content: Content) -> None:
    content["annotations"][1]["id"] = content["annotations"][0]["id"]


def rename_image(content: Content) -> None:
    content["images"][0] |= {key: content["images"][1][key] for key in ("file_name", "width", "height")}


OBJECT_FAULTS = {
    "a box outside of its image": change("annotations", bbox=[500, 3, 4, 5]),
    "a box of no area": change("annotations", bbox=[3, 3, 0, 5]),
    "no box, or one that is not of finite numbers": change("annotations", bbox=[float("nan"), 1, 2, 3]),
    "a bbox that is not four numbers": change("annotations", bbox=[1, 2, "3"]),
    "an area that is no number": change("annotations", area="big"),
    "an area that is not of 0 or more": change("annotations", area=-4),
    "an iscrowd that is not 0 or 1": change("annotations", iscrowd=2),
    "category_id 99 is not listed": change("annotations", category_id=99),
    "no category_id": change("annotations", category_id=None),
    "image_id 5 is not listed": change("annotations", image_id=5),
    "an id that is there twice": add_twin,
    "a polygon of fewer than 3 points, or with an odd number of values": change(
        "annotations", segmentation=[[1, 2, 3, 4]]
    ),
    "a segmentation that is no polygons or run lengths": change("annotations", segmentation=[1, 2, 3, 4, 5, 6]),
    "no mask, which others have; to use boxes alone give --no-masks": change("annotations", segmentation=[]),
    "a polygon outside of its image": change("annotations", segmentation=[[1, 2, 1e9, 4, 5, 6]]),
    "run lengths that are damaged": change("annotations", segmentation={"size": [3, 4], "counts": "~"}),
    "run lengths that are not those of 4 x 3 pixels": change(
        "annotations", segmentation={"size": [3, 4], "counts": [9]}
    ),
    "a mask of another size than its image": change("annotations", segmentation={"size": [3, 4], "counts": [9, 3]}),
}
IMAGE_FAULTS = {
    "no such file or directory": change("images", file_name="gone.png"),
    "its labels say 640 x 480": change("images", width=640, height=480),
    "no width and height in labels.json": change("images", width=0),
    "its file_name is there twice": rename_image,
}


def read(folder: Path, edit: Callable[[Content], None], max_missing: float = 0.2) -> Any:
    save_images(folder / "images", many_images())
    content = coco_content(many_images())
    edit(content)
    (folder / "labels.json").write_text(json.dumps(content))
    return read_instance_dataset(folder / "labels.json", max_missing=max_missing)


@pytest.mark.parametrize("reason", OBJECT_FAULTS)
def test_a_bad_object_is_named_and_left_out(tmp_path: Path, reason: str) -> None:
    data = read(tmp_path, OBJECT_FAULTS[reason])
    assert len(data.skipped_objects) == 1
    assert data.skipped_objects[0].path == "labels.json, annotation 1"
    assert data.skipped_objects[0].reason == reason
    assert data.counts().sum() == 23
    assert len(data.images) == 12
    report = prepare_instances(data, RULE).report
    assert report.skipped == (f"1 skipped, first {data.skipped_objects[0].path}: {reason}",)
    with pytest.raises(ValueError, match=r"1 of 24 objects can't be used, more than 4%, first labels\.json.*; repair"):
        prepare_instances(data, RULE, max_bad=0.04)
    with pytest.raises(ValueError, match="1 of 24 objects can't be used, more than 4%"):
        read(tmp_path, OBJECT_FAULTS[reason], max_missing=0.04)


@pytest.mark.parametrize("reason", IMAGE_FAULTS)
def test_a_bad_image_is_named_and_left_out_with_its_objects(tmp_path: Path, reason: str) -> None:
    data = read(tmp_path, IMAGE_FAULTS[reason])
    assert len(data.skipped) == 1
    assert data.skipped[0].reason.endswith(reason)
    assert len(data.images) == 11
    assert data.counts().sum() == 24 - (2 if reason == "its file_name is there twice" else 1)
    assert not data.skipped_objects
    with pytest.raises(ValueError, match=r"1 of 12 images can't be used, more than 5%"):
        prepare_instances(data, RULE)


def test_a_crowd_region_without_a_mask_and_boxes_alone_are_no_faults(tmp_path: Path) -> None:
    data = read(tmp_path, change("annotations", segmentation=[], iscrowd=1))
    assert not data.skipped_objects
    assert data.instances(0).masks is not None
    assert not data.instances(0).masks.any()
    assert data.counts().sum() == 23


def test_boxes_beyond_the_edge_are_cut_off_and_said(tmp_path: Path) -> None:
    data = read(tmp_path, change("annotations", bbox=[-5, 4, 12, 5]))
    assert data.instances(0).boxes[0].tolist() == [0, 4, 7, 9]
    assert data.annotations(0)[0]["bbox"] == [-5, 4, 12, 5]  # pycocotools scores the box as it is written
    warning = "1 boxes reach beyond their images and are cut off at the edge, first labels.json, annotation 1"
    assert warning in prepare_instances(data, RULE).report.warnings
    assert not read(tmp_path, change("annotations", bbox=[-0.5, 4, 12, 5])).notes


REFUSED = {
    r"labels\.json can't be read as JSON: .*; expected COCO's": lambda file: file.write_text("{"),
    r"labels\.json has no list 'categories'": lambda file: file.write_text('{"images": [], "annotations": []}'),
    r"has no annotations; label some images": lambda file: edit_file(file, lambda c: c["annotations"].clear()),
    r"without an image_id": lambda file: edit_file(file, change("annotations", image_id=None)),
    r"the image id 101 is there twice": lambda file: edit_file(file, change("images", id=101)),
    r"the category id 3 is there twice": lambda file: edit_file(file, change("categories", id=3)),
    r"the categories 1 and 3 are both 'nut'": lambda file: edit_file(file, change("categories", name="nut")),
    r"a category needs a whole number as id": lambda file: edit_file(file, change("categories", id="one")),
    r"an image needs an id and a file_name": lambda file: edit_file(file, change("images", file_name=None)),
    r"no image of .* is in .*; give their folder by --images": lambda file: rename_all(file),
}


def edit_file(file: Path, edit: Callable[[Content], None]) -> None:
    content = coco_content(many_images())
    edit(content)
    file.write_text(json.dumps(content))


def rename_all(file: Path) -> None:
    edit_file(
        file, lambda content: [image.update(file_name="gone/" + image["file_name"]) for image in content["images"]]
    )


@pytest.mark.parametrize("message", REFUSED)
def test_files_that_contradict_themselves_are_refused(tmp_path: Path, message: str) -> None:
    save_images(tmp_path / "images", many_images())
    REFUSED[message](tmp_path / "labels.json")
    with pytest.raises(ValueError, match=message):
        read_instance_dataset(tmp_path / "labels.json")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("0 0.5 0.5 1.4 0.2", "values beyond 0 to 1"),
        ("0 0.5 nan 0.4 0.2", "values beyond 0 to 1"),
        ("3 0.5 0.5 0.4 0.2", "class 3 is beyond the names (3)"),
        ("0 0.5 0.5 0 0.2", "a box of no area"),
        ("0.5 0.5 0.5 0.4 0.2", "a line that is not a class and numbers"),
        ("0 0.5 0.5 0.4 0.2 0.9", "a line of 5 numbers; 4 are a box, 6 or more a polygon"),
        ("{first}", "a line that is there twice"),
    ],
)
def test_bad_lines_of_yolo(tmp_path: Path, line: str, reason: str) -> None:
    labels = write_yolo(tmp_path, many_images(), polygons=False) / "labels" / "0.txt"
    labels.write_text(labels.read_text() + "\n" + line.format(first=labels.read_text()))
    data = read_instance_dataset(tmp_path)
    assert [(item.path, item.reason) for item in data.skipped_objects] == [("0.txt, line 2", reason)]
    (tmp_path / "labels" / "nothing.txt").write_text("0 0.5 0.5 0.4 0.2")
    assert [item.reason for item in read_instance_dataset(tmp_path).skipped] == ["a file of labels without image"]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("<size>", "<sizes>", "its labels can't be read"),
        ("<width>", "<width>-", "no size in 0.xml"),
        ("<annotation>", "<!DOCTYPE a><annotation>", "it declares entities"),
    ],
)
def test_bad_files_of_voc(tmp_path: Path, old: str, new: str, reason: str) -> None:
    labels = write_voc(tmp_path, many_images()) / "Annotations" / "0.xml"
    labels.write_text(labels.read_text().replace(old, new))
    data = read_instance_dataset(tmp_path)
    assert [item.path for item in data.skipped] == ["0.png"]
    assert reason in data.skipped[0].reason


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("<difficult>0", "<difficult>maybe", "a difficult that is not 0 or 1"),
        ("<name>bolt", "<name>", "no name of a class"),
        ("<xmin>", "<xmin>left ", "a bndbox that is not four numbers"),
    ],
)
def test_bad_objects_of_voc(tmp_path: Path, old: str, new: str, reason: str) -> None:
    labels = write_voc(tmp_path, many_images()) / "Annotations" / "0.xml"
    labels.write_text(labels.read_text().replace(old, new, 1))
    assert [(item.path, item.reason) for item in read_instance_dataset(tmp_path).skipped_objects] == [
        ("0.xml, object 1", reason)
    ]


@pytest.mark.parametrize("change_names", [{"nc": 4}, {"names": ["a", "a"]}, {"names": None}, {"train": "gone"}])
def test_yaml_files_that_contradict_themselves_are_refused(tmp_path: Path, change_names: Content) -> None:
    write_yolo(tmp_path, many_images())
    settings = {"train": "images", "val": "images", "names": ["a", "b", "c"]} | change_names
    (tmp_path / "data.yaml").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"nc: 4 and 3 names|one name twice|needs names|which is not in"):
        read_instance_dataset(tmp_path)


def test_the_report_counts_boxes_of_each_class_and_says_what_is_missing(tmp_path: Path) -> None:
    train = [image for image in draw_images(12) if all(number != 1 for number, _ in image.objects)]
    for split, images in (("train", train), ("val", draw_images(4, prefix="v"))):
        save_images(tmp_path / "images", images)
        (tmp_path / f"{split}.json").write_text(json.dumps(coco_content(images)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = read_instance_dataset(tmp_path)
    report = prepare_instances(data, RULE).report
    assert report.unit == "boxes"
    assert report.train.counts[1] == 0
    assert report.val.images == 4
    assert report.val.empty == 1
    expected = np.bincount([number for image in train for number, _ in image.objects], minlength=3)
    assert report.train.counts == tuple(expected)
    assert "1 of 4 images of val hold no object; they are background" in report.warnings
    missing = "nut (2 boxes in val), washer (2 boxes in val)"
    assert f"2 classes have no boxes in train and will not be learned: {missing}" in report.warnings
    assert report.split == "as the dataset has it"
    json.dumps(report.to_dict())
