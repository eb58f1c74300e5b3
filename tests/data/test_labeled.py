"""Classification datasets from folders and CSV files, and their split."""

from pathlib import Path

import numpy as np
import pytest
from helpers.evaluation_data import write_color_classes

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
        ("path,label,split\na.png,x,train\nb.png,y,test\n", "line 3: split is train or val, got 'test'"),
        ("path,label\na.png,x\na.png,y\n", "line 3: a.png is in line 2 too"),
        ("path,label,split\na.png,x,train\na.png,x,val\n", "line 3: a.png is in line 2 too"),
        ("path,label\n", "no image with a class"),
        ("path,label\na.png,x\nb.png,x\n", "has 1 usable class, and two are needed"),
        ('path,label\n"a.png,x\n', "not a readable CSV"),
        ("path,label\na\0.png,x\n", "line 2"),
    ],
)
def test_an_error_in_a_csv_names_the_line(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_classification_dataset(tmp_path / "list.csv")


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
