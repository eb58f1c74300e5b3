"""Pairs of images and masks by name, from folders or a CSV, before any file is decoded."""

import os
from pathlib import Path
from typing import NamedTuple

from gtsa_kit.data.csv_table import csv_lines
from gtsa_kit.data.entries import display_name, natural_key
from gtsa_kit.data.image_files import FileList, find_images
from gtsa_kit.data.skipped import SkippedImage, other_split
from gtsa_kit.data.splits import SPLITS, find_splits, is_split_name

NO_MASK = "no mask of this name"
NO_IMAGE = "a mask without image"
NO_FILE = "no such file"
MASK_HINT = (
    "a mask has the name of its image; suffixes may differ; for names like a_mask.png give --mask-suffix _mask, and to "
    "use the rest alone --max-missing 0.9"
)


class Candidate(NamedTuple):
    """A pair whose files have not been read."""

    split: str | None
    """`train`, `val`, or None where the dataset has no split."""
    image: Path
    mask: Path
    name: str
    """Path of the image relative to its folder, prefixed by the split if there is one."""


def find_pairs(
    images: Path, masks: Path | None, suffix: str, channels: bool = False
) -> tuple[list[Candidate], list[SkippedImage]]:
    """Return the pairs of a dataset, and the files that pair with nothing.

    Args:
        images: Folder of images, possibly with `train/` and `val/`; a folder with `images/` and `masks/`, each possibly
            with `train/` and `val/`; a folder with `train/` and `val/` that have `images/` and `masks/` each; or a CSV
            (UTF-8) with the columns `image`, `mask` (both relative to the CSV) and optionally `split`.
        masks: Folder of masks with the same structure; None for the last three.
        suffix: End of the masks' names, before the suffix of the format, that the images' names lack.
        channels: Whether images of formats count that are read with all of their channels alone.

    Raises:
        ValueError: The structure is none of these, or a row of the CSV is wrong.
    """
    if images.suffix.lower() == ".csv" and images.is_file():
        if masks is not None or suffix:
            raise ValueError(f"{images} names the masks itself; leave out --masks and --mask-suffix")
        return _from_csv(images)
    candidates: list[Candidate] = []
    skipped: list[SkippedImage] = []
    for split, split_images, split_masks in _split_folders(images, masks):
        matches, unmatched = _match(find_images(split_images, channels), find_images(split_masks), split, suffix)
        candidates += matches
        skipped += unmatched
    return candidates, skipped


def _from_csv(source: Path) -> tuple[list[Candidate], list[SkippedImage]]:
    table = list(csv_lines(source, ("image", "mask")))
    names = {fields["split"] for _, fields in table if fields.get("split")}
    splits = find_splits(names, f"the column split of {source}")
    lines: dict[str, int] = {}
    candidates, skipped = [], []
    for number, fields in table:
        where = f"{source}, line {number}"
        image, mask, split = fields["image"], fields["mask"], fields.get("split")
        if not image or not mask or "\0" in image + mask:
            raise ValueError(f"{where}: an image and a mask are needed, got {image!r}, {mask!r}")
        if "split" in fields and not (split and is_split_name(split)):
            raise ValueError(f"{where}: split is train, val or test, got {split!r}")
        name = display_name(Path(image).as_posix())
        if lines.setdefault(name, number) != number:
            raise ValueError(f"{where}: {image} is in line {lines[name]} too; keep one of them")
        part = splits.of(split) if splits and split else None
        candidate = Candidate(part, source.parent / image, source.parent / mask, name)
        missing = [path for path in (candidate.image, candidate.mask) if not os.path.lexists(path)]
        if splits and candidate.split is None:
            skipped.append(other_split(name, splits.train, splits.val))
        elif missing:
            skipped.append(SkippedImage(name, NO_FILE if missing[0] == candidate.image else f"its mask: {NO_FILE}"))
        else:
            candidates.append(candidate)
    return sorted(candidates, key=lambda item: (item.split or "", natural_key(Path(item.name)))), skipped


def _split_folders(images: Path, masks: Path | None) -> list[tuple[str | None, Path, Path]]:
    """Return the split (or None), image folder and mask folder of each part of the dataset."""
    if masks is None:
        if not ((images / "images").is_dir() and (images / "masks").is_dir()):
            parts = _split_parts(images, images)
            if not parts or not all((part / kind).is_dir() for _, part, _ in parts for kind in ("images", "masks")):
                raise ValueError(
                    f"{images} holds neither train/ and val/ with images/ and masks/ each, nor images/ and masks/; "
                    "name the masks with --masks DIR, or give a CSV image,mask"
                )
            return [(split, part / "images", part / "masks") for split, part, _ in parts]
        images, masks = images / "images", images / "masks"
    return list(_split_parts(images, masks)) or [(None, images, masks)]


def _split_parts(images: Path, masks: Path) -> list[tuple[str, Path, Path]]:
    """Return the split and both its folders, of training and validation; nothing if the images have no splits."""
    sides = []
    for root in (images, masks):
        folders = [path.name for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
        splits = find_splits(folders, str(root))
        sides.append((root / splits.train, root / splits.val) if splits else None)
    if sides[0] is None and sides[1] is None:
        return []
    if sides[0] is None or sides[1] is None:
        missing = masks if sides[1] is None else images
        raise ValueError(f"{missing} has no folders of splits, such as train and val, as its counterpart has; add them")
    return list(zip(SPLITS, sides[0], sides[1], strict=True))


def _match(
    images: FileList, masks: FileList, split: str | None, mask_suffix: str
) -> tuple[list[Candidate], list[SkippedImage]]:
    """Match images and masks by relative path without suffix; return the matches and the files without a partner."""
    prefix = f"{split}/" if split else ""
    skipped = [
        SkippedImage(f"{prefix}{entry.name}", entry.reason) for files in (images, masks) for entry in files.unreadable
    ]
    by_name: dict[str, Path] = {}
    for mask in masks.paths:
        key = mask.relative_to(masks.root).with_suffix("").as_posix()
        if not key.endswith(mask_suffix):
            skipped.append(
                SkippedImage(f"{prefix}{masks.name(mask)}", f"a mask whose name does not end in {mask_suffix}")
            )
        elif by_name.setdefault(key.removesuffix(mask_suffix), mask) != mask:
            skipped.append(SkippedImage(f"{prefix}{masks.name(mask)}", "a second mask of this name"))
    matches: list[Candidate] = []
    used: dict[str, Path] = {}
    for image in images.paths:
        key = image.relative_to(images.root).with_suffix("").as_posix()
        if key not in by_name:
            skipped.append(SkippedImage(f"{prefix}{images.name(image)}", NO_MASK))
        elif used.setdefault(key, image) != image:
            skipped.append(SkippedImage(f"{prefix}{images.name(image)}", "a second image of this name"))
        else:
            matches.append(Candidate(split, image, by_name[key], f"{prefix}{images.name(image)}"))
    unused = (mask for key, mask in by_name.items() if key not in used)
    skipped += [SkippedImage(f"{prefix}{masks.name(mask)}", NO_IMAGE) for mask in unused]
    return matches, skipped
