"""Where a training step's time goes, beside the same step written plainly (benchmarks/plain).

Run: .venv/bin/python benchmarks/training.py --images FOLDER [--preset coco] [--batch-size 8] [--rounds 3]
     [--precision fp32,bf16] [--json FILE]

Both sides take the same photographs, weights and draws, in turns; their first losses stand in the table. The matrix
peak is what this machine reaches in one large product in the same run; a step's products are counted by torch.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms.v2 import functional as tv

sys.path.insert(0, str(Path(__file__).parent))
from plain.losses import plain_loss
from plain.step import plain_optimizer, plain_update
from plain.views import plain_views

from gtsa_kit.config import RunConfig, load_config
from gtsa_kit.data import derive_seed
from gtsa_kit.draws import draw
from gtsa_kit.images import find_images, open_image, read_file
from gtsa_kit.losses import gtsa_loss
from gtsa_kit.model import GTSA
from gtsa_kit.optim import clip_each, make_optimizer, set_hyperparameters
from gtsa_kit.pixels import decode
from gtsa_kit.precision import bf16_pays
from gtsa_kit.views import Views, collate, make_views

STAGES = (
    "student and teacher forward",
    "losses, forward and backward",
    "encoder and heads backward",
    "clip, AdamW, teacher",
)
OURS, PLAIN = "gtsa-kit", "plain"


@dataclass
class Clock:
    """Seconds by side and stage, one list entry a round."""

    spans: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def time(self, side: str, stage: str, work: Callable[[], Any]) -> Any:
        """Do it, and note how long it took."""
        begun = time.perf_counter()
        result = work()
        self.spans.setdefault((side, stage), []).append(time.perf_counter() - begun)
        return result

    def median(self, side: str, stage: str) -> float:
        """The first round warms up."""
        return statistics.median(self.spans[side, stage][1:])

    def ratio(self, stage: str) -> float:
        """Plain to ours, round by round."""
        pairs = zip(self.spans[PLAIN, stage][1:], self.spans[OURS, stage][1:], strict=True)
        return statistics.median(plain / ours for plain, ours in pairs)


def measure_views(paths: list[Path], config: RunConfig, rounds: int, clock: Clock) -> None:
    """A photograph at a time on one thread, decoding apart."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    images = [open_image(path) for path in paths]
    for _ in range(rounds + 1):
        clock.time(OURS, "decode", lambda: [decode(read_file(path), path.name) for path in paths])
        clock.time(OURS, "views", lambda: [ours(image, i, config) for i, image in enumerate(images)])
        clock.time(PLAIN, "decode", lambda: [Image.open(path).convert("RGB") for path in paths])
        clock.time(PLAIN, "views", lambda: [plainly(image, i, config) for i, image in enumerate(images)])
    torch.set_num_threads(threads)


def ours(image: Image.Image, index: int, config: RunConfig) -> Views:
    generator = torch.Generator().manual_seed(derive_seed(0, 0, index))
    return make_views(tv.pil_to_tensor(image), config.views, generator)


def plainly(image: Image.Image, index: int, config: RunConfig) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(derive_seed(0, 0, index))
    drawn = draw(image.height, image.width, config.views, generator)
    return [torch.tensor(view).permute(2, 0, 1).contiguous() for view in plain_views(image, drawn, config.views)]


@dataclass
class Side:
    """A model in training on one side."""

    name: str
    model: GTSA
    optimizer: torch.optim.Optimizer

    def step(self, views: Views, config: RunConfig, half: bool, clock: Clock) -> float:
        """One step, timed; the loss."""

        def forward() -> Any:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                return self.model(views)

        outputs = clock.time(self.name, STAGES[0], forward)
        held = outputs._replace(
            global_maps=outputs.global_maps.detach().requires_grad_(),
            local_maps=outputs.local_maps.detach().requires_grad_(),
            turn_logits=outputs.turn_logits.detach().requires_grad_(),
        )
        inputs = (held.global_maps, held.local_maps, held.turn_logits)

        def losses() -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
            alpha = config.loss.correspondence
            if self.name == OURS:
                loss = gtsa_loss(held, views.boxes, views.turns, config.loss, alpha).total
            else:
                loss = plain_loss(held, views, config.loss, alpha)
            return loss, torch.autograd.grad(loss, inputs)

        loss, gradients = clock.time(self.name, STAGES[1], losses)
        heads = [outputs.global_maps, outputs.local_maps, outputs.turn_logits]
        clock.time(self.name, STAGES[2], lambda: torch.autograd.backward(heads, list(gradients)))
        clock.time(self.name, STAGES[3], lambda: self.update(config))
        return float(loss.detach())

    def update(self, config: RunConfig) -> None:
        """Clipping, AdamW, teacher."""
        if self.name == PLAIN:
            return plain_update(self.model, self.optimizer, config)
        clip_each(self.model, config.optim.clip)
        set_hyperparameters(self.optimizer, 1e-4, 0.04)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return self.model.update_teacher(0.996)


