"""Images per second of the view pipeline alone (one core) and of the training step (all cores).

Run: .venv/bin/python benchmarks/training.py --images FOLDER [--preset coco] [--batch-size 8] [--json FILE]
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from lightning_fabric import Fabric
from rich.console import Console
from rich.table import Table
from torchvision.transforms.v2 import functional as tv

from gtsa_kit.config import RunConfig, load_config
from gtsa_kit.data import derive_seed
from gtsa_kit.images import find_images, open_image
from gtsa_kit.losses import gtsa_loss
from gtsa_kit.model import GTSA
from gtsa_kit.optim import clip_each, make_optimizer, set_hyperparameters
from gtsa_kit.views import Views, collate, make_views


def seconds(work: Callable[[], object], rounds: int) -> float:
    """Median over rounds, after one that warms up."""
    work()
    spans = []
    for _ in range(rounds):
        begin = time.perf_counter()
        work()
        spans.append(time.perf_counter() - begin)
    return statistics.median(spans)


def measure_views(paths: list[Path], config: RunConfig) -> tuple[float, float]:
    """Seconds a photograph, on one thread: decoding alone, and decoding with all views."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    generator = torch.Generator()

    def decode() -> list[torch.Tensor]:
        return [tv.pil_to_tensor(open_image(path)) for path in paths]

    def views() -> None:
        for index, path in enumerate(paths):
            generator.manual_seed(derive_seed(0, 0, index))
            make_views(tv.pil_to_tensor(open_image(path)), config.views, generator)

    result = seconds(decode, 3) / len(paths), seconds(views, 3) / len(paths)
    torch.set_num_threads(threads)
    return result


def measure_step(views: Views, config: RunConfig, rounds: int) -> dict[str, float]:
    """Seconds of each part of a step, and of the whole."""
    torch.manual_seed(0)
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    model = GTSA(config.model)
    optimizer = make_optimizer(model, config.optim)
    wrapped, optimizer = fabric.setup(model, optimizer)
    parts: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[[], object]) -> object:
        begin = time.perf_counter()
        result = work()
        parts.setdefault(name, []).append(time.perf_counter() - begin)
        return result

    def step() -> None:
        outputs = timed("student and teacher forward", lambda: wrapped(views))
        losses = timed("losses", lambda: gtsa_loss(outputs, views.boxes, views.turns, config.loss, 0.5))
        timed("backward", lambda: fabric.backward(losses.total))

        def update() -> None:
            clip_each(model, config.optim.clip)
            set_hyperparameters(optimizer, 1e-4, 0.04)
            optimizer.step()
            optimizer.zero_grad()
            model.update_teacher(0.996)

        timed("clip, AdamW, teacher", update)

    whole = seconds(step, rounds)
    return {name: statistics.median(spans[1:]) for name, spans in parts.items()} | {"whole step": whole}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--preset", default="coco")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    config = load_config(args.preset)
    paths = find_images(args.images).paths[:64]
    decode, views = measure_views(paths, config)
    generator = torch.Generator().manual_seed(0)
    batch = collate(
        [make_views(tv.pil_to_tensor(open_image(p)), config.views, generator) for p in paths[: args.batch_size]]
    )
    parts = measure_step(batch, config, args.rounds)
    rows = [("decode, one thread", 1e3 * decode, 1 / decode), ("decode and views, one thread", 1e3 * views, 1 / views)]
    rows += [(name, 1e3 * t / args.batch_size, args.batch_size / t) for name, t in parts.items()]
    table = Table(title=f"{args.preset}, {config.model.arch}, float32, batch {args.batch_size}, {os.cpu_count()} cores")
    for column in ("part", "ms a photograph", "photographs a second"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for name, ms, rate in rows:
        table.add_row(name, f"{ms:.1f}", f"{rate:.2f}")
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps([{"part": n, "ms": ms, "per_second": rate} for n, ms, rate in rows], indent=2))


if __name__ == "__main__":
    main()
