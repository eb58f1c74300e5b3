"""Speed and memory of training steps."""

import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

from gpu.part import Context

NEEDS = ("timm", "pydantic", "lightning_fabric", "PIL", "rich", "safetensors", "matplotlib", "tensorboard")
AIM = "45 %"
"""Share of the measured bf16 peak to reach."""
STEPS, LOG_EVERY, WARM_UP_ROWS = 60, 4, 4
SECONDS_TO_COMPILE = 40
"""Seconds that a measurement needs on a GPU before it has a result, roughly."""
LARGE_MEMORY = 60e9
"""Bytes of GPU memory from which on batches are as large as in the paper's runs."""
TINY = {
    "model.arch": "vit_test",
    "model.projector_dim": 32,
    "views.global_size": 64,
    "views.local_size": 32,
    "loss.roi_size_global": 4,
    "loss.roi_size_local": 2,
}


def run(context: Context) -> None:
    """Measure the step beside the plain one, whole runs with views on both devices, DINO, and memory by batch."""
    compare_with_plain(context)
    peak = measure_peak(context)
    for augment_on in ("device", "cpu"):
        measure_run(context, "gtsa", augment_on, peak)
    methods = ["gtsa"] if context.lacks(["lightly"], "--method dino") else ["gtsa", "dino"]
    if "dino" in methods:
        for augment_on in ("device", "cpu"):
            measure_run(context, "dino", augment_on, peak)
        measure_lightly_train(context)
    for method in methods:
        measure_memory(context, method)


def compare_with_plain(context: Context) -> None:
    """Time the step beside the straightforward one (benchmarks/training.py)."""
    rounds, precision, preset = (1, "fp32", "quick") if context.tiny else (20, "bf16", "coco")
    batch = run_settings(context)["train.batch_size"]
    options = ["--images", context.images, "--device", context.device, "--precision", precision, "--step-only"]
    options += ["--batch-size", batch, "--rounds", rounds, "--preset", preset]
    options += [f"--set={name}={value}" for name, value in (TINY if context.tiny else {}).items()]
    for row in context.run("training.py", options)["tables"][0]:
        name, ours, plain = row["part"], row["gtsa-kit"], row["plain"]
        note = f"plain {plain:.5g}" + (f", speedup {row['speedup']:.2f}" if "speedup" in row else "")
        if "% of the matrix peak" in name:
            context.add(f"step of {batch}: {name}", ours, "%", aim=AIM, note=note)
        elif "first loss" in name:
            context.add(f"step of {batch}: {name}", ours, ok=abs(ours - plain) < 0.02, note=note)
        else:
            context.add(f"step of {batch}: {name}", ours, note=note)


def measure_peak(context: Context) -> float:
    """Return the operations per second of a large matrix product, in bf16 on a GPU."""
    import torch
    from training import matrix_peak

    dtype = torch.float32 if context.tiny else torch.bfloat16
    peak = matrix_peak(dtype, torch.device(context.device))
    context.add(f"peak of a matrix product in {str(dtype).removeprefix('torch.')}", peak / 1e12, "TFLOP/s")
    return peak


def run_settings(context: Context) -> dict[str, Any]:
    """Return the settings of a short run."""
    if context.tiny:
        return {**TINY, "train.batch_size": 4, "train.steps": 3, "train.workers": 0, "train.log_every": 1}
    import torch

    large = context.device == "cuda" and torch.cuda.get_device_properties(0).total_memory > LARGE_MEMORY
    return {
        "train.batch_size": 128 if large else 32,  # of all measurements: a batch size is compiled once
        "train.steps": STEPS,
        "train.log_every": LOG_EVERY,
        "train.precision": "bf16",
        "train.devices": 1,
        "train.validate_images": 0,
        "optim.warmup_epochs": 0,
    }


