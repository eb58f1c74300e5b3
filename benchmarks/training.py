"""Where a training step's time goes, beside the same step written plainly (benchmarks/plain).

Run: .venv/bin/python benchmarks/training.py --images FOLDER [--preset coco] [--batch-size 8] [--rounds 3]
     [--precision fp32,bf16] [--memory-batch 64] [--device auto] [--json FILE]

Both sides take the same images, weights and draws, in turns; their first losses stand in the table. The matrix
peak is what this machine reaches in one large product in the same run; a step's products are counted by torch. Memory
is what the forward pass keeps for the backward pass, counted, and what a process that takes one step of --memory-batch
images occupies at most. On a GPU our side is compiled, and the plain one is not.
"""

import argparse
import json
import multiprocessing
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

sys.path.insert(0, str(Path(__file__).parent))
from kept import kept_bytes
from plain.losses import plain_loss
from plain.step import plain_optimizer, plain_update
from plain.views import plain_views

from gtsa_kit.config import RunConfig, load_config
from gtsa_kit.data.augment import Views, collate, make_views
from gtsa_kit.data.augmentation_params import sample_augmentation
from gtsa_kit.data.decode import decode
from gtsa_kit.data.image_files import find_images
from gtsa_kit.data.image_io import open_image, read_file
from gtsa_kit.data.multicrop import derive_seed
from gtsa_kit.export.benchmark.workers import memory_mb
from gtsa_kit.hardware import should_compile, should_use_bf16, should_use_fused_attention
from gtsa_kit.methods.gtsa import GTSA
from gtsa_kit.methods.gtsa_losses import correspondence_loss, gtsa_loss, region_loss
from gtsa_kit.training.optim import clip_grad_norm_per_parameter, make_optimizer, set_hyperparameters

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

    device: str = "cpu"
    spans: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def time(self, side: str, stage: str, work: Callable[[], Any]) -> Any:
        """Do it, and note how long it took."""
        begun = time.perf_counter()
        result = work()
        if self.device == "cuda":
            torch.cuda.synchronize()
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
    """An image at a time on one thread, decoding apart."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    images = [open_image(path) for path in paths]
    decoded = [load(path) for path in paths]
    for _ in range(rounds + 1):
        clock.time(OURS, "decode", lambda: [decode(read_file(path), path.name) for path in paths])
        clock.time(OURS, "views", lambda: [ours(pixels, i, config) for i, pixels in enumerate(decoded)])
        clock.time(PLAIN, "decode", lambda: [Image.open(path).convert("RGB") for path in paths])
        clock.time(PLAIN, "views", lambda: [plainly(image, i, config) for i, image in enumerate(images)])
    torch.set_num_threads(threads)


def load(path: Path) -> torch.Tensor:
    """(3, H, W) uint8, as the workers have it."""
    return torch.from_numpy(decode(read_file(path), path.name)[0]).permute(2, 0, 1)


def ours(pixels: torch.Tensor, index: int, config: RunConfig) -> Views:
    generator = torch.Generator().manual_seed(derive_seed(0, 0, index))
    return make_views(pixels, config.views, generator)


def plainly(image: Image.Image, index: int, config: RunConfig) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(derive_seed(0, 0, index))
    drawn = sample_augmentation(image.height, image.width, config.views, generator)
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
            with torch.autocast(views.boxes.device.type, torch.bfloat16, enabled=half):
                return self.model(views)

        outputs = clock.time(self.name, STAGES[0], forward)
        held = outputs._replace(
            global_maps=outputs.global_maps.detach().requires_grad_(),
            local_maps=outputs.local_maps.detach().requires_grad_(),
            rotation_logits=outputs.rotation_logits.detach().requires_grad_(),
        )
        inputs = (held.global_maps, held.local_maps, held.rotation_logits)

        def losses() -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
            alpha = config.loss.correspondence_weight
            if self.name == OURS:
                loss = gtsa_loss(*held[:4], views.boxes, views.rotations, config.loss, alpha).total
            else:
                loss = plain_loss(held, views, config.loss, alpha)
            return loss, torch.autograd.grad(loss, inputs)

        loss, gradients = clock.time(self.name, STAGES[1], losses)
        heads = [outputs.global_maps, outputs.local_maps, outputs.rotation_logits]
        clock.time(self.name, STAGES[2], lambda: torch.autograd.backward(heads, list(gradients)))
        clock.time(self.name, STAGES[3], lambda: self.update(config))
        return float(loss.detach())

    def update(self, config: RunConfig) -> None:
        """Clipping, AdamW, teacher."""
        if self.name == PLAIN:
            return plain_update(self.model, self.optimizer, config)
        clip_grad_norm_per_parameter(self.model, config.optim.clip_grad_norm)
        set_hyperparameters(self.optimizer, 1e-4, 0.04)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return self.model.update_teacher(0.996)


def make_side(name: str, config: RunConfig, device: torch.device, half: bool) -> Side:
    """As the trainer makes it, or plainly."""
    torch.manual_seed(0)
    config = config.model_copy(update={"model": config.model.model_copy(update={"drop_path": 0.0})})
    model = GTSA(config).train().to(device)
    if name == OURS and not should_use_fused_attention(device, half):
        model.use_unfused_attention()
    if name == OURS and should_compile(device):
        model.compile_branches()
    optimizer = make_optimizer(model, config.optim) if name == OURS else plain_optimizer(model, config)
    return Side(name, model, optimizer)


def measure_step(views: Views, config: RunConfig, rounds: int, half: bool, clock: Clock) -> tuple[float, float]:
    """Both sides in turns; the first losses."""
    device = views.boxes.device
    sides = [make_side(name, config, device, half) for name in (OURS, PLAIN)]
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
    side = make_side(PLAIN, config, views.boxes.device, half=False)
    with FlopCounterMode(display=False) as counter:
        outputs = side.model(views)
        gtsa_loss(*outputs[:4], views.boxes, views.rotations, config.loss, 0.5).total.backward()
    return float(counter.get_total_flops())


def matrix_peak(dtype: torch.dtype, device: torch.device) -> float:
    """The most operations a second of a large matrix product in this process."""
    side, clock = (8192 if device.type == "cuda" else 2048), Clock(device.type)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    for _ in range(12):
        clock.time(OURS, "product", lambda: torch.mm(a, b))
    return float(2 * side**3 / min(clock.spans[OURS, "product"]))


def rows_of_memory(views: Views, config: RunConfig, half: bool) -> list[dict[str, Any]]:
    """MB an image of each part of the forward pass."""
    model, count = make_side(OURS, config, views.boxes.device, half).model, len(views.boxes)
    rows = []
    for activation_checkpointing in (False, True):
        model.student.encoder.activation_checkpointing = activation_checkpointing
        with torch.autocast(views.boxes.device.type, torch.bfloat16, enabled=half):
            mega = kept_bytes(model, lambda: model(views)) / count / 1e6
        rows.append(
            {"part": "encoder and heads" + (", blocks recomputed" if activation_checkpointing else ""), OURS: mega}
        )
    outputs = model(views)
    held = [maps.detach().requires_grad_() for maps in (outputs.global_maps, outputs.local_maps)]
    cells = (config.loss.roi_size_global, config.loss.roi_size_local)
    losses = {
        "region loss": lambda: region_loss(*held, outputs.targets, views.boxes, views.rotations, cells),
        "patch correspondence": lambda: correspondence_loss(*held, outputs.targets, config.loss.match_fraction),
    }
    rows += [{"part": name, OURS: kept_bytes(model, work) / count / 1e6} for name, work in losses.items()]
    said = "bf16" if half else "fp32"
    return [row | {"part": f"{said}: kept for backward, MB an image: {row['part']}"} for row in rows]


def peak_of_step(config: RunConfig, batch: int, half: bool, device: torch.device) -> float:
    """MB that a step takes at most beyond what the process had with the model in memory; in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_of_step, (config, batch, half, device))


