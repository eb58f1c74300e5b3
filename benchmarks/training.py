"""Time and memory of a training step, compared with a straightforward implementation (benchmarks/plain).

Run: .venv/bin/python benchmarks/training.py --images FOLDER [--preset coco] [--batch-size 8] [--rounds 3]
     [--precision fp32,bf16] [--memory-batch 64] [--device auto] [--step-only] [--set model.arch=vit_tiny]
     [--json FILE]

Both implementations alternate and get the same images, weights and random numbers; the table shows the first loss of
each. The matrix peak is the speed of one large matrix product in the same run; torch counts the operations of a step.
Memory is the number of bytes that the forward pass saves for the backward pass, and the peak of a process that runs one
step with --memory-batch images. On a GPU the gtsa-kit side is compiled and the plain side is not.
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
from plain.losses import plain_loss
from plain.step import plain_optimizer, plain_update
from plain.views import plain_views
from saved_activations import saved_activation_bytes

from gtsa_kit.config import RunConfig, load_config, parse_overrides
from gtsa_kit.data.augment import Views, collate, make_views
from gtsa_kit.data.augmentation_params import sample_augmentation
from gtsa_kit.data.decode import decode
from gtsa_kit.data.image_files import find_images
from gtsa_kit.data.image_io import open_image, read_file
from gtsa_kit.data.samples import derive_seed
from gtsa_kit.export.benchmark.workers import memory_mb
from gtsa_kit.hardware import should_compile, should_use_bf16, should_use_fused_attention
from gtsa_kit.methods import make_method
from gtsa_kit.methods.base import Method, TrainSchedule
from gtsa_kit.methods.gtsa import GTSA
from gtsa_kit.methods.gtsa_losses import correspondence_loss, gtsa_loss, region_loss, roi_sizes
from gtsa_kit.models.encoder_spec import EncoderSpec
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
    """Seconds by side and stage, one list entry per round."""

    device: str = "cpu"
    spans: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def time(self, side: str, stage: str, work: Callable[[], Any]) -> Any:
        """Call `work`, record its duration and return its result."""
        start = time.perf_counter()
        result = work()
        if self.device == "cuda":
            torch.cuda.synchronize()
        self.spans.setdefault((side, stage), []).append(time.perf_counter() - start)
        return result

    def median(self, side: str, stage: str) -> float:
        """Return the median over all rounds but the first, which is a warm-up."""
        return statistics.median(self.spans[side, stage][1:])

    def ratio(self, stage: str) -> float:
        """Return the median ratio of plain time to gtsa-kit time, computed round by round."""
        pairs = zip(self.spans[PLAIN, stage][1:], self.spans[OURS, stage][1:], strict=True)
        return statistics.median(plain / ours for plain, ours in pairs)


def measure_views(paths: list[Path], config: RunConfig, rounds: int, clock: Clock) -> None:
    """Time decoding and augmentation, image by image on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    images = [open_image(path) for path in paths]
    decoded = [load(path) for path in paths]
    for _ in range(rounds + 1):
        clock.time(OURS, "decode", lambda: [decode(read_file(path), path.name) for path in paths])
        clock.time(OURS, "views", lambda: [make_our_views(pixels, i, config) for i, pixels in enumerate(decoded)])
        clock.time(PLAIN, "decode", lambda: [Image.open(path).convert("RGB") for path in paths])
        clock.time(PLAIN, "views", lambda: [make_plain_views(image, i, config) for i, image in enumerate(images)])
    torch.set_num_threads(threads)


def load(path: Path) -> torch.Tensor:
    """Decode an image to (3, H, W) uint8 as the workers do."""
    return torch.from_numpy(decode(read_file(path), path.name)[0]).permute(2, 0, 1)


def make_our_views(pixels: torch.Tensor, index: int, config: RunConfig) -> Views:
    """Make the views of a decoded image with gtsa-kit."""
    generator = torch.Generator().manual_seed(derive_seed(0, 0, index))
    return make_views(pixels, config.views, generator)


def make_plain_views(image: Image.Image, index: int, config: RunConfig) -> list[torch.Tensor]:
    """Make the same views with Pillow and torchvision."""
    generator = torch.Generator().manual_seed(derive_seed(0, 0, index))
    params = sample_augmentation(image.height, image.width, config.views, generator)
    return [torch.tensor(view).permute(2, 0, 1).contiguous() for view in plain_views(image, params, config.views)]


