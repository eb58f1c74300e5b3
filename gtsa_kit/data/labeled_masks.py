"""Images with a mask each: finding the pairs, and what a mask's pixels mean."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gtsa_kit.data.image_files import ImageList, bounded_map, find_images
from gtsa_kit.data.image_io import ImageError, open_image
from gtsa_kit.data.label_map import Codes, MaskOptions, choose_codes, codes_of
from gtsa_kit.data.labeled import SPLITS, SkippedImage
from gtsa_kit.hardware import available_cores
from gtsa_kit.progress import ProgressCallback, no_progress


@dataclass(frozen=True)
class Pair:
    """An image and its mask, both looked at and of one size."""

    name: str
    image: Path
    mask: Path
    width: int
    height: int
    split: str | None


@dataclass(frozen=True)
class SegmentationDataset:
    """Images with masks."""

    pairs: list[Pair]
    codes: Codes
    skipped: tuple[SkippedImage, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names."""
        return self.codes.classes

    def labels(self, pair: Pair) -> np.ndarray:
        """(H, W) uint8: numbers of classes, `VOID` where there is none."""
        return self.codes.labels(pair.mask)

    def validation(self, share: float, seed: int) -> np.ndarray:
        """(N,) bool: the split that is given, else `share` of the images, drawn."""
        if self.given:
            return np.array([pair.split == "val" for pair in self.pairs])
        count = min(len(self.pairs) - 1, max(1, round(share * len(self.pairs))))
        drawn = np.zeros(len(self.pairs), bool)
        drawn[np.random.default_rng(seed).permutation(len(self.pairs))[:count]] = True
        return drawn

    @property
    def given(self) -> bool:
        """Whether the split is."""
        return self.pairs[0].split is not None


def read_masked(
    images: Path, masks: Path | None = None, options: MaskOptions | None = None, tell: ProgressCallback = no_progress
) -> SegmentationDataset:
    """Find images and their masks, decode them all once, and learn which classes there are.

    An image's mask has its name, with any suffix. What is broken or alone, or whose sizes differ, is left out.

    Args:
        images: Images, perhaps below `train/` and `val/`; or, without `masks`, a folder with `images/` and
            `masks/`, perhaps in `train/` and `val/` each.
        masks: A folder of the same shape.
        options: What the values of pixels mean; None takes each value found for a class.
        tell: Told of the progress.

    Raises:
        ValueError: Nothing fits together, or the masks hold no classes.
    """
    options = options or MaskOptions()
    found: list[tuple[str | None, Path, Path, str]] = []
    skipped: list[SkippedImage] = []
    for split, own_images, own_masks in _folders(images, masks):
        matched, alone = _match(find_images(own_images), find_images(own_masks), split)
        found += matched
        skipped += alone
    if not found:
        raise ValueError(f"no image in {images} has a mask of its name; names count without their suffix")
    pairs, looks = [], []
    with ThreadPoolExecutor(available_cores()) as pool:
        seen = bounded_map(pool, lambda item: _look(*item, colors=options.in_color), found, window=16)
        for done, look in enumerate(seen, start=1):
            tell("reading masks", done, len(found))
            if isinstance(look, SkippedImage):
                skipped.append(look)
            else:
                pairs.append(look[0])
                looks.append((look[0].mask, look[1], look[2]))
    if not pairs:
        raise ValueError(f"none of {len(found)} pairs can be used, first {skipped[0].path}: {skipped[0].reason}")
    _check_sides(pairs)
    return SegmentationDataset(pairs, choose_codes(looks, options), tuple(skipped))


def _folders(images: Path, masks: Path | None) -> list[tuple[str | None, Path, Path]]:
    """(split, images, masks)."""
    if masks is None:
        if all((images / split / kind).is_dir() for split in SPLITS for kind in ("images", "masks")):
            return [(split, images / split / "images", images / split / "masks") for split in SPLITS]
        if not ((images / "images").is_dir() and (images / "masks").is_dir()):
            raise ValueError(
                f"{images} holds neither train/ and val/ with images/ and masks/ each, nor these two; "
                "name the masks with --masks DIR"
            )
        images, masks = images / "images", images / "masks"
    if all((folder / split).is_dir() for folder in (images, masks) for split in SPLITS):
        return [(split, images / split, masks / split) for split in SPLITS]
    return [(None, images, masks)]


def _match(
    images: ImageList, masks: ImageList, split: str | None
) -> tuple[list[tuple[str | None, Path, Path, str]], list[SkippedImage]]:
    """Pairs by relative path without suffix, and what has no partner."""
    place = f"{split}/" if split else ""
    skipped = [
        SkippedImage(f"{place}{found.name(b.path)}", b.reason) for found in (images, masks) for b in found.broken
    ]
    by_name: dict[Path, Path] = {}
    for mask in masks.paths:
        key = mask.relative_to(masks.root).with_suffix("")
        if by_name.setdefault(key, mask) != mask:
            skipped.append(SkippedImage(f"{place}{masks.name(mask)}", "a second mask of this name"))
    pairs, used = [], set()
    for image in images.paths:
        key = image.relative_to(images.root).with_suffix("")
        if key in by_name:
            pairs.append((split, image, by_name[key], f"{place}{images.name(image)}"))
            used.add(key)
        else:
            skipped.append(SkippedImage(f"{place}{images.name(image)}", "no mask of this name"))
    alone = (mask for key, mask in by_name.items() if key not in used)
    skipped += [SkippedImage(f"{place}{masks.name(mask)}", "a mask without image") for mask in alone]
    return pairs, skipped


def _look(
    split: str | None, image: Path, mask: Path, name: str, colors: bool
) -> tuple[Pair, np.ndarray, bool] | SkippedImage:
    """The pair, the codes in its mask, and whether they are colors."""
    try:
        width, height = open_image(image).size
        codes, in_color = codes_of(mask, colors)
    except ImageError as broken:
        return SkippedImage(name, broken.reason if broken.path == image else f"its mask: {broken.reason}")
    if codes.shape != (height, width):
        sizes = f"{codes.shape[1]} x {codes.shape[0]}, the image {width} x {height}"
        return SkippedImage(name, f"its mask is {sizes}")
    return Pair(name, image, mask, width, height, split), np.unique(codes), in_color


def _check_sides(pairs: Sequence[Pair]) -> None:
    splits = {pair.split for pair in pairs}
    if None in splits and len(pairs) < 2:
        raise ValueError("one image with a mask can't be split; give two at least")
    if None not in splits and len(splits) < 2:
        raise ValueError(f"no usable image with a mask in {(set(SPLITS) - splits).pop()}")


def boxes(width: int, height: int, tile: int | None) -> Iterator[tuple[int, int, int, int]]:
    """(top, left, bottom, right) of square tiles that cover an image, overlapping where they must; None: whole."""
    sides = []
    for length in (height, width):
        own = min(tile or length, length)
        count = -(-length // own)
        sides.append([(int(start), int(start) + own) for start in np.linspace(0, length - own, count).round()])
    yield from ((top, left, bottom, right) for top, bottom in sides[0] for left, right in sides[1])
