"""Milliseconds a photograph on one thread for each part of making views, against Pillow and torchvision called plainly.

Both do the same draws of the same photographs, in turns, so that whatever else the machine does meets both alike.
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
from gtsa_kit.data import color as colours
from gtsa_kit.data.augment import crop_and_turn, render
from gtsa_kit.data.augmentation_params import STEPS, Draws, draw
from gtsa_kit.data.decode import decode
from gtsa_kit.data.image_files import find_images
from gtsa_kit.data.image_io import open_image, read_file
from gtsa_kit.data.multicrop import derive_seed


@dataclass(frozen=True)
class Photograph:
    """One photograph in the form that either way takes, and what was drawn for it."""

    path: Path
    image: Image.Image
    pixels: Tensor
    draws: Draws
    config: ViewsConfig

    @property
    def crops(self) -> list[tuple[list[int], int, int]]:
        """Box, turn and size of every view."""
        sizes = [self.config.global_size] * self.config.global_crops
        sizes += [self.config.local_size] * (len(self.draws.boxes) - len(sizes))
        return list(zip(self.draws.boxes.tolist(), self.draws.turns.tolist(), sizes, strict=True))


def load(path: Path, index: int, config: ViewsConfig) -> Photograph:
    image = open_image(path)
    draws = draw(image.height, image.width, config, torch.Generator().manual_seed(derive_seed(0, 0, index)))
    pixels = torch.from_numpy(decode(read_file(path), path.name)[0]).permute(2, 0, 1)  # as the workers have it
    return Photograph(path, image, pixels, draws, config)


def of_each(work: Callable[[Photograph], object]) -> Callable[[list[Photograph]], float]:
    """Milliseconds a photograph."""

    def measure(photographs: list[Photograph]) -> float:
        begin = time.perf_counter()
        for photograph in photographs:
            work(photograph)
        return 1e3 * (time.perf_counter() - begin) / len(photographs)

    return measure


def of_views(work: Callable[[object, float], object], ours: bool, which: int) -> Callable[[list[Photograph]], float]:
    """The same of one step of jitter (grey 4, blur 5) done to all ten views, as if each were certain."""

    def measure(photographs: list[Photograph]) -> float:
        spans = []
        for photograph in photographs[:4]:
            views = [plain_crop(photograph.image, *crop) for crop in photograph.crops]
            given = [np.ascontiguousarray(np.asarray(v).transpose(2, 0, 1)) if ours else v for v in views]
            factors = photograph.draws.colours.factors[:, which].tolist() if which < len(STEPS) else [1.05] * len(views)
            begin = time.perf_counter()
            for view, factor in zip(given, factors, strict=True):
                work(view, factor)
            spans.append(time.perf_counter() - begin)
        return 1e3 * statistics.mean(spans)

    return measure


def parts() -> dict[str, tuple[Callable[[list[Photograph]], float], Callable[[list[Photograph]], float]]]:
    """Name to ours and the plain way."""
    ours = (colours.brighten, colours.contrast, colours.saturate, colours.turn_hue)

    def both(photograph: Photograph) -> object:
        pixels, _ = decode(photograph.path.read_bytes())
        draws = draw(*pixels.shape[:2], photograph.config, torch.Generator().manual_seed(0))
        return render(torch.from_numpy(pixels).permute(2, 0, 1), photograph.draws, photograph.config), draws

    def both_plain(photograph: Photograph) -> object:
        draws = draw(photograph.image.height, photograph.image.width, photograph.config, torch.Generator())
        return plain_views(open_image(photograph.path), photograph.draws, photograph.config), draws

    drawing = of_each(lambda p: draw(*p.pixels.shape[-2:], p.config, torch.Generator().manual_seed(0)))
    table = {
        "decode": (of_each(lambda p: decode(p.path.read_bytes())), of_each(lambda p: open_image(p.path))),
        "draw": (drawing, drawing),
        "crop, resize, turn": (
            of_each(lambda p: [crop_and_turn(p.pixels, *crop) for crop in p.crops]),
            of_each(lambda p: [plain_crop(p.image, *crop) for crop in p.crops]),
        ),
    }
    for index, name in enumerate(STEPS):
        table[f"{name} of all views"] = of_views(ours[index], True, index), of_views(JITTER[index], False, index)
    table["grey of all views"] = (
        of_views(lambda v, _: colours.to_grey(v), True, 4),
        of_views(lambda v, _: tv.rgb_to_grayscale(v, 3), False, 4),
    )
    table["blur of all views"] = (
        of_views(lambda v, sigma: colours.blur(v, sigma), True, 5),
        of_views(lambda v, sigma: v.filter(ImageFilter.GaussianBlur(sigma)), False, 5),
    )
    table["views, as drawn"] = (
        of_each(lambda p: render(p.pixels, p.draws, p.config)),
        of_each(lambda p: plain_views(p.image, p.draws, p.config)),
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
    photographs = [load(path, i, config) for i, path in enumerate(find_images(args.images).paths[: args.count])]
    table = Table(title=f"{args.preset}, {len(photographs)} photographs, one thread, median of {args.rounds} rounds")
    for column in ("part", "ms a photograph", "plain", "times as fast"):
        table.add_column(column, justify="left" if column == "part" else "right")
    rows = []
    for name, ways in parts().items():
        rounds = [[way(photographs) for way in ways] for _ in range(args.rounds + 1)][1:]  # the first one warms up
        ms, plain = (statistics.median(spans) for spans in zip(*rounds, strict=True))
        ratio = statistics.median(b / a for a, b in rounds)
        rows.append({"part": name, "ms": ms, "plain_ms": plain, "ratio": ratio})
        table.add_row(name, f"{ms:.2f}", f"{plain:.2f}", f"{ratio:.1f}")
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