@dataclass
class Side:
    """Model and optimizer of one of the two implementations."""

    name: str
    model: GTSA
    optimizer: torch.optim.Optimizer

    def step(self, views: Views, config: RunConfig, half: bool, clock: Clock) -> float:
        """Run one step, record the time of each stage, and return the loss."""

        def forward() -> Any:
            with torch.autocast(views.boxes.device.type, torch.bfloat16, enabled=half):
                return self.model(views)

        outputs = clock.time(self.name, STAGES[0], forward)
        detached = outputs._replace(
            global_maps=outputs.global_maps.detach().requires_grad_(),
            local_maps=outputs.local_maps.detach().requires_grad_(),
            rotation_logits=outputs.rotation_logits.detach().requires_grad_(),
        )
        inputs = (detached.global_maps, detached.local_maps, detached.rotation_logits)

        def losses() -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
            alpha = config.loss.correspondence_weight
            if self.name == OURS:
                loss = gtsa_loss(*detached[:4], views.boxes, views.rotations, config.loss, alpha).total
            else:
                loss = plain_loss(detached, views, config.loss, alpha)
            return loss, torch.autograd.grad(loss, inputs)

        loss, gradients = clock.time(self.name, STAGES[1], losses)
        heads = [outputs.global_maps, outputs.local_maps, outputs.rotation_logits]
        clock.time(self.name, STAGES[2], lambda: torch.autograd.backward(heads, list(gradients)))
        clock.time(self.name, STAGES[3], lambda: self.update(config))
        return float(loss.detach())

    def update(self, config: RunConfig) -> None:
        """Clip gradients, update the student with AdamW, then the teacher."""
        if self.name == PLAIN:
            return plain_update(self.model, self.optimizer, config)
        clip_grad_norm_per_parameter(self.model, config.optim.clip_grad_norm)
        set_hyperparameters(self.optimizer, 1e-4, 0.04)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return self.model.update_teacher(0.996)


def make_side(name: str, config: RunConfig, device: torch.device, half: bool) -> Side:
    """Build model and optimizer of one side, the gtsa-kit side as the trainer does."""
    torch.manual_seed(0)
    config = config.model_copy(update={"model": config.model.model_copy(update={"drop_path": 0.0})})
    model = GTSA(config, EncoderSpec.named(config.model.arch)).train().to(device)
    if name == OURS and not should_use_fused_attention(device, half):
        model.use_unfused_attention()
    if name == OURS and should_compile(device):
        model.compile_branches()
    optimizer = make_optimizer(model, config.optim) if name == OURS else plain_optimizer(model, config)
    return Side(name, model, optimizer)


def measure_step(views: Views, config: RunConfig, rounds: int, half: bool, clock: Clock) -> tuple[float, float]:
    """Time steps of both sides alternately and return their first losses."""
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


def count_operations(model: Method, views: Views) -> float:
    """Count the floating point operations of matrix products and convolutions in a step, for each image.

    Two images are enough, and their memory is not much: nothing is compiled or in lower precision here.
    """
    few = Views(*(tensor[:2] for tensor in views))
    values = {name: float(v[-1]) for name, v in model.schedules(TrainSchedule(1, 1, 1, 0)).items()}
    with FlopCounterMode(display=False) as counter:
        model.loss(model(few), few, values)[0].backward()
    return float(counter.get_total_flops()) / len(few.boxes)


def matrix_peak(dtype: torch.dtype, device: torch.device) -> float:
    """Measure the peak of a large matrix product in operations per second."""
    side, clock = (8192 if device.type == "cuda" else 2048), Clock(device.type)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    for _ in range(12):
        clock.time(OURS, "product", lambda: torch.mm(a, b))
    return float(2 * side**3 / min(clock.spans[OURS, "product"]))


def memory_rows(views: Views, config: RunConfig, half: bool) -> list[dict[str, Any]]:
    """Measure the MB per image that each part of the forward pass saves."""
    model, count = make_side(OURS, config, views.boxes.device, half).model, len(views.boxes)
    rows = []
    for activation_checkpointing in (False, True):
        model.student.encoder.activation_checkpointing = activation_checkpointing
        with torch.autocast(views.boxes.device.type, torch.bfloat16, enabled=half):
            megabytes = saved_activation_bytes(model, lambda: model(views)) / count / 1e6
        rows.append(
            {"part": "encoder and heads" + (", blocks recomputed" if activation_checkpointing else ""), OURS: megabytes}
        )
    outputs = model(views)
    maps = [maps.detach().requires_grad_() for maps in (outputs.global_maps, outputs.local_maps)]
    sizes = roi_sizes(config.loss, *maps)
    losses = {
        "region loss": lambda: region_loss(*maps, outputs.targets, views.boxes, views.rotations, sizes),
        "patch correspondence": lambda: correspondence_loss(*maps, outputs.targets, config.loss.match_fraction),
    }
    rows += [{"part": name, OURS: saved_activation_bytes(model, work) / count / 1e6} for name, work in losses.items()]
    precision = "bf16" if half else "fp32"
    return [row | {"part": f"{precision}: saved for backward, MB per image: {row['part']}"} for row in rows]