def make_side(name: str, config: RunConfig) -> Side:
    torch.manual_seed(0)
    model = GTSA(config.model.model_copy(update={"drop_path": 0.0})).train()
    optimizer = make_optimizer(model, config.optim) if name == OURS else plain_optimizer(model, config)
    return Side(name, model, optimizer)


def measure_step(views: Views, config: RunConfig, rounds: int, half: bool, clock: Clock) -> tuple[float, float]:
    """Both sides in turns; the first losses."""
    sides = [make_side(OURS, config), make_side(PLAIN, config)]
    first = []
    for index in range(rounds + 1):
        for side in sides:
            loss = side.step(views, config, half, clock)
            if index == 0:
                first.append(loss)
    for name in (OURS, PLAIN):
        whole = [sum(parts) for parts in zip(*(clock.spans[name, stage] for stage in STAGES), strict=True)]
        clock.spans[name, "whole step"] = whole
    return first[0], first[1]


def products(views: Views, config: RunConfig) -> float:
    """Floating point operations of matrix products and convolutions in a step."""
    side = make_side(OURS, config)
    with FlopCounterMode(display=False) as counter:
        outputs = side.model(views)
        gtsa_loss(outputs, views.boxes, views.turns, config.loss, 0.5).total.backward()
    return float(counter.get_total_flops())


def matrix_peak(dtype: torch.dtype) -> float:
    """The most operations a second of a large matrix product in this process."""
    a, b = torch.randn(2048, 2048).to(dtype), torch.randn(2048, 2048).to(dtype)
    spans = []
    for _ in range(6):
        begun = time.perf_counter()
        torch.mm(a, b)
        spans.append(time.perf_counter() - begun)
    return float(2 * 2048**3 / min(spans))


def peak_memory() -> float:
    """MB of this process so far."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--preset", default="coco")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", help="fp32, bf16 or both; default: both where bf16 is not emulated")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    config = load_config(chosen.preset)
    paths = find_images(chosen.images).paths[:48]
    batch = collate([ours(open_image(path), i, config) for i, path in enumerate(paths[: chosen.batch_size])])
    asked = chosen.precision or ("fp32,bf16" if bf16_pays(torch.device("cpu")) else "fp32")
    clock = Clock()
    measure_views(paths, config, chosen.rounds, clock)
    tables = [rows_of_views(clock, len(paths))]
    operations = products(batch, config)
    for precision in asked.split(","):
        clock = Clock()
        half = precision == "bf16"
        losses = measure_step(batch, config, chosen.rounds, half, clock)
        peak = matrix_peak(torch.bfloat16 if half else torch.float32)
        tables.append(rows_of_step(clock, precision, chosen.batch_size, operations, peak, losses))
    console = Console()
    title = f"{chosen.preset}, {config.model.arch}, batch {chosen.batch_size}, {os.cpu_count()} cores"
    for rows in tables:
        console.print(as_table(title, rows))
    if chosen.json:
        chosen.json.write_text(json.dumps({"title": title, "tables": tables}, indent=2))


def rows_of_views(clock: Clock, count: int) -> list[dict[str, Any]]:
    return [
        {
            "part": f"{stage}, ms a photograph, one thread",
            OURS: 1e3 * clock.median(OURS, stage) / count,
            PLAIN: 1e3 * clock.median(PLAIN, stage) / count,
            "times as fast": clock.ratio(stage),
        }
        for stage in ("decode", "views")
    ]


def rows_of_step(
    clock: Clock, precision: str, batch: int, operations: float, peak: float, losses: tuple[float, float]
) -> list[dict[str, Any]]:
    whole = clock.median(OURS, "whole step")
    rows: list[dict[str, Any]] = [
        {
            "part": f"{precision}: {stage}, s",
            OURS: clock.median(OURS, stage),
            PLAIN: clock.median(PLAIN, stage),
            "times as fast": clock.ratio(stage),
            "share %": 100 * clock.median(OURS, stage) / whole,
        }
        for stage in (*STAGES, "whole step")
    ]
    shares = {name: 100 * operations / peak / clock.median(name, "whole step") for name in (OURS, PLAIN)}
    rows.append({"part": f"{precision}: % of the matrix peak, {peak / 1e9:.0f} GFLOP/s", **shares})
    rows.append(
        {"part": f"{precision}: photographs a second", **{n: batch / clock.median(n, "whole step") for n in shares}}
    )
    rows.append({"part": f"{precision}: first loss", OURS: losses[0], PLAIN: losses[1]})
    rows.append({"part": f"{precision}: peak memory of the process so far, MB", OURS: peak_memory()})
    return rows


def as_table(title: str, rows: list[dict[str, Any]]) -> Table:
    table = Table(title=title)
    columns = [name for name in ("part", OURS, PLAIN, "times as fast", "share %") if any(name in row for row in rows)]
    for column in columns:
        table.add_column(column, justify="left" if column == "part" else "right")
    for row in rows:
        table.add_row(*(row.get(c, "") if isinstance(row.get(c, ""), str) else f"{row[c]:.4g}" for c in columns))
    return table


if __name__ == "__main__":
    main()
