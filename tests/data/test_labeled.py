"""Classification datasets from folders and CSV files, and their split."""

from pathlib import Path

import numpy as np
import pytest
from helpers.evaluation_data import write_color_classes, write_color_image

from gtsa_kit.data.labeled import read_classification_dataset, stratified_split


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,label\na.png,x\n", "line 1: the columns path and label"),
        ("path;label\na.png;x\n", "line 1: the columns path and label .*by commas"),
        ("", "line 1: .*got nothing"),
        ("path,label\na.png,x\nb.png\n", "line 3: 1 fields, not 2"),
        ("path,label\na.png,x\n,y\n", "line 3: a path and a label"),
        ("path,label\na.png,\n", "line 2: a path and a label"),
        ("path,label,split\na.png,x,train\nb.png,y,other\nc.png,y,val\n", "line 3: split is .*, got 'other'"),
        ("path,label,split\na.png,x,train\nb.png,y,\nc.png,y,val\n", "line 3: split is .*, got ''"),
        ("path,label,split\na.png,x,train\nb.png,y,train\n", "holds train, the name of a split, and no validation"),
        ("path,label,split\na.png,x,train\nb.png,y,Train\nc.png,y,val\n", "Train and train, which both name"),
        ("path,label\na.png,x\na.png,y\n", "line 3: a.png is in line 2 too"),
        ("path,label,split\na.png,x,train\na.png,x,val\n", "line 3: a.png is in line 2 too"),
        ("path,label\n", "no image with a class"),
        ("path,label\na.png,x\nb.png,y\n", "2 of 2 files .* first a.png: no such file; paths count from the folder"),
        ('path,label\n"a.png,x\n', "not a readable CSV"),
        ("path,label\na\0.png,x\n", "line 2"),
    ],
)
def test_an_error_in_a_csv_names_the_line(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_classification_dataset(tmp_path / "list.csv")


def write_classes(root: Path, *folders: str) -> Path:
    """Write two images into each folder."""
    rng = np.random.default_rng(0)
    for folder in folders:
        for number in range(2):
            write_color_image(root / folder / f"{number}.png", (200, 10, 10), rng)
    return root


@pytest.mark.parametrize(
    ("train", "val", "other"),
    [
        ("train", "val", None),
        ("train", "test", None),
        ("Train", "TEST", None),
        ("training", "testing", None),
        ("train", "valid", "test"),
        ("TRAIN", "Validation", "Test"),
    ],
)
def test_splits_of_all_names_are_splits(train: str, val: str, other: str | None, tmp_path: Path) -> None:
    folders = [f"{split}/{name}" for split in (train, val, other) if split for name in ("cat", "dog")]
    root = write_classes(tmp_path / "set", *folders, "@eaDir/train", ".cache/cow", "__MACOSX/test")
    lines = ["path,label,split"]
    lines += [
        f"set/{folder}/{i}.png,{folder.split('/')[1]},{folder.split('/')[0]}" for folder in folders for i in (0, 1)
    ]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    for source in (root, tmp_path / "list.csv"):
        data = read_classification_dataset(source)
        assert data.classes == ("cat", "dog")
        assert data.validation is not None
        assert [path.relative_to(root).parts[0] for path in data.paths] == [train] * 4 + [val] * 4
        assert data.validation.tolist() == [False] * 4 + [True] * 4
        assert len(data.skipped) == (4 if other else 0)
        assert all("in neither" in item.reason for item in data.skipped)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("train", "test"), "names of splits, but train holds no folders of classes"),
        (("train/cat", "train/dog", "test"), "but test holds no folders of classes"),
        (("train/cat", "train/dog"), "holds train, the name of a split, and no validation part"),
        (("cat", "dog", "test"), "holds test, the name of a split, and no training part"),
        (("train/cat", "Train/dog", "val/cat", "val/dog"), "Train and train, which both name"),
        (("train/cat", "val/cat", "valid/cat"), "val and valid, which both name"),
    ],
)
def test_unclear_splits_are_asked_about(folders: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_classification_dataset(write_classes(tmp_path, *folders))


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    data = read_classification_dataset(write_classes(tmp_path, "bus", "car", "train"))
    assert data.classes == ("bus", "car", "train")
    assert data.validation is None


def test_missing_files_of_a_csv_are_named_up_to_a_limit(tmp_path: Path) -> None:
    write_classes(tmp_path, "cat", "dog")
    lines = [f"{name}/{i}.png,{name}" for name in ("cat", "dog") for i in (0, 1)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *lines, "cat/9.png,cat"]))
    data = read_classification_dataset(tmp_path / "list.csv")
    assert len(data.paths) == 4
    assert [item.to_dict() for item in data.skipped] == [{"path": "cat/9.png", "reason": "no such file"}]
    with pytest.raises(ValueError, match=r"1 of 5 files .* more than 10%, first cat/9.png: no such file"):
        read_classification_dataset(tmp_path / "list.csv", max_missing=0.1)


def test_other_invalid_sources_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        read_classification_dataset(tmp_path / "gone")
    with pytest.raises(ValueError, match="no image with a class; put each"):
        read_classification_dataset(write_color_classes(tmp_path / "classes") / "rot")
    (tmp_path / "latin.csv").write_bytes("path,label\nä,x".encode("latin-1"))
    with pytest.raises(ValueError, match="in UTF-8"):
        read_classification_dataset(tmp_path / "latin.csv")


@pytest.mark.parametrize("size", [2, 3, 10, 97])
def test_a_stratified_split_has_the_fraction_of_each_class(size: int) -> None:
    labels = np.repeat([3, 1, 8], [size, 1, 4 * size])
    drawn = stratified_split(labels, 0.3, 0)
    assert drawn[labels == 1].sum() == 0
    for label, count in ((3, size), (8, 4 * size)):
        assert abs(drawn[labels == label].sum() - 0.3 * count) <= 0.7
        assert 1 <= drawn[labels == label].sum() < count
    assert (stratified_split(labels, 0.3, 0) == drawn).all()
    assert size < 10 or (stratified_split(labels, 0.3, 1) != drawn).any()