def peak_of_step(config: RunConfig, batch: int, half: bool, device: torch.device) -> float:
    """Measure the peak memory of a step in MB, without the model, in a new process."""
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
        allocated = torch.cuda.memory_allocated()
        side.step(views, config, half, Clock(device.type))
        return float(torch.cuda.max_memory_allocated() - allocated) / 1e6
    before = memory_mb("VmRSS") or 0.0
    side.step(views, config, half, Clock())
    return (memory_mb("VmHWM") or float("nan")) - before  # getrusage includes the parent process


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--preset", default="coco")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", help="fp32, bf16 or both; default: both if this machine is fast in bf16")
    parser.add_argument("--memory-batch", type=int, default=0, help="images of the step whose peak memory is measured")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--step-only", action="store_true", help="no table of views, and no memory of parts")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the run")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    config = load_config(args.preset, overrides=parse_overrides(args.set))
    paths = find_images(args.images).paths[:48]
    device = torch.device(args.device if args.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    decoded = [load(path) for path in paths]
    views = [make_our_views(decoded[i % len(paths)], i, config) for i in range(args.batch_size)]
    batch = collate(views).to(device)
    precisions = args.precision or ("fp32,bf16" if should_use_bf16(device) else "fp32")
    tables = []
    if not args.step_only:
        clock = Clock()
        measure_views(paths, config, args.rounds, clock)
        tables.append(view_rows(clock, len(paths)))
    operations = args.batch_size * count_operations(make_method(config).train().to(device), batch)
    for precision in precisions.split(","):
        clock = Clock(device.type)
        half = precision == "bf16"
        losses = measure_step(batch, config, args.rounds, half, clock)
        peak = matrix_peak(torch.bfloat16 if half else torch.float32, device)
        rows = step_rows(clock, precision, args.batch_size, operations, peak, losses)
        if not args.step_only:
            rows += memory_rows(batch, config, half)
        if args.memory_batch:
            megabytes = peak_of_step(config, args.memory_batch, half, device) / args.memory_batch
            rows.append({"part": f"{precision}: peak of a step of {args.memory_batch}, MB per image", OURS: megabytes})
        tables.append(rows)
    console = Console()
    machine = torch.cuda.get_device_name() if device.type == "cuda" else f"{os.cpu_count()} cores"
    title = f"{args.preset}, {config.model.arch}, batch {args.batch_size}, {machine}"
    for rows in tables:
        console.print(as_table(title, rows))
    if args.json:
        args.json.write_text(json.dumps({"title": title, "tables": tables}, indent=2))


def view_rows(clock: Clock, count: int) -> list[dict[str, Any]]:
    return [
        {
            "part": f"{stage}, ms per image, one thread",
            OURS: 1e3 * clock.median(OURS, stage) / count,
            PLAIN: 1e3 * clock.median(PLAIN, stage) / count,
            "speedup": clock.ratio(stage),
        }
        for stage in ("decode", "views")
    ]


def step_rows(
    clock: Clock, precision: str, batch: int, operations: float, peak: float, losses: tuple[float, float]
) -> list[dict[str, Any]]:
    whole = clock.median(OURS, "whole step")
    rows: list[dict[str, Any]] = [
        {
            "part": f"{precision}: {stage}, s",
            OURS: clock.median(OURS, stage),
            PLAIN: clock.median(PLAIN, stage),
            "speedup": clock.ratio(stage),
            "share %": 100 * clock.median(OURS, stage) / whole,
        }
        for stage in (*STAGES, "whole step")
    ]
    shares = {name: 100 * operations / peak / clock.median(name, "whole step") for name in (OURS, PLAIN)}
    rows.append({"part": f"{precision}: % of the matrix peak, {peak / 1e9:.0f} GFLOP/s", **shares})
    rows.append(
        {"part": f"{precision}: images per second", **{n: batch / clock.median(n, "whole step") for n in shares}}
    )
    rows.append({"part": f"{precision}: first loss", OURS: losses[0], PLAIN: losses[1]})
    return rows


def as_table(title: str, rows: list[dict[str, Any]]) -> Table:
    table = Table(title=title)
    columns = [name for name in ("part", OURS, PLAIN, "speedup", "share %") if any(name in row for row in rows)]
    for column in columns:
        table.add_column(column, justify="left" if column == "part" else "right")
    for row in rows:
        table.add_row(*(row.get(c, "") if isinstance(row.get(c, ""), str) else f"{row[c]:.4g}" for c in columns))
    return table


if __name__ == "__main__":
    main()
