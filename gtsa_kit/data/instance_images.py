"""Images of datasets with objects: their sizes and orientations, from their headers alone."""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

from gtsa_kit.data.channels.read import check_layout
from gtsa_kit.data.channels.read import read_header as read_channel_header
from gtsa_kit.data.channels.reader import ImageReader
from gtsa_kit.data.image_files import bounded_map
from gtsa_kit.data.image_io import ImageError, ImageHeader, check_file, image_errors, read_header
from gtsa_kit.data.instances import InstanceImage
from gtsa_kit.data.skipped import SkippedImage
from gtsa_kit.hardware import available_cores
from gtsa_kit.progress import Note, ProgressCallback


class ListedImage(NamedTuple):
    """An image that a dataset lists."""

    name: str
    """Path of the image relative to its folder, prefixed by the split if there is one."""
    path: Path
    split: str | None
    """`train`, `val`, or None where the dataset has no split."""
    size: tuple[int, int] | None = None
    """Width and height that the dataset states; None if its format has none, for upright images."""
    reason: str = ""
    """Reason why it can't be used, or "" while none is known."""


def read_sizes(
    images: Sequence[ListedImage], on_progress: ProgressCallback, reader: ImageReader
) -> tuple[list[InstanceImage | None], list[SkippedImage]]:
    """Read the headers of images; return each image, None for one that can't be used, and those with the reasons.

    Boxes refer to the upright image or to the stored pixels: the stated size decides where an EXIF orientation
    exchanges the sides. Where it exchanges none, images follow those that are decided, or else are upright ones.
    """
    checked: list[_Checked | SkippedImage] = []
    check = partial(_check, reader=reader)
    with ThreadPoolExecutor(available_cores()) as pool:
        for done, result in enumerate(bounded_map(pool, check, images, window=64), start=1):
            on_progress("reading headers", done, len(images))
            checked.append(result)
    stored = _undecided_are_stored([item for item in checked if isinstance(item, _Checked)])
    usable_images: list[InstanceImage | None] = []
    for item in checked:
        usable = None
        if isinstance(item, _Checked):
            on_stored = stored if len(item.matches) > 1 else item.matches == ("stored",)
            usable = item.image._replace(orientation=item.orientation if on_stored else 1)
        usable_images.append(usable)
    return usable_images, [item for item in checked if isinstance(item, SkippedImage)]


class _Checked(NamedTuple):
    image: InstanceImage
    orientation: int
    """EXIF orientation of the file."""
    matches: tuple[str, ...]
    """"upright", "stored" or both: the pixels whose size is the stated one; "upright" alone without an orientation."""


def _check(image: ListedImage, reader: ImageReader) -> _Checked | SkippedImage:
    if image.reason:
        return SkippedImage(image.name, image.reason)
    try:
        header = file_header(image.path, reader)
    except ImageError as error:
        return SkippedImage(image.name, error.reason)
    stored = header.width, header.height
    upright = stored[::-1] if header.orientation > 4 else stored
    matches: tuple[str, ...] = ("upright",)
    if image.size is not None:
        sizes = {"upright": upright} | ({"stored": stored} if header.orientation > 1 else {})
        matches = tuple(key for key, size in sizes.items() if size == image.size)
    if image.size is not None and not matches:
        width, height = image.size
        return SkippedImage(image.name, f"it is {upright[0]} x {upright[1]}, its labels say {width} x {height}")
    usable = InstanceImage(image.name, image.path, *upright, image.split)
    return _Checked(usable, header.orientation, matches)


def file_header(path: Path, reader: ImageReader) -> ImageHeader:
    """Return the header of an image file; raise `ImageError`."""
    with image_errors(path):
        check_file(path)
        with open(path, "rb") as file:
            if reader.channels.is_rgb:
                return read_header(file, path)
            header = read_channel_header(file, path)
            check_layout(header.layout, reader.layout, path)
            return ImageHeader("", "", header.width, header.height, 1)


def _undecided_are_stored(checked: Sequence[_Checked]) -> bool:
    """Return whether boxes refer to stored pixels where the size does not tell; say where nothing tells."""
    decided = {item.matches[0] for item in checked if item.orientation > 1 and len(item.matches) == 1}
    unclear = [item.image.name for item in checked if len(item.matches) > 1]
    if unclear and not decided:
        warnings.warn(
            f"{len(unclear)} images have an EXIF orientation, and the sizes in their labels do not tell whether these "
            f"are for the upright images (first {unclear[0]}); they are taken to be",
            Note,
            stacklevel=3,
        )
    return decided == {"stored"}
