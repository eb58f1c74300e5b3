"""Images, label files and class names of a YOLO dataset, in the layouts that people use."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from gtsa_kit.data.entries import display_name
from gtsa_kit.data.image_files import find_images
from gtsa_kit.data.skipped import SkippedImage, other_split
from gtsa_kit.data.splits import SPLITS, SplitNames, find_splits, is_split_name

_NAME_FILES = ("classes.txt", "obj.names", "labels/classes.txt")


class YoloImage(NamedTuple):
    """An image and its file of labels, which need not exist."""

    name: str
    """Path relative to its folder, prefixed by the split if there is one."""
    path: Path
    labels: Path
    split: str | None


class YoloFiles(NamedTuple):
    """Files of a dataset."""

    images: list[YoloImage]
    names: Mapping[int, str] | None
    """Class names by number; None if no file has them."""
    skipped: list[SkippedImage]


def yolo_files(data: Path) -> YoloFiles | None:
    """Return the files of a dataset; None if the folder is none of YOLO.

    Args:
        data: A YAML file with `names`, `train` and `val`; a folder with one; or a folder with `images/` and `labels/`,
            in or above the folders of the splits. Names are then the lines of `classes.txt`.

    Raises:
        ValueError: The YAML file is malformed, or a folder that it names does not exist.
    """
    settings = data if data.is_file() else next((file for file in _yaml_files(data) if "names" in _load(file)), None)
    if settings is not None:
        return _from_yaml(settings)
    folders, splits = _image_folders(data)
    if not folders:
        return None
    files = YoloFiles([], _names_of_lines(data), _other_splits(splits, splits.others if splits else ()))
    for split, folder in folders:
        _add_folder(files, folder, split)
    return files


def _yaml_files(data: Path) -> Iterable[Path]:
    return sorted(file for pattern in ("*.yaml", "*.yml") for file in data.glob(pattern))


def _load(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{file} can't be read as YAML: {' '.join(str(error).split())}") from error
    return content if isinstance(content, dict) else {}


def _from_yaml(file: Path) -> YoloFiles:
    content = _load(file)
    names = _names(content, file)
    splits = find_splits(
        [key for key in content if isinstance(key, str) and is_split_name(key) and content[key]], str(file)
    )
    if splits is None:
        raise ValueError(f"{file} names no images; write train: and val: with their folders")
    base = file.parent / str(content.get("path") or "")
    root = base if base.is_dir() else file.parent
    files = YoloFiles([], names, _other_splits(splits, splits.others))
    for split, key in zip(SPLITS, (splits.train, splits.val), strict=True):
        values = content[key] if isinstance(content[key], list) else [content[key]]
        for value in values:
            path = _existing(root, str(value), file)
            if path.is_dir():
                _add_folder(files, path, split)
            else:
                _add_list(files, path, root, split)
    return files


def _names(content: Mapping[str, Any], file: Path) -> dict[int, str]:
    """Return the names of a YAML file, a list or a table of numbers."""
    names = content.get("names")
    table = dict(enumerate(names)) if isinstance(names, list) else names
    if isinstance(table, dict):
        table = {int(key) if isinstance(key, str) and key.isdecimal() else key: table[key] for key in table}
    if not isinstance(table, dict) or not table or any(type(key) is not int or key < 0 for key in table):
        raise ValueError(f"{file} needs names, such as [bolt, nut] or {{0: bolt, 1: nut}}, got {names!r}")
    named = {number: str(table[number]) for number in sorted(table)}
    if len(set(named.values())) < len(named):
        raise ValueError(f"{file} has one name twice in names; rename one of them")
    if content.get("nc") not in (None, len(named)):
        raise ValueError(f"{file} has nc: {content['nc']} and {len(named)} names; correct one of them")
    return named


def _existing(root: Path, value: str, file: Path) -> Path:
    """Return a path of a YAML file, relative to its `path`, or as exports write it, from a folder beside."""
    for path in (root / value, root / value.removeprefix("../")):
        if path.exists():
            return path
    raise ValueError(f"{file} names {value}, which is not in {root}; correct it or its path:")


def _image_folders(data: Path) -> tuple[list[tuple[str | None, Path]], SplitNames | None]:
    """Return the split and the folder of images of each part, of a folder without YAML."""
    if (data / "images").is_dir() and (data / "labels").is_dir():
        names = [path.name for path in (data / "images").iterdir() if path.is_dir()]
        splits = find_splits(names, str(data / "images"))
        if splits is None:
            return [(None, data / "images")], None
        return [("train", data / "images" / splits.train), ("val", data / "images" / splits.val)], splits
    names = [path.name for path in data.iterdir() if (path / "images").is_dir() and (path / "labels").is_dir()]
    splits = find_splits(names, str(data)) if names else None
    if splits is None:
        return [], None
    return [("train", data / splits.train / "images"), ("val", data / splits.val / "images")], splits


def _names_of_lines(data: Path) -> dict[int, str] | None:
    for name in _NAME_FILES:
        if (data / name).is_file():
            lines = (data / name).read_text(encoding="utf-8-sig").splitlines()
            return dict(enumerate(line.strip() for line in lines if line.strip()))
    return None


def _other_splits(splits: SplitNames | None, names: Iterable[str]) -> list[SkippedImage]:
    return [other_split(name, splits.train, splits.val) for name in names if splits]


def _add_folder(files: YoloFiles, folder: Path, split: str | None) -> None:
    """Add the images of a folder, and the files of labels that belong to none."""
    listed = find_images(folder)
    prefix = f"{split}/" if split else ""
    files.skipped.extend(SkippedImage(f"{prefix}{entry.name}", entry.reason) for entry in listed.unreadable)
    used = set()
    for path in listed.paths:
        labels = _labels_of(path)
        used.add(labels)
        files.images.append(YoloImage(f"{prefix}{listed.name(path)}", path, labels, split))
    folders = {path.parent for path in used if path.parent.name == "labels" or "labels" in path.parts}
    for orphan in sorted({file for parent in folders for file in parent.glob("*.txt")} - used):
        if orphan.name != "classes.txt":
            files.skipped.append(SkippedImage(f"{prefix}{orphan.name}", "a file of labels without image"))


def _add_list(files: YoloFiles, file: Path, root: Path, split: str) -> None:
    for line in _lines(file):
        path = next((path for path in (root / line, file.parent / line) if path.exists()), root / line)
        name = display_name(path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix())
        files.images.append(YoloImage(f"{split}/{name}", path, _labels_of(path), split))


def _lines(file: Path) -> Iterator[str]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is no readable list of images: {error}") from error
    yield from (line.strip() for line in text.splitlines() if line.strip())


def _labels_of(image: Path) -> Path:
    """Return the file of labels: in the folder `labels` in place of the last `images`, or beside the image."""
    parts = list(image.parts)
    for i in reversed(range(len(parts) - 1)):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts).with_suffix(".txt")
