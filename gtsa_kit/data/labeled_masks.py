"""Segmentation datasets: images with a mask each, from folders."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gtsa_kit.data.image_files import FileList, bounded_map, find_images
from gtsa_kit.data.image_io import ImageError, open_image
from gtsa_kit.data.label_map import LabelMap, MaskOptions, build_label_map, read_mask_values
from gtsa_kit.data.labeled import SPLITS, SkippedImage
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


Candidate = tuple[str | None, Path, Path, str]
"""Split, image, mask and name of a pair whose files have not been read."""


def read_segmentation_dataset(
    images: Path,
    masks: Path | None = None,
    options: MaskOptions | None = None,
    on_progress: ProgressCallback = no_progress,
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

    Raises:
        ValueError: There is no usable pair, or the masks hold no classes.
    """
    options = options or MaskOptions()
    candidates: list[Candidate] = []
    skipped: list[SkippedImage] = []
    for split, split_images, split_masks in _split_folders(images, masks):
        matches, unmatched = _match(find_images(split_images), find_images(split_masks), split)
        candidates += matches
        skipped += unmatched
    if not candidates:
        raise ValueError(f"no image in {images} has a mask of its name; suffixes may differ")
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
    if not pairs:
        raise ValueError(f"none of {len(candidates)} pairs can be used, first {skipped[0].path}: {skipped[0].reason}")
    _check_splits(pairs)
    return SegmentationDataset(pairs, build_label_map(mask_values, options), tuple(skipped))


def _split_folders(images: Path, masks: Path | None) -> list[tuple[str | None, Path, Path]]:
    """Return the split (or None), image folder and mask folder of each part of the dataset."""
    if masks is None:
        if all((images / split / kind).is_dir() for split in SPLITS for kind in ("images", "masks")):
            return [(split, images / split / "images", images / split / "masks") for split in SPLITS]
        if not ((images / "images").is_dir() and (images / "masks").is_dir()):
            raise ValueError(
                f"{images} holds neither train/ and val/ with images/ and masks/ each, nor images/ and masks/; "
                "name the masks with --masks DIR"
            )
        images, masks = images / "images", images / "masks"
    if all((folder / split).is_dir() for folder in (images, masks) for split in SPLITS):
        return [(split, images / split, masks / split) for split in SPLITS]
    return [(None, images, masks)]


def _match(images: FileList, masks: FileList, split: str | None) -> tuple[list[Candidate], list[SkippedImage]]:
    """Match images and masks by relative path without suffix; return the matches and the files without a partner."""
    prefix = f"{split}/" if split else ""
    skipped = [
        SkippedImage(f"{prefix}{entry.name}", entry.reason) for files in (images, masks) for entry in files.unreadable
    ]
    by_name: dict[Path, Path] = {}
    for mask in masks.paths:
        key = mask.relative_to(masks.root).with_suffix("")
        if by_name.setdefault(key, mask) != mask:
            skipped.append(SkippedImage(f"{prefix}{masks.name(mask)}", "a second mask of this name"))
    matches: list[Candidate] = []
    used = set()
    for image in images.paths:
        key = image.relative_to(images.root).with_suffix("")
        if key in by_name:
            matches.append((split, image, by_name[key], f"{prefix}{images.name(image)}"))
            used.add(key)
        else:
            skipped.append(SkippedImage(f"{prefix}{images.name(image)}", "no mask of this name"))
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
