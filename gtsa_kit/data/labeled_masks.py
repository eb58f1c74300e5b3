"""Segmentation datasets: images with a mask each, from folders."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gtsa_kit.data.image_files import FileList, bounded_map, find_images
from gtsa_kit.data.image_io import ImageError, open_image
from gtsa_kit.data.label_map import LabelMap, MaskOptions, build_label_map, read_mask_values
from gtsa_kit.data.skipped import MAX_MISSING, SkippedImage, check_missing
from gtsa_kit.data.splits import SPLITS, find_splits
from gtsa_kit.hardware import available_cores
from gtsa_kit.progress import ProgressCallback, no_progress


@dataclass(frozen=True)
class ImageMaskPair:
    """An image and its mask, both readable and of the same size."""

    name: str
    """Path of the image relative to its folder, prefixed by the split if there is one."""
    image: Path
    mask: Path
    width: int
    """Width in pixels."""
    height: int
    """Height in pixels."""
    split: str | None
    """`train`, `val`, or None where the dataset has no split."""


@dataclass(frozen=True)
class SegmentationDataset:
    """Images with masks."""

    pairs: list[ImageMaskPair]
    label_map: LabelMap
    skipped: tuple[SkippedImage, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by class number."""
        return self.label_map.classes

    @property
    def has_split(self) -> bool:
        """True if the dataset is split into train/ and val/."""
        return self.pairs[0].split is not None

    def labels(self, pair: ImageMaskPair) -> np.ndarray:
        """Read the (H, W) uint8 class numbers of a mask; pixels of no class are `VOID`."""
        return self.label_map.read(pair.mask)

    def validation(self, fraction: float, seed: int) -> np.ndarray:
        """Return the (N,) bool mask of the validation images: the dataset's split, or a random `fraction` of them."""
        if self.has_split:
            return np.array([pair.split == "val" for pair in self.pairs])
        count = min(len(self.pairs) - 1, max(1, round(fraction * len(self.pairs))))
        selected = np.zeros(len(self.pairs), bool)
        selected[np.random.default_rng(seed).permutation(len(self.pairs))[:count]] = True
        return selected


NO_MASK = "no mask of this name"
MASK_HINT = (
    "a mask has the name of its image; suffixes may differ; for names like a_mask.png give --mask-suffix _mask, and to "
    "use the rest alone --max-missing 0.9"
)

Candidate = tuple[str | None, Path, Path, str]
"""Split, image, mask and name of a pair whose files have not been read."""


def read_segmentation_dataset(
    images: Path,
    masks: Path | None = None,
    options: MaskOptions | None = None,
    on_progress: ProgressCallback = no_progress,
    max_missing: float = MAX_MISSING,
) -> SegmentationDataset:
    """Find images and masks, decode all of them once, and build the label map.

    An image and its mask have the same name; suffixes may differ. Files that are unreadable or have no partner, and
    pairs of different sizes, are skipped.

    Args:
        images: Folder of images, possibly with `train/` and `val/`; or, without `masks`, a folder with `images/` and
            `masks/`, possibly in `train/` and `val/` each.
        masks: Folder of masks with the same structure.
        options: Meaning of the pixel values; None makes each value a class.
        on_progress: Progress callback.
        max_missing: Largest share of files that may have no partner or be unusable.

    Raises:
        ValueError: There is no usable pair, more than `max_missing` of the files can't be used, or the masks
            hold no classes.
    """
    options = options or MaskOptions()
    candidates: list[Candidate] = []
    skipped: list[SkippedImage] = []
    for split, split_images, split_masks in _split_folders(images, masks):
        matches, unmatched = _match(find_images(split_images), find_images(split_masks), split, options.suffix)
        candidates += matches
        skipped += unmatched
    if not candidates:
        raise ValueError(f"no image in {images} has a mask of its name; {MASK_HINT}")
    total = len(candidates) + len(skipped)
    check_missing(skipped, total, "images and masks", MASK_HINT, max_missing)
    pairs, mask_values = [], []
    with ThreadPoolExecutor(available_cores()) as pool:
        inspected = bounded_map(pool, lambda item: _inspect(item, options.in_color), candidates, window=16)
        for done, result in enumerate(inspected, start=1):
            on_progress("reading masks", done, len(candidates))
            if isinstance(result, SkippedImage):
                skipped.append(result)
            else:
                pair, values, in_color = result
                pairs.append(pair)
                mask_values.append((pair.mask, values, in_color))
    unusable = skipped[total - len(candidates) :]
    if not pairs:
        raise ValueError(f"none of {len(candidates)} pairs can be used, first {unusable[0].path}: {unusable[0].reason}")
    check_missing(skipped, total, "images and masks", "repair or remove them", max_missing)
    _check_splits(pairs)
    return SegmentationDataset(pairs, build_label_map(mask_values, options), tuple(skipped))


