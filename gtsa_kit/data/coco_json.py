"""COCO's files of objects, JSON with images, annotations and categories, parsed without an object for each annotation.

A box is [x, y, width, height] in pixels from the upper left corner of the image; a pixel is a square of side 1.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gtsa_kit.data.entries import display_name
from gtsa_kit.data.instance_build import Listing
from gtsa_kit.data.instance_images import ListedImage
from gtsa_kit.data.object_columns import NAN, NO_BOX, ObjectColumns

_HINT = "expected COCO's {images: [...], annotations: [...], categories: [...]}"


class CocoPart(NamedTuple):
    """A file of annotations with its images."""

    json: Path
    folders: tuple[Path, ...]
    """Folders in which the images may be; the one that holds the first image is it."""
    split: str | None
    """`train`, `val`, or None where the dataset has no split."""


def read_coco(parts: Sequence[CocoPart], masks: bool) -> Listing:
    """Read the files of a dataset; classes are the categories in the order of their ids.

    Args:
        parts: The files.
        masks: Whether to keep segmentations.

    Raises:
        ValueError: A file can't be read, is none of COCO, or the categories of the files contradict each other.
    """
    listing, contents = Listing(ObjectColumns(masks)), []
    for part in parts:
        listing.objects.begin(f"{part.json.name}, annotation")
        reader = _Annotations(listing.objects)
        contents.append((part, reader, _parse(part.json, reader)))
        reader.last = len(listing.objects)
    names: dict[int, str] = {}
    for part, _, content in contents:
        for number, name in _categories(content["categories"], part.json).items():
            if names.setdefault(number, name) != name:
                raise ValueError(
                    f"category {number} is {names[number]!r} and in {part.json} {name!r}; number them alike"
                )
    listing.classes = {number: names[number] for number in sorted(names)}
    _check_names(listing.classes, parts[0].json)
    for part, reader, content in contents:
        _resolve(listing, part, reader, content["images"])
    return listing


class _Annotations:
    """Hook of the JSON parser that moves each annotation to columns when its text ends, and returns its row."""

    def __init__(self, columns: ObjectColumns) -> None:
        self.columns, self.first, self.last = columns, len(columns), len(columns)
        self.image_ids: dict[object, int] = {}
        """Numbers of the images' ids in the order in which they came."""
        self.category_ids: dict[object, int] = {}
        self._seen: set[object] = set()

    def __call__(self, item: dict[str, Any]) -> Any:
        """Return an object of the JSON; of an annotation, its row."""
        return self._add(item) if "image_id" in item else item

    def _add(self, item: dict[str, Any]) -> "_Row":
        number, fault = item.get("id"), ""
        if isinstance(number, str | int):
            if number in self._seen:
                fault = "an id that is there twice"
            self._seen.add(number)
        box, area, crowd, faults = _values(item)
        return _Row(
            self.columns.add(
                number,
                _code(self.image_ids, item["image_id"]),
                _code(self.category_ids, item.get("category_id")),
                box,
                item.get("segmentation"),
                crowd,
                area,
                fault or faults,
            )
        )


class _Row(int):
    """Row of an annotation in the columns, which no number in a file can be mistaken for."""


def _values(item: Mapping[str, Any]) -> tuple[tuple[float, ...], float, bool, str]:
    """Return box, area and crowd of an annotation, and what is wrong with them, or ""."""
    box, area, crowd = item.get("bbox"), item.get("area"), item.get("iscrowd", 0)
    fault = ""
    values: tuple[float, ...] = NO_BOX
    if box is not None and box != []:
        try:
            x, y, width, height = box
            values = (x + 0.0, y + 0.0, width + 0.0, height + 0.0)
        except (TypeError, ValueError, OverflowError):
            fault = "a bbox that is not four numbers"
    if crowd not in (0, 1) or not isinstance(crowd, int):
        fault = fault or "an iscrowd that is not 0 or 1"
    if area is not None and (not isinstance(area, int | float) or area != area):
        fault = fault or "an area that is no number"
    return values, NAN if area is None or fault else float(area), bool(crowd), fault


def _code(codes: dict[object, int], value: object) -> int:
    """Return the number of an id, -1 for what is none."""
    return codes.setdefault(value, len(codes)) if isinstance(value, str | int) else -1


