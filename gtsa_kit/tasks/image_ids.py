"""Ids of images in a COCO file, by which predictions are scored against it."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Final

NAMED: Final = 5
"""Number of images that an error names."""


def read_image_ids(path: Path) -> dict[str, int]:
    """Return the ids of the images of a COCO file by `file_name`.

    Raises:
        ValueError: The file is none of COCO, or a name has two ids.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        pairs = [(image["file_name"], image["id"]) for image in content["images"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} lists no images as COCO does: {error!r}; give the JSON file of the labels") from error
    if wrong := next((pair for pair in pairs if not isinstance(pair[0], str) or type(pair[1]) is not int), None):
        raise ValueError(f"{path} has an image of the name {wrong[0]!r} and the id {wrong[1]!r}; ids are numbers")
    for index, what in ((0, "images of the name"), (1, "images with the id")):
        value, count = Counter(pair[index] for pair in pairs).most_common(1)[0] if pairs else (None, 0)
        if count > 1:
            raise ValueError(f"{path} has {count} {what} {value}; give a file in which each image has an id of its own")
    return dict(pairs)


def match_image_ids(names: Iterable[str], ids: Mapping[str, int], file: str) -> dict[str, int]:
    """Return the id of each image by its name, relative to its source.

    A name matches an equal `file_name`, or the only one that ends with it or that it ends with, in whole folders.

    Args:
        names: Names of the images.
        ids: Ids by `file_name`.
        file: Name of the file of ids, for errors.

    Raises:
        ValueError: Images are not in the file, or match several of its images, or the same one.
    """
    by_last: dict[str, list[str]] = {}
    for file_name in ids:
        by_last.setdefault(PurePosixPath(file_name).name, []).append(file_name)
    numbers, unknown = {}, []
    for name in names:
        best = _best(name, by_last.get(PurePosixPath(name).name, []))
        if best is None:
            unknown.append(name)
        else:
            numbers[name] = ids[best]
    if unknown:
        listed = ", ".join(unknown[:NAMED]) + (" ..." if len(unknown) > NAMED else "")
        raise ValueError(
            f"{len(unknown)} of {len(unknown) + len(numbers)} images are not in {file}, or not clearly one of it: "
            f"{listed}; predict the folder of its images, or omit --ids"
        )
    twice, count = Counter(numbers.values()).most_common(1)[0]
    if count > 1:
        both = " and ".join(name for name, number in numbers.items() if number == twice)
        raise ValueError(f"{both} are both the image {twice} of {file}; predict the folder of its images")
    return numbers


def _best(name: str, candidates: list[str]) -> str | None:
    """Return the only file name of which a path is the end, or that is its end; None if there is none, or several."""
    if name in candidates:
        return name
    parts = PurePosixPath(name).parts
    fitting = []
    for file_name in candidates:
        other = PurePosixPath(file_name).parts
        length = min(len(parts), len(other))
        if parts[-length:] == other[-length:]:
            fitting.append(file_name)
    return fitting[0] if len(fitting) == 1 else None
