"""Milliseconds an image on one thread for each part of making views, against Pillow and torchvision called plainly.

Both do the same draws of the same samples, in turns, so that whatever else the machine does meets both alike.
Run: .venv/bin/python benchmarks/views.py --images FOLDER [--preset coco] [--count 40] [--rounds 3] [--json FILE]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from plain.views import JITTER, plain_crop, plain_views
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from gtsa_kit.config import ViewsConfig, load_config
from gtsa_kit.data import color as colors
from gtsa_kit.data.augment import apply_augmentations, crop_and_rotate
from gtsa_kit.data.augmentation_params import STEPS, AugmentationParams, sample_augmentation
from gtsa_kit.data.decode import decode
from gtsa_kit.data.image_files import find_images
from gtsa_kit.data.image_io import open_image, read_file
from gtsa_kit.data.multicrop import derive_seed


@dataclass(frozen=True)
class Sample:
    """One image in the form that either way takes, and what was drawn for it."""

    path: Path
    image: Image.Image
    pixels: Tensor
    params: AugmentationParams
    config: ViewsConfig

    @property
    def crops(self) -> list[tuple[list[int], int, int]]:
        """Box, turn and size of every view."""
        sizes = [self.config.global_size] * self.config.global_crops
        sizes += [self.config.local_size] * (len(self.params.boxes) - len(sizes))
        return list(zip(self.params.boxes.tolist(), self.params.rotations.tolist(), sizes, strict=True))


def load(path: Path, index: int, config: ViewsConfig) -> Sample:
    image = open_image(path)
    params = sample_augmentation(
        image.height, image.width, config, torch.Generator().manual_seed(derive_seed(0, 0, index))
    )
    pixels = torch.from_numpy(decode(read_file(path), path.name)[0]).permute(2, 0, 1)  # as the workers have it
    return Sample(path, image, pixels, params, config)


def of_each(work: Callable[[Sample], object]) -> Callable[[list[Sample]], float]:
    """Milliseconds an image."""

    def measure(samples: list[Sample]) -> float:
        begin = time.perf_counter()
        for sample in samples:
            work(sample)
        return 1e3 * (time.perf_counter() - begin) / len(samples)

    return measure


def of_views(work: Callable[[object, float], object], ours: bool, which: int) -> Callable[[list[Sample]], float]:
    """The same of one step of jitter (gray 4, blur 5) done to all ten views, as if each were certain."""

    def measure(samples: list[Sample]) -> float:
        spans = []
        for sample in samples[:4]:
            views = [plain_crop(sample.image, *crop) for crop in sample.crops]
            given = [np.ascontiguousarray(np.asarray(v).transpose(2, 0, 1)) if ours else v for v in views]
            factors = sample.params.colors.factors[:, which].tolist() if which < len(STEPS) else [1.05] * len(views)
            begin = time.perf_counter()
            for view, factor in zip(given, factors, strict=True):
                work(view, factor)
            spans.append(time.perf_counter() - begin)
        return 1e3 * statistics.mean(spans)

    return measure


def parts() -> dict[str, tuple[Callable[[list[Sample]], float], Callable[[list[Sample]], float]]]:
    """Name to ours and the plain way."""
    ours = (colors.adjust_brightness, colors.adjust_contrast, colors.adjust_saturation, colors.adjust_hue)

    def both(sample: Sample) -> object:
        pixels, _ = decode(sample.path.read_bytes())
        params = sample_augmentation(*pixels.shape[:2], sample.config, torch.Generator().manual_seed(0))
        return apply_augmentations(torch.from_numpy(pixels).permute(2, 0, 1), sample.params, sample.config), params

    def both_plain(sample: Sample) -> object:
        params = sample_augmentation(sample.image.height, sample.image.width, sample.config, torch.Generator())
        return plain_views(open_image(sample.path), sample.params, sample.config), params

    drawing = of_each(lambda p: sample_augmentation(*p.pixels.shape[-2:], p.config, torch.Generator().manual_seed(0)))
    table = {
        "decode": (of_each(lambda p: decode(p.path.read_bytes())), of_each(lambda p: open_image(p.path))),
        "draw": (drawing, drawing),
        "crop, resize, turn": (
            of_each(lambda p: [crop_and_rotate(p.pixels, *crop) for crop in p.crops]),
            of_each(lambda p: [plain_crop(p.image, *crop) for crop in p.crops]),
        ),
    }
    for index, name in enumerate(STEPS):
        table[f"{name} of all views"] = of_views(ours[index], True, index), of_views(JITTER[index], False, index)
    table["gray of all views"] = (
        of_views(lambda v, _: colors.to_grayscale(v), True, 4),
        of_views(lambda v, _: tv.rgb_to_grayscale(v, 3), False, 4),
    )
    table["blur of all views"] = (
        of_views(lambda v, sigma: colors.gaussian_blur(v, sigma), True, 5),
        of_views(lambda v, sigma: v.filter(ImageFilter.GaussianBlur(sigma)), False, 5),
    )
    table["views, as drawn"] = (
        of_each(lambda p: apply_augmentations(p.pixels, p.params, p.config)),
        of_each(lambda p: plain_views(p.image, p.params, p.config)),
    )
    table["decode, draw, views"] = of_each(both), of_each(both_plain)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--preset", default="coco")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config(args.preset).views
    samples = [load(path, i, config) for i, path in enumerate(find_images(args.images).paths[: args.count])]
    table = Table(title=f"{args.preset}, {len(samples)} images, one thread, median of {args.rounds} rounds")
    for column in ("part", "ms an image", "plain", "times as fast"):
        table.add_column(column, justify="left" if column == "part" else "right")
    rows = []
    for name, ways in parts().items():
        rounds = [[way(samples) for way in ways] for _ in range(args.rounds + 1)][1:]  # the first one warms up
        ms, plain = (statistics.median(spans) for spans in zip(*rounds, strict=True))
        ratio = statistics.median(b / a for a, b in rounds)
        rows.append({"part": name, "ms": ms, "plain_ms": plain, "ratio": ratio})
        table.add_row(name, f"{ms:.2f}", f"{plain:.2f}", f"{ratio:.1f}")
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