def _parse(path: Path, reader: _Annotations) -> dict[str, Any]:
    """Return the content of a file with rows in place of annotations."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_hook=reader)
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise ValueError(f"{path} can't be read as JSON: {reason}; {_HINT}") from error
    lists = ("images", "annotations", "categories")
    missing = [name for name in lists if not isinstance(content, dict) or not isinstance(content.get(name), list)]
    if missing:
        raise ValueError(f"{path} has no list {missing[0]!r}; {_HINT}")
    rows = content["annotations"]
    if rows != list(range(reader.first, len(reader.columns))) or not all(type(row) is _Row for row in rows):
        raise ValueError(f"{path} holds annotations without an image_id, or outside of its list; {_HINT}")
    if not rows:
        raise ValueError(f"{path} has no annotations; label some images, or leave it out")
    return dict(content)


def _categories(items: Iterable[Any], path: Path) -> dict[int, str]:
    names: dict[int, str] = {}
    for item in items:
        number, name = (item.get("id"), item.get("name")) if isinstance(item, dict) else (None, None)
        if type(number) is not int or not isinstance(name, str) or not name.strip():
            raise ValueError(f"{path}: a category needs a whole number as id and a name, got {item!r}")
        if number in names:
            raise ValueError(f"{path}: the category id {number} is there twice; keep one of them")
        names[number] = name
    return names


def _check_names(names: Mapping[int, str], path: Path) -> None:
    first: dict[str, int] = {}
    for number, name in names.items():
        if first.setdefault(name, number) != number:
            raise ValueError(f"{path}: the categories {first[name]} and {number} are both {name!r}; rename one of them")


def _resolve(listing: Listing, part: CocoPart, reader: _Annotations, images: Sequence[Any]) -> None:
    """List the images of a file, and replace the ids of its annotations by numbers of images and classes."""
    numbers: dict[object, int] = {}
    folder, seen = _image_folder(part, images), set[str]()
    for item in images:
        image = _image(item, part, folder)
        if item["id"] in numbers:
            raise ValueError(f"{part.json}: the image id {item['id']!r} is there twice; number the images anew")
        numbers[item["id"]] = len(listing.images)
        twice = "its file_name is there twice" if image.name in seen else ""
        listing.images.append(image._replace(reason=image.reason or twice))
        seen.add(image.name)
    classes: dict[object, int] = {number: i for i, number in enumerate(listing.classes)}
    columns = listing.objects
    for values, codes, known_ids, what in (
        (columns.images, reader.image_ids, numbers, "image_id"),
        (columns.classes, reader.category_ids, classes, "category_id"),
    ):
        ids = [*codes, None]  # the last is for -1
        numbers_of_ids = [known_ids.get(value, -1) for value in ids]
        for row in range(reader.first, reader.last):
            code, values[row] = values[row], numbers_of_ids[values[row]]
            if values[row] < 0:
                columns.faults.setdefault(row, f"{what} {ids[code]!r} is not listed" if code >= 0 else f"no {what}")


def _image(item: Any, part: CocoPart, folder: Path) -> ListedImage:
    name, number = (item.get("file_name"), item.get("id")) if isinstance(item, dict) else (None, None)
    if not isinstance(name, str) or not name or "\0" in name or not isinstance(number, str | int):
        raise ValueError(f"{part.json}: an image needs an id and a file_name, got {item!r}")
    sides = item.get("width"), item.get("height")
    stated = all(isinstance(side, int | float) and side > 0 for side in sides)
    display = display_name(Path(name).as_posix())
    if part.split and not display.startswith(f"{part.split}/"):
        display = f"{part.split}/{display}"
    reason = "" if stated else f"no width and height in {part.json.name}"
    return ListedImage(display, folder / name, part.split, sides if stated else None, reason)


def _image_folder(part: CocoPart, images: Sequence[Any]) -> Path:
    """Return the folder in which most of the first images are."""
    names = [str(item.get("file_name")) for item in images if isinstance(item, dict)]
    for some in (names[:20], names):
        hits = {folder: sum((folder / name).is_file() for name in some) for folder in part.folders}
        folder = max(part.folders, key=lambda folder: hits[folder])
        if hits[folder]:
            return folder
    where = ", ".join(dict.fromkeys(str(folder) for folder in part.folders if folder.is_dir()))
    raise ValueError(f"no image of {part.json} is in {where or part.folders[-1]}; give their folder by --images DIR")
