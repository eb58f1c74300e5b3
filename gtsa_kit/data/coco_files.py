"""Files of annotations and folders of images of a COCO dataset, in the layouts that people use."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from gtsa_kit.data.coco_json import CocoPart
from gtsa_kit.data.skipped import SkippedImage, other_split
from gtsa_kit.data.splits import SPLITS, find_splits, is_split_name

_OTHER_KINDS = re.compile("captions|keypoints|panoptic|stuff|image_info|results|predictions", re.IGNORECASE)
"""Words in the names of COCO's files that hold no objects."""


def coco_parts(data: Path, images: Path | None, val: Path | None) -> tuple[list[CocoPart], list[SkippedImage]] | None:
    """Return the files of annotations, and the files of a split that is not used; None if there is no such file.

    Args:
        data: A JSON file, or a folder: with `annotations/*.json`, with JSON files, or with `train/` and `val/` that
            hold one each. Files of a folder are told apart by the names of splits in their names.
        images: Folder of the images, possibly with folders of the splits; None looks for it near the files.
        val: JSON file of the validation images.

    Raises:
        ValueError: Several files could be meant, or `images` is no folder.
    """
    if images is not None and not images.is_dir():
        raise ValueError(f"{images} is no folder; give that of the images by --images")
    if data.is_file():
        files = [(data, "train" if val else None), *([(val, "val")] if val else [])]
        return [CocoPart(file, _folders(file, images), split) for file, split in files], []
    by_split = _files_by_split(data)
    if val is not None and by_split:
        raise ValueError(f"{data} is a folder, and --val belongs to a JSON file; give that of the training images")
    splits = find_splits([name for name in by_split if name], str(data))
    if splits is None:
        unsplit = by_split.get("", [])
        return ([CocoPart(_only(unsplit, data), _folders(unsplit[0], images), None)], []) if unsplit else None
    names = zip(SPLITS, (splits.train, splits.val), strict=True)
    parts = [(_only(by_split[name], data), split) for split, name in names]
    skipped = [
        other_split(file.relative_to(data).as_posix(), splits.train, splits.val)
        for name in splits.others
        for file in by_split[name]
    ]
    return [CocoPart(file, _folders(file, images), split) for file, split in parts], skipped


def _files_by_split(data: Path) -> dict[str, list[Path]]:
    """Return the JSON files of a folder by the name of their split, "" for none."""
    result: dict[str, list[Path]] = {}
    for file in [*_json_files(data / "annotations"), *_json_files(data)]:
        result.setdefault(_split_word(file.stem), []).append(file)
    if result:
        return result
    for folder in sorted(data.iterdir()) if data.is_dir() else []:
        if is_split_name(folder.name):
            for file in _json_files(folder):
                result.setdefault(folder.name, []).append(file)
    return result


def _json_files(folder: Path) -> Iterable[Path]:
    return [file for file in sorted(folder.glob("*.json")) if file.is_file() and not _OTHER_KINDS.search(file.stem)]


def _split_word(name: str) -> str:
    """Return the word of a name that names a split, or ""."""
    return next((word for word in re.split("[^A-Za-z]+", name) if is_split_name(word)), "")


def _only(files: Sequence[Path], data: Path) -> Path:
    """Return the file that is meant: the one there is, or the one whose name begins with `instances`."""
    named = [file for file in files if file.stem.startswith("instances")]
    chosen = named if len(named) == 1 else files
    if len(chosen) > 1:
        raise ValueError(f"{data} holds {chosen[0].name} and {chosen[1].name}; give the one that is meant itself")
    return chosen[0]


def _folders(file: Path, images: Path | None) -> tuple[Path, ...]:
    """Return the folders in which the images of a file may be, the likely ones first."""
    word = _split_word(file.stem)
    with_year = re.search(rf"{word}[0-9]*", file.stem) if word else None
    names = [name for name in dict.fromkeys([with_year[0] if with_year else "", word]) if name]
    if images is not None:
        return (*(images / name for name in names), images)
    root = file.parent.parent if file.parent.name == "annotations" else file.parent
    return (
        *(root / "images" / name for name in names),
        *(root / name / "images" for name in names),
        *(root / name for name in names),
        root / "images",
        root,
        file.parent,
    )