def _peak_of_step(config: RunConfig, batch: int, half: bool, device: torch.device) -> float:
    side, count = make_side(OURS, config, device, half), config.views.global_crops + config.views.local_crops
    views = Views(
        torch.randint(
            0,
            256,
            (batch, config.views.global_crops, 3, config.views.global_size, config.views.global_size),
            dtype=torch.uint8,
        ),
        torch.randint(
            0,
            256,
            (batch, config.views.local_crops, 3, config.views.local_size, config.views.local_size),
            dtype=torch.uint8,
        ),
        torch.tensor([0.0, 0, 100, 100]).repeat(batch, count, 1),
        torch.randint(4, (batch, count)),
    )
    views = views.to(device)
    if device.type == "cuda":
        held = torch.cuda.memory_allocated()
        side.step(views, config, half, Clock(device.type))
        return float(torch.cuda.max_memory_allocated() - held) / 1e6
    before = memory_mb("VmRSS") or 0.0
    side.step(views, config, half, Clock())
    return (memory_mb("VmHWM") or float("nan")) - before  # getrusage would tell of the parent process's too


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--preset", default="coco")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", help="fp32, bf16 or both; default: both where bf16 is not emulated")
    parser.add_argument("--memory-batch", type=int, default=0, help="images of a step whose peak is measured")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    config = load_config(chosen.preset)
    paths = find_images(chosen.images).paths[:48]
    device = torch.device(chosen.device if chosen.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    batch = collate([ours(load(path), i, config) for i, path in enumerate(paths[: chosen.batch_size])]).to(device)
    asked = chosen.precision or ("fp32,bf16" if should_use_bf16(device) else "fp32")
    clock = Clock()
    measure_views(paths, config, chosen.rounds, clock)
    tables = [rows_of_views(clock, len(paths))]
    operations = products(batch, config)
    for precision in asked.split(","):
        clock = Clock(device.type)
        half = precision == "bf16"
        losses = measure_step(batch, config, chosen.rounds, half, clock)
        peak = matrix_peak(torch.bfloat16 if half else torch.float32, device)
        rows = rows_of_step(clock, precision, chosen.batch_size, operations, peak, losses)
        rows += rows_of_memory(batch, config, half)
        if chosen.memory_batch:
            mega = peak_of_step(config, chosen.memory_batch, half, device) / chosen.memory_batch
            rows.append({"part": f"{precision}: peak of a step of {chosen.memory_batch}, MB an image", OURS: mega})
        tables.append(rows)
    console = Console()
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{os.cpu_count()} cores"
    title = f"{chosen.preset}, {config.model.arch}, batch {chosen.batch_size}, {where}"
    for rows in tables:
        console.print(as_table(title, rows))
    if chosen.json:
        chosen.json.write_text(json.dumps({"title": title, "tables": tables}, indent=2))


def rows_of_views(clock: Clock, count: int) -> list[dict[str, Any]]:
    return [
        {
            "part": f"{stage}, ms an image, one thread",
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
    rows.append({"part": f"{precision}: images a second", **{n: batch / clock.median(n, "whole step") for n in shares}})
    rows.append({"part": f"{precision}: first loss", OURS: losses[0], PLAIN: losses[1]})
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
