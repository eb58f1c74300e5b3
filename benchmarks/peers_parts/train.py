"""Job "train": steps of DINO at ViT-S/16, 2 x 224 + 8 x 96, batch 8, and of GTSA, which lightly-train does not have.

lightly-train gets the head of 65,536 prototypes, the crops' number, sizes and areas, the batch and the precision. The
rest is its own default: 3 layers of 2048 and a bottleneck of 256 as here, prototypes of norm 1 (here not), the class
token in the head (here the mean of the patches), solarization, blurs of its own, no overlap of the crops asked for,
AdamW, batches of all workers that it chooses, a checkpoint at the end.
"""

import json
import statistics
from itertools import pairwise
from pathlib import Path
from typing import Any

from peers_parts.measured import Usage, run_checked
from peers_parts.rounds import Column, Contestant, Job, Measurement
from peers_parts.setting import PATHS, SCRIPTS, Setting, gtsa

BATCH = 8
QUIET = {"LIGHTLY_TRAIN_EVENTS_DISABLED": "1", "HF_HUB_OFFLINE": "1"}
"""Environment variables of lightly-train: it must not ask the network for anything."""
COLUMNS = (
    Column("images_per_second", "images/s"),
    Column("cpu_seconds_per_step", "CPU s per step"),
    Column("start_seconds", "s around the steps", 1),
    Column("peak_mb", "peak MB", 0),
)
RATIOS = (("images_per_second", True), ("cpu_seconds_per_step", False))


def train_job(setting: Setting) -> Job:
    """Return the job."""
    import torch

    from gtsa_kit.hardware import should_use_bf16

    steps = 4
    precisions = ["fp32", "bf16"] if should_use_bf16(torch.device("cpu")) else ["fp32"]
    contestants = []
    for precision in precisions:
        ours = f"gtsa train --method dino, {precision}"
        contestants += [
            Contestant(f"lightly-train, {precision}", lightly(setting, steps, precision), ours),
            Contestant(ours, own(setting, steps, precision, "dino")),
        ]
    contestants.append(Contestant(f"gtsa train (GTSA), {precisions[-1]}", own(setting, steps, precisions[-1], "gtsa")))
    title = f"Training: DINO, ViT-{setting.arch}/16, 2 x {sizes(setting)[0]} + 8 x {sizes(setting)[1]}, batch {BATCH}"
    return Job("train", title, COLUMNS, RATIOS, tuple(contestants))


def sizes(setting: Setting) -> tuple[int, int]:
    """Return the sides of global and local crops."""
    return (64, 32) if setting.micro else (224, 96)


def prototypes(setting: Setting) -> int:
    """Return the number of prototypes of the head."""
    return 1024 if setting.micro else 65536


def lightly_arguments(setting: Setting, out: Path, images: Path, precision: str, epochs: int) -> dict[str, Any]:
    """Return the arguments of lightly-train's `pretrain`."""
    large, small = sizes(setting)
    areas = ({"min_scale": 0.3, "max_scale": 1.0}, {"min_scale": 0.1, "max_scale": 0.3})
    return {
        "out": str(out),
        "data": str(images),
        "model": f"timm/vit_{setting.arch}_patch16_224",
        "method": "dino",
        "method_args": {"output_dim": prototypes(setting)},
        "epochs": epochs,
        "batch_size": BATCH,
        "accelerator": "cpu",
        "devices": 1,
        "precision": {"fp32": "32-true", "bf16": "bf16-mixed"}[precision],
        "model_args": {"img_size": 224},
        "transform_args": {
            "image_size": [large, large],
            "random_resize": areas[0],
            "local_view": {"num_views": 8, "view_size": [small, small], "random_resize": areas[1]},
        },
    }


def lightly(setting: Setting, steps: int, precision: str) -> Any:
    """Return the measurement of lightly-train: an epoch of as many images as the steps need."""

    def measure(folder: Path) -> Measurement:
        arguments = lightly_arguments(setting, folder / "run", setting.folder_of(steps * BATCH), precision, 1)
        script = [str(SCRIPTS / "lightly_train_dino.py"), json.dumps(arguments)]
        return timed(folder, setting.python("lightly"), script, QUIET)

    return measure


def own(setting: Setting, steps: int, precision: str, method: str) -> Any:
    """Return the measurement of `gtsa train` on the same images."""

    def measure(folder: Path) -> Measurement:
        large, small = sizes(setting)
        images = str(setting.folder_of(steps * BATCH))
        arguments = ["train", images, "--method", method, "--out", str(folder / "run"), "--precision", precision]
        arguments += ["--batch-size", str(BATCH), "--steps", str(steps)]
        values = {"model.arch": f"vit_{setting.arch}", "views.global_size": large, "views.local_size": small}
        values["dino.prototypes"] = prototypes(setting)
        arguments += [part for name, value in values.items() for part in ("--set", f"{name}={value}")]
        python, _, module, *rest = gtsa(*arguments)
        return timed(folder, python, [module, *rest], PATHS)

    return measure


def timed(folder: Path, python: str, program: list[str], environment: dict[str, str]) -> Measurement:
    """Run a training program under timed_steps.py, and return the figures of its steps."""
    times = folder / "times.json"
    command = [python, str(SCRIPTS / "timed_steps.py"), str(times), *program]
    usage = run_checked(command, folder / "log.txt", **environment)
    return step_figures(json.loads(times.read_text()), usage)


def step_figures(rows: list[dict[str, float]], usage: Usage) -> Measurement:
    """Return the figures of a training run from the clock at the end of each step; the first step is a warm-up.

    The rate is that of the whole time from the end of the first step to the end of the last one, so it includes waiting
    for images.
    """
    spans = len(rows) - 1
    seconds, cpu = (rows[-1][key] - rows[0][key] for key in ("seconds", "cpu_seconds"))
    each = [b["seconds"] - a["seconds"] for a, b in pairwise(rows)]
    return {
        "steps": len(rows),
        "images_per_second": spans * BATCH / seconds,
        "median_step_seconds": statistics.median(each),
        "cpu_seconds_per_step": cpu / spans,
        "start_seconds": usage.seconds - (rows[-1]["seconds"] - rows[0]["seconds"]),
        "peak_mb": usage.peak_mb,
    }