def _split_folders(images: Path, masks: Path | None) -> list[tuple[str | None, Path, Path]]:
    """Return the split (or None), image folder and mask folder of each part of the dataset."""
    if masks is None:
        if not ((images / "images").is_dir() and (images / "masks").is_dir()):
            parts = _split_parts(images, images)
            if not parts or not all((part / kind).is_dir() for _, part, _ in parts for kind in ("images", "masks")):
                raise ValueError(
                    f"{images} holds neither train/ and val/ with images/ and masks/ each, nor images/ and masks/; "
                    "name the masks with --masks DIR"
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
    used = set()
    for image in images.paths:
        key = image.relative_to(images.root).with_suffix("").as_posix()
        if key in by_name:
            matches.append((split, image, by_name[key], f"{prefix}{images.name(image)}"))
            used.add(key)
        else:
            skipped.append(SkippedImage(f"{prefix}{images.name(image)}", NO_MASK))
    unused = (mask for key, mask in by_name.items() if key not in used)
    skipped += [SkippedImage(f"{prefix}{masks.name(mask)}", "a mask without image") for mask in unused]
    return matches, skipped


def _inspect(candidate: Candidate, as_color: bool) -> tuple[ImageMaskPair, np.ndarray, bool] | SkippedImage:
    """Decode a pair; return it with the unique values of its mask and whether these are colors."""
    split, image, mask, name = candidate
    try:
        width, height = open_image(image).size
        values, in_color = read_mask_values(mask, as_color)
    except ImageError as error:
        return SkippedImage(name, error.reason if error.path == image else f"its mask: {error.reason}")
    if values.shape != (height, width):
        sizes = f"{values.shape[1]} x {values.shape[0]}, the image {width} x {height}"
        return SkippedImage(name, f"its mask is {sizes}")
    return ImageMaskPair(name, image, mask, width, height, split), np.unique(values), in_color


def _check_splits(pairs: Sequence[ImageMaskPair]) -> None:
    splits = {pair.split for pair in pairs}
    if None in splits and len(pairs) < 2:
        raise ValueError("one image with a mask can't be split; give at least two")
    if None not in splits and len(splits) < 2:
        raise ValueError(f"no usable image with a mask in {(set(SPLITS) - splits).pop()}")


def tile_boxes(width: int, height: int, tile: int | None) -> Iterator[tuple[int, int, int, int]]:
    """Yield (top, left, bottom, right) of the fewest square tiles that cover an image; they overlap where needed.

    Args:
        width, height: Size of the image, in pixels.
        tile: Side of the tiles; None gives one box, the whole image.
    """
    sides = []
    for length in (height, width):
        own = min(tile or length, length)
        count = -(-length // own)
        sides.append([(int(start), int(start) + own) for start in np.linspace(0, length - own, count).round()])
    yield from ((top, left, bottom, right) for top, bottom in sides[0] for left, right in sides[1])
