"""Segmentation datasets: images with a mask each, from folders."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from gtsa_kit.data.channels.reader import ImageReader
from gtsa_kit.data.image_files import bounded_map
from gtsa_kit.data.inspected_pairs import ImageMaskPair, area_of, inspect_pair, orient_masks
from gtsa_kit.data.label_map import VOID, LabelMap, MaskOptions, build_label_map, read_mask_values
from gtsa_kit.data.mask_pairs import MASK_HINT, find_pairs
from gtsa_kit.data.rgb import apply_orientation
from gtsa_kit.data.skipped import MAX_MISSING, SkippedImage, check_missing, faults
from gtsa_kit.data.split_rule import Split, SplitRule, choose_validation
from gtsa_kit.data.splits import SPLITS
from gtsa_kit.hardware import available_cores
from gtsa_kit.progress import ProgressCallback, no_progress


@dataclass(frozen=True)
class SegmentationDataset:
    """Images with masks."""

    pairs: list[ImageMaskPair]
    label_map: LabelMap
    skipped: tuple[SkippedImage, ...]
    reader: ImageReader = field(default_factory=ImageReader)
    """Reader of the images."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by class number."""
        return self.label_map.classes

    @property
    def has_split(self) -> bool:
        """True if the dataset is split into train/ and val/."""
        return self.pairs[0].split is not None

    def labels(self, pair: ImageMaskPair) -> np.ndarray:
        """Read the (H, W) uint8 class numbers of a mask, upright; pixels of no class or without data are `VOID`.

        Raises:
            ImageError: The mask cannot be read.
        """
        values = read_mask_values(pair.mask, self.label_map.in_color).values
        labels = self.label_map.apply(values)
        if pair.mask_nodata is not None:
            labels[values == pair.mask_nodata] = VOID
        area = area_of(pair)
        if area is not None and area.shape == labels.shape:
            labels[area] = VOID
        if pair.mask_orientation == 1:
            return labels
        return np.asarray(apply_orientation(Image.fromarray(labels), pair.mask_orientation))

    def validation(self, fraction: float, seed: int) -> np.ndarray:
        """Return the (N,) bool mask of the validation images: the dataset's split, or a random `fraction` of them."""
        return self.split(SplitRule(fraction, "random", seed=seed)).validation

    def split(self, rule: SplitRule) -> Split:
        """Return which images are for validation: the dataset's own split, or, where it has none, by a rule."""
        if self.has_split:
            return Split(np.array([pair.split == "val" for pair in self.pairs]), "as the dataset has it")
        return choose_validation([pair.name for pair in self.pairs], rule)

    def counts(self) -> np.ndarray:
        """Return the number of pixels of each class in each mask, (N, K + 1) int64; the last column is void."""
        counts = np.zeros((len(self.pairs), VOID + 1), np.int64)
        for row, pair in zip(counts, self.pairs, strict=True):
            np.add.at(row, self.label_map.apply(pair.values), pair.value_counts)
            row[VOID] += pair.width * pair.height - pair.value_counts.sum()  # pixels without data
        return np.concatenate([counts[:, : len(self.classes)], counts[:, VOID:]], axis=1)


def read_segmentation_dataset(
    images: Path,
    masks: Path | None = None,
    options: MaskOptions | None = None,
    on_progress: ProgressCallback = no_progress,
    max_missing: float = MAX_MISSING,
    reader: ImageReader | None = None,
) -> SegmentationDataset:
    """Find images and masks, decode all of them once, and build the label map.

    An image and its mask have the same name; suffixes may differ. Files that are unreadable or have no partner, and
    pairs of different sizes, are skipped. The EXIF orientation of each file is applied to it. A mask without one beside
    an image with one is upright if it has the size of the upright image, and gets the image's orientation if it has
    the size of the stored one.

    Args:
        images: Folder or CSV of `mask_pairs.find_pairs`.
        masks: Folder of masks, for a folder of images alone.
        options: Meaning of the pixel values; None makes each value a class.
        on_progress: Progress callback.
        max_missing: Largest share of files that may have no partner or be unusable.
        reader: Reader of the images; None reads 8-bit RGB.

    Raises:
        ValueError: There is no usable pair, more than `max_missing` of the files can't be used, or the masks
            hold no classes.
    """
    options, reader = options or MaskOptions(), reader or ImageReader()
    candidates, skipped = find_pairs(images, masks, options.suffix, not reader.channels.is_rgb)
    if not candidates:
        first = f"; {len(skipped)} files are skipped, first {skipped[0].path}: {skipped[0].reason}" if skipped else ""
        raise ValueError(f"no image in {images} has a mask of its name{first}; {MASK_HINT}")
    total = len(candidates) + len(skipped)
    check_missing(faults(skipped), total, "images and masks", MASK_HINT, max_missing)
    inspected = []
    with ThreadPoolExecutor(available_cores()) as pool:
        results = bounded_map(pool, lambda item: inspect_pair(item, options, reader), candidates, window=16)
        for done, result in enumerate(results, start=1):
            on_progress("reading masks", done, len(candidates))
            if isinstance(result, SkippedImage):
                skipped.append(result)
            else:
                inspected.append(result)
    unusable = skipped[total - len(candidates) :]
    if not inspected:
        raise ValueError(f"none of {len(candidates)} pairs can be used, first {unusable[0].path}: {unusable[0].reason}")
    check_missing(faults(skipped), total, "images and masks", "repair or remove them", max_missing)
    pairs = orient_masks(inspected)
    _check_splits(pairs)
    mask_values = [(item.pair.mask, item.pair.values, item.in_color) for item in inspected]
    return SegmentationDataset(pairs, build_label_map(mask_values, options), tuple(skipped), reader)


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
