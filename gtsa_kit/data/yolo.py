"""YOLO's labels: a text file for each image, with a line for each object.

A box is `class x y width height`, of its center, an outline `class x y x y ...`; all are shares of the width and the
height of the upright image, 0 to 1. An image without a file has no objects.
"""

from collections.abc import Mapping
from typing import NamedTuple

from gtsa_kit.data.instance_build import Listing
from gtsa_kit.data.instance_images import ListedImage
from gtsa_kit.data.object_columns import NO_BOX, ObjectColumns
from gtsa_kit.data.yolo_files import YoloFiles

_MARGIN = 1e-4
"""Part of the image by which rounding may put a value beyond its edge."""


def read_yolo(files: YoloFiles, masks: bool) -> Listing:
    """Read the labels of a dataset; classes are those that are named, else those that the labels hold."""
    listing = Listing(ObjectColumns(masks), relative=True)
    for number, (name, path, labels, split) in enumerate(files.images):
        image = ListedImage(name, path, split)
        if labels.is_file():
            try:
                lines = labels.read_text(encoding="utf-8-sig").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                lines, image = [], image._replace(reason=f"its labels can't be read: {error}")
            listing.objects.begin(f"{labels.name}, line")
            _add_lines(listing.objects, number, lines, files.names)
        listing.images.append(image)
    used = sorted({number for number in listing.objects.classes if number >= 0})
    listing.classes = {number: str(number) for number in used} if files.names is None else files.names
    index_of = {number: i for i, number in enumerate(listing.classes)}
    for row, number in enumerate(listing.objects.classes):
        listing.objects.classes[row] = index_of.get(number, -1)
    listing.skipped += files.skipped
    return listing


class _Line(NamedTuple):
    """Content of a line: an object, or what is wrong with it."""

    number: int
    """Class, -1 for none."""
    box: tuple[float, ...]
    """x, y, width, height of 0 to 1, or `NO_BOX`."""
    polygon: list[float] | None
    fault: str = ""


def _add_lines(columns: ObjectColumns, image: int, lines: list[str], names: Mapping[int, str] | None) -> None:
    first: dict[str, int] = {}
    for count, text in enumerate(lines, start=1):
        fields = text.split()
        if not fields:
            continue
        line = _parse(fields, names)
        twice = first.setdefault(" ".join(fields), count) != count
        fault = line.fault or ("a line that is there twice" if twice else "")
        polygons = None if line.polygon is None else [line.polygon]
        columns.add(count, image, line.number, line.box, polygons, fault=fault)


def _parse(fields: list[str], names: Mapping[int, str] | None) -> _Line:
    try:
        number, values = int(fields[0]), [float(value) for value in fields[1:]]
    except ValueError:
        return _Line(-1, NO_BOX, None, "a line that is not a class and numbers")
    if number < 0 or (names is not None and number not in names):
        return _Line(-1, NO_BOX, None, f"class {number} is beyond the names ({len(names or ())})")
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        return _Line(number, NO_BOX, None, f"a line of {len(values)} numbers; 4 are a box, 6 or more a polygon")
    if not all(-_MARGIN <= value <= 1 + _MARGIN for value in values):  # true for NaN
        return _Line(number, NO_BOX, None, "values beyond 0 to 1")
    if len(values) > 4:
        return _Line(number, NO_BOX, values)
    x, y, width, height = values
    return _Line(number, (x - width / 2, y - height / 2, width, height), None)
