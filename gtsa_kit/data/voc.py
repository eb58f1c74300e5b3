"""Pascal VOC's labels: an XML file for each image.

A box is from the pixel xmin, ymin to the pixel xmax, ymax, both part of it and counted from 1, so in coordinates of
edges xmin - 1, ymin - 1, xmax, ymax. A `difficult` object is a crowd region: neither learned nor scored.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from gtsa_kit.data.entries import has_image_suffix
from gtsa_kit.data.instance_build import Listing
from gtsa_kit.data.instance_images import ListedImage
from gtsa_kit.data.object_columns import NO_BOX, ObjectColumns
from gtsa_kit.data.skipped import SkippedImage, other_split
from gtsa_kit.data.splits import SplitNames, find_splits, is_split_name


class VocFiles(NamedTuple):
    """Files of a dataset."""

    annotations: list[Path]
    """XML files in order."""
    images: Path
    """Folder of the images."""
    members: Mapping[str, frozenset[str]]
    """Stems of the images of each split, by its name; empty without splits."""
    splits: SplitNames | None

    def split_of(self, stem: str) -> str | None:
        """Return the split of an image, None for one of no split that is used."""
        for name, stems in self.members.items():
            if self.splits and stem in stems and self.splits.of(name):
                return self.splits.of(name)
        return None

    def without_labels(self) -> list[SkippedImage]:
        """Return the images that a split lists and that have no labels."""
        labeled = {file.stem for file in self.annotations}
        used = [name for name in self.members if self.splits and self.splits.of(name)]
        return [
            SkippedImage(f"{name}/{stem}", "no XML file of labels")
            for name in used
            for stem in sorted(self.members[name] - labeled)
        ]


def voc_files(data: Path) -> VocFiles | None:
    """Return the files of a dataset; None if the folder is none of Pascal VOC.

    Args:
        data: Folder with `Annotations/*.xml`, `JPEGImages/` and possibly `ImageSets/Main/{train,val}.txt`; or a folder
            with the XML files beside the images.

    Raises:
        ValueError: A list of a split can't be read.
    """
    annotations = sorted((data / "Annotations").glob("*.xml")) or sorted(data.glob("*.xml"))
    if not annotations:
        return None
    images = next((data / name for name in ("JPEGImages", "images") if (data / name).is_dir()), data)
    lists = [file for file in sorted((data / "ImageSets" / "Main").glob("*.txt")) if is_split_name(file.stem)]
    splits = find_splits([file.stem for file in lists], str(data / "ImageSets" / "Main"))
    try:
        members = {file.stem: frozenset(_first_words(file.read_text(encoding="utf-8-sig"))) for file in lists}
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"a list in {data / 'ImageSets'} can't be read: {error}") from error
    return VocFiles(annotations, images, members, splits)


def _first_words(text: str) -> list[str]:
    return [line.split()[0] for line in text.splitlines() if line.split()]


def read_voc(files: VocFiles, masks: bool) -> Listing:
    """Read the labels of a dataset; classes are the names in the files in the order of the alphabet."""
    listing, names = Listing(ObjectColumns(masks)), dict[str, int]()
    by_stem = {path.stem: path for path in files.images.iterdir() if has_image_suffix(path.name)}
    for file in files.annotations:
        split = files.split_of(file.stem)
        if files.splits and split is None:
            listing.skipped.append(other_split(file.name, files.splits.train, files.splits.val))
            continue
        path = by_stem.get(file.stem, files.images / f"{file.stem}.jpg")
        image = ListedImage(f"{split}/{path.name}" if split else path.name, path, split)
        try:
            root = _parse(file)
        except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:
            reason = f"its labels can't be read: {' '.join(str(error).split())}"
            listing.images.append(image._replace(reason=reason))
            continue
        size = _size(root)
        listing.objects.begin(f"{file.name}, object")
        _add_objects(root, listing.objects, len(listing.images), names)
        listing.images.append(image._replace(size=size, reason="" if size else f"no size in {file.name}"))
    listing.skipped += files.without_labels()
    listing.classes = dict(enumerate(sorted(names)))
    order = {names[name]: number for number, name in listing.classes.items()}
    for row, number in enumerate(listing.objects.classes):
        listing.objects.classes[row] = order.get(number, -1)
    return listing


def _parse(file: Path) -> ElementTree.Element:
    content = file.read_bytes()
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise ValueError("it declares entities, which labels do not need")
    return ElementTree.fromstring(content)  # noqa: S314 (entities are refused)


def _size(root: ElementTree.Element) -> tuple[int, int] | None:
    """Return width and height, None if they are not stated."""
    try:
        width, height = (int(float(root.findtext(f"size/{side}") or 0)) for side in ("width", "height"))
    except (ValueError, OverflowError):
        return None
    return (width, height) if width > 0 and height > 0 else None


def _add_objects(root: ElementTree.Element, columns: ObjectColumns, image: int, names: dict[str, int]) -> None:
    for count, item in enumerate(root.iter("object"), start=1):
        name = (item.findtext("name") or "").strip()
        difficult = (item.findtext("difficult") or "0").strip()
        faults = ["" if name else "no name of a class"]
        faults.append("" if difficult in ("0", "1") else "a difficult that is not 0 or 1")
        box = NO_BOX
        try:
            x0, y0, x1, y1 = (float(item.findtext(f"bndbox/{side}") or "") for side in ("xmin", "ymin", "xmax", "ymax"))
            box = (x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1)
        except ValueError:
            faults.append("a bndbox that is not four numbers")
        number = names.setdefault(name, len(names)) if name else -1
        fault = next((text for text in faults if text), "")
        columns.add(count, image, number, box, crowd=difficult == "1", fault=fault)