def measure_run(context: Context, method: str, augment_on: str, peak: float) -> None:
    """Train a short run as `gtsa train` does, and write rate, share of the peak, data wait and peak memory."""
    import torch

    from gtsa_kit import pretrain

    name = f"run of {method}, views made on the {augment_on}"
    if not context.has_time(SECONDS_TO_COMPILE, name):
        return
    out = context.work / f"{method}-{augment_on}"
    settings = run_settings(context) | {"train.augment_on": augment_on}
    if context.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    preset = "quick" if context.tiny else "coco"
    pretrain(context.images, out, preset=preset, method=method, settings=settings)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steady = rows[WARM_UP_ROWS:] or rows
    rate = statistics.median(row["images_per_second"] for row in steady)
    wait = statistics.median(row["data_wait"] for row in steady)
    share = rate * operations_of(context, out) / peak
    note = (
        f"batch {settings['train.batch_size']}, {100 * share:.1f} % of the matrix peak, {100 * wait:.0f} % of the time"
    )
    note += " waits for images"
    if context.device == "cuda":
        note += f", peak {torch.cuda.max_memory_allocated() / 1e9:.1f} GB"
    context.add(name, rate, "images/s", note=note)


def operations_of(context: Context, run: Path) -> float:
    """Return the operations of a training step of a run, for each image."""
    import torch
    from training import count_operations

    from gtsa_kit.config import load_config
    from gtsa_kit.methods import make_method
    from gtsa_kit.training.estimate import random_views

    config, device = load_config(file=run / "config.yaml"), torch.device(context.device)
    return count_operations(make_method(config).train().to(device), random_views(config, 2, device))


def measure_memory(context: Context, method: str) -> None:
    """Measure the peak memory of a forward and backward pass, compiled as in a run, at several batch sizes."""
    from gtsa_kit.config import load_config
    from gtsa_kit.hardware import should_compile
    from gtsa_kit.training.estimate import measure_step
    from gtsa_kit.training.fabric import make_fabric
    from gtsa_kit.training.run import build_model
    from gtsa_kit.training.start import open_start

    settings = run_settings(context) | {"method": method, "train.precision": "fp32" if context.tiny else "bf16"}
    config = load_config("quick" if context.tiny else "coco", overrides=settings)
    fabric = make_fabric(config.train)
    model = build_model(config, fabric, open_start(config)).to(fabric.device).train()
    if should_compile(fabric.device):
        model.compile_branches()
    for batch in (2,) if context.tiny else (128, 512, 256, 64):
        what = f"peak memory of {method}, batch {batch}"
        if not context.has_time(SECONDS_TO_COMPILE, what):
            return
        try:
            size, _ = measure_step(model, batch, config, fabric)
        except RuntimeError as error:  # out of memory on a smaller card
            context.add(what, note=str(error).splitlines()[0])
            continue
        context.add(what, size / 1e9, "GB", note=f"{size / batch / 1e6:.0f} MB an image, beside weights and optimizer")


def measure_lightly_train(context: Context) -> None:
    """Train DINO by lightly-train with the same model, views, batch and number of steps, where it is installed."""
    what = "run of lightly-train's DINO"
    if context.lacks(["lightly_train"], what) or not context.has_time(2 * SECONDS_TO_COMPILE, what):
        return
    settings = run_settings(context)
    steps = settings["train.steps"]
    try:
        # The difference of two lengths leaves out the start.
        short, long = (time_lightly_train(context, settings, length) for length in (steps // 2, steps))
    except Exception as error:  # of another library: this part goes on
        context.add(what, note=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        return
    rate = settings["train.batch_size"] * (steps - steps // 2) / (long - short)
    context.add(what, rate, "images/s", note=f"batch {settings['train.batch_size']}")


def time_lightly_train(context: Context, settings: dict[str, Any], steps: int) -> float:
    """Return the seconds of a run of lightly-train's DINO."""
    os.environ["LIGHTLY_TRAIN_EVENTS_DISABLED"] = "1"  # it would report its use over the network
    import lightly_train

    started = time.monotonic()
    lightly_train.pretrain(
        out=context.work / f"lightly-train-{steps}",
        data=context.images,
        model=f"timm/vit_{'tiny' if context.tiny else 'small'}_patch16_224",
        model_args={"pretrained": False, "dynamic_img_size": True},
        method="dino",
        epochs=steps,  # more than enough
        batch_size=settings["train.batch_size"],
        devices=1,
        accelerator="gpu" if context.device == "cuda" else "cpu",
        precision="32-true" if context.tiny else "bf16-mixed",
        num_workers=settings.get("train.workers", "auto"),
        transform_args={"local_view": {"num_views": 2 if context.tiny else 8}},
        trainer_args={"max_steps": steps},
    )
    return time.monotonic() - started
