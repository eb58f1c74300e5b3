"""Speed and memory of training steps."""

import json
import statistics
from typing import Any

from gpu.part import Context

NEEDS = ("timm", "pydantic", "lightning_fabric", "PIL", "rich")
AIM = 45.0
"""Share of the measured bf16 peak to reach, in percent."""
STEPS, WARM_UP_ROWS = 60, 4


def run(context: Context) -> None:
    """Measure the step beside the plain one, whole runs with views on both devices, memory by batch, and DINO."""
    compare_with_plain(context)
    for device in ("device", "cpu"):
        measure_run(context, "gtsa", device)
    measure_memory(context)
    if not context.lacks(["lightly"], "--method dino"):
        measure_run(context, "dino", "device")
        measure_lightly_train(context)


def compare_with_plain(context: Context) -> None:
    """Time the step beside the straightforward one (benchmarks/training.py)."""
    precision, batch, rounds = ("bf16", 64, 8) if not context.tiny else ("fp32", 2, 1)
    options = ["--images", context.images, "--device", context.device, "--precision", precision]
    options += ["--batch-size", batch, "--rounds", rounds, "--preset", "quick" if context.tiny else "coco"]
    content = context.run("training.py", options)
    for row in (row for rows in content["tables"] for row in rows):
        name = row["part"]
        if "% of the matrix peak" in name:
            context.add(f"step: {name}", row["gtsa-kit"], "%", aim=f"{AIM:.0f} %", note=f"plain {row['plain']:.1f} %")
        elif "images per second" in name or "whole step" in name:
            note = f"plain {row['plain']:.4g}" + (f", speedup {row['speedup']:.2f}" if "speedup" in row else "")
            context.add(f"step: {name}", row["gtsa-kit"], note=note)
        elif "first loss" in name:
            difference = abs(row["gtsa-kit"] - row["plain"])
            context.add(f"step: {name}", row["gtsa-kit"], ok=difference < 0.02, note=f"plain {row['plain']:.5g}")


def measure_run(context: Context, method: str, augment_on: str) -> None:
    """Train a short run as `gtsa train` does, and read rate, data wait and peak memory."""
    import torch

    from gtsa_kit import pretrain

    out = context.work / f"{method}-{augment_on}"
    settings = run_settings(context) | {"train.augment_on": augment_on}
    if context.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    pretrain(context.images, out, preset="quick" if context.tiny else "coco", method=method, settings=settings)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steady = rows[WARM_UP_ROWS:] or rows
    rate = statistics.median(row["images_per_second"] for row in steady)
    wait = statistics.median(row["data_wait"] for row in steady)
    note = f"batch {settings['train.batch_size']}, {100 * wait:.0f} % of the time waits for images"
    if context.device == "cuda":
        note += f", peak {torch.cuda.max_memory_allocated() / 1e9:.1f} GB"
    context.add(f"run of {method}, views made on the {augment_on}", rate, "images/s", note=note)


def run_settings(context: Context) -> dict[str, Any]:
    """Return the settings of a short run."""
    if context.tiny:
        return {
            "model.arch": "vit_test",
            "train.batch_size": 4,
            "train.steps": 3,
            "train.workers": 0,
            "train.log_every": 1,
        }
    return {
        "train.batch_size": 256,
        "train.steps": STEPS,
        "train.log_every": 4,
        "train.precision": "bf16",
        "optim.warmup_epochs": 0,
    }


def measure_memory(context: Context) -> None:
    """Measure the peak memory of a step at several batch sizes, each in a process of its own."""
    import torch
    from training import peak_of_step

    from gtsa_kit.config import load_config

    config = load_config("quick" if context.tiny else "coco")
    for batch in (2,) if context.tiny else (64, 128, 256, 512):
        try:
            megabytes = peak_of_step(config, batch, not context.tiny, torch.device(context.device))
        except RuntimeError as error:  # out of memory on a smaller card
            context.add(f"peak memory, batch {batch}", note=str(error).splitlines()[0])
            return
        context.add(f"peak memory, batch {batch}", megabytes / batch, "MB an image")


def measure_lightly_train(context: Context) -> None:
    """Train DINO by lightly-train with the same model, batch and number of steps, where it is installed."""
    if context.lacks(["lightly_train"], "DINO beside lightly-train's"):
        return
    import time

    import lightly_train

    seconds = {}
    for steps in (STEPS // 2, STEPS):  # the difference of two lengths leaves out the start
        started = time.monotonic()
        lightly_train.train(
            out=context.work / f"lightly-train-{steps}",
            data=context.images,
            model="timm/vit_small_patch16_224",
            method="dino",
            batch_size=run_settings(context)["train.batch_size"],
            steps=steps,
            precision="bf16-mixed",
            overwrite=True,
        )
        seconds[steps] = time.monotonic() - started
    rate = run_settings(context)["train.batch_size"] * STEPS / 2 / (seconds[STEPS] - seconds[STEPS // 2])
    context.add("run of lightly-train's DINO", rate, "images/s")
