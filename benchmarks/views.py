"""Milliseconds per image on one thread for each part of augmentation, compared with plain Pillow and torchvision.

Both sides use the same images and parameters and alternate, so that other load of the machine affects both alike.
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
from gtsa_kit.data import color
from gtsa_kit.data.augment import apply_augmentations, crop_and_rotate
from gtsa_kit.data.augmentation_params import JITTER_STEPS, AugmentationParams, sample_augmentation
from gtsa_kit.data.decode import decode
from gtsa_kit.data.image_files import find_images
from gtsa_kit.data.image_io import open_image, read_file
from gtsa_kit.data.samples import derive_seed


@dataclass(frozen=True)
class Sample:
    """One image in the formats of both sides, and its augmentation parameters."""

    path: Path
    image: Image.Image
    pixels: Tensor
    params: AugmentationParams
    config: ViewsConfig

    @property
    def crops(self) -> list[tuple[list[int], int, int]]:
        """Box, rotation and size of every view."""
        sizes = [self.config.global_size] * self.config.global_crops
        sizes += [self.config.local_size] * (len(self.params.boxes) - len(sizes))
        return list(zip(self.params.boxes.tolist(), self.params.rotations.tolist(), sizes, strict=True))


def load_sample(path: Path, index: int, config: ViewsConfig) -> Sample:
    image = open_image(path)
    generator = torch.Generator().manual_seed(derive_seed(0, 0, index))
    params = sample_augmentation(image.height, image.width, config, generator)
    pixels = torch.from_numpy(decode(read_file(path), path.name)[0]).permute(2, 0, 1)  # layout of the workers
    return Sample(path, image, pixels, params, config)


def time_samples(run: Callable[[Sample], object]) -> Callable[[list[Sample]], float]:
    """Return a function that measures milliseconds per image."""

    def measure(samples: list[Sample]) -> float:
        begin = time.perf_counter()
        for sample in samples:
            run(sample)
        return 1e3 * (time.perf_counter() - begin) / len(samples)

    return measure


def time_views(run: Callable[[object, float], object], ours: bool, step: int) -> Callable[[list[Sample]], float]:
    """Return a function that measures one step of color augmentation (4: grayscale, 5: blur) on all views."""

    def measure(samples: list[Sample]) -> float:
        times = []
        for sample in samples[:4]:
            views = [plain_crop(sample.image, *crop) for crop in sample.crops]
            inputs = [np.ascontiguousarray(np.asarray(v).transpose(2, 0, 1)) if ours else v for v in views]
            is_jitter = step < len(JITTER_STEPS)
            factors = sample.params.colors.factors[:, step].tolist() if is_jitter else [1.05] * len(views)
            begin = time.perf_counter()
            for view, factor in zip(inputs, factors, strict=True):
                run(view, factor)
            times.append(time.perf_counter() - begin)
        return 1e3 * statistics.mean(times)

    return measure


def parts() -> dict[str, tuple[Callable[[list[Sample]], float], Callable[[list[Sample]], float]]]:
    """Return the measuring functions of both sides, ours first, by the name of the part."""
    ours = (color.adjust_brightness, color.adjust_contrast, color.adjust_saturation, color.adjust_hue)

    def both(sample: Sample) -> object:
        pixels, _ = decode(sample.path.read_bytes())
        params = sample_augmentation(*pixels.shape[:2], sample.config, torch.Generator().manual_seed(0))
        return apply_augmentations(torch.from_numpy(pixels).permute(2, 0, 1), sample.params, sample.config), params

    def both_plain(sample: Sample) -> object:
        params = sample_augmentation(sample.image.height, sample.image.width, sample.config, torch.Generator())
        return plain_views(open_image(sample.path), sample.params, sample.config), params

    sampling = time_samples(
        lambda p: sample_augmentation(*p.pixels.shape[-2:], p.config, torch.Generator().manual_seed(0))
    )
    table = {
        "decode": (time_samples(lambda p: decode(p.path.read_bytes())), time_samples(lambda p: open_image(p.path))),
        "sample parameters": (sampling, sampling),
        "crop, resize, rotate": (
            time_samples(lambda p: [crop_and_rotate(p.pixels, *crop) for crop in p.crops]),
            time_samples(lambda p: [plain_crop(p.image, *crop) for crop in p.crops]),
        ),
    }
    for index, name in enumerate(JITTER_STEPS):
        table[f"{name} of all views"] = time_views(ours[index], True, index), time_views(JITTER[index], False, index)
    table["gray of all views"] = (
        time_views(lambda v, _: color.to_grayscale(v), True, 4),
        time_views(lambda v, _: tv.rgb_to_grayscale(v, 3), False, 4),
    )
    table["blur of all views"] = (
        time_views(lambda v, sigma: color.gaussian_blur(v, sigma), True, 5),
        time_views(lambda v, sigma: v.filter(ImageFilter.GaussianBlur(sigma)), False, 5),
    )
    table["views"] = (
        time_samples(lambda p: apply_augmentations(p.pixels, p.params, p.config)),
        time_samples(lambda p: plain_views(p.image, p.params, p.config)),
    )
    table["decode, sample, views"] = time_samples(both), time_samples(both_plain)
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
    samples = [load_sample(path, i, config) for i, path in enumerate(find_images(args.images).paths[: args.count])]
    table = Table(title=f"{args.preset}, {len(samples)} images, one thread, median of {args.rounds} rounds")
    for column in ("part", "ms per image", "plain", "speedup"):
        table.add_column(column, justify="left" if column == "part" else "right")
    rows = []
    for name, sides in parts().items():
        rounds = [[measure(samples) for measure in sides] for _ in range(args.rounds + 1)][1:]  # the first one warms up
        ms, plain = (statistics.median(times) for times in zip(*rounds, strict=True))
        ratio = statistics.median(b / a for a, b in rounds)
        rows.append({"part": name, "ms": ms, "plain_ms": plain, "ratio": ratio})
        table.add_row(name, f"{ms:.2f}", f"{plain:.2f}", f"{ratio:.1f}")
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
