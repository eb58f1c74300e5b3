"""Learning, resuming after a kill, and repeatability of runs."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from gpu.part import Context, call

NEEDS = ("timm", "pydantic", "lightning_fabric", "PIL", "rich", "safetensors", "matplotlib", "tensorboard", "typer")
SECONDS_OF_SHORT_RUN = 30
"""Seconds that a short run takes on a GPU, most of them to compile, roughly."""


def run(context: Context) -> None:
    """Check that a long run learns, that equal runs are equal, and that a killed one resumes."""
    learn(context)
    short, twins, killed = short_settings(context), "two runs of one seed", "a run that was killed and resumed"
    if context.has_time(2 * SECONDS_OF_SHORT_RUN, twins):
        first = train(context, context.work / "first", short)
        compare(context, twins, first, train(context, context.work / "second", short))
        if context.has_time(2 * SECONDS_OF_SHORT_RUN, killed):
            compare(context, killed, first, kill_and_resume(context, short))


def short_settings(context: Context) -> dict[str, Any]:
    """Return the settings of the runs that are compared."""
    if context.tiny:
        size = {"model.arch": "vit_test", "model.projector_dim": 32, "train.batch_size": 4, "train.steps": 6}
    else:
        size = {"model.arch": "vit_tiny", "train.steps": 60, "train.devices": 1}
    every = {"train.log_every": 1, "train.checkpoint_every": 2 if context.tiny else 10}
    return {"train.workers": 2, "train.validate_images": 0, **every, **size}


def command(context: Context, out: Path, settings: dict[str, Any], *more: str) -> list[object]:
    """Return the arguments of `gtsa train` for Python."""
    options = [f"--set={name}={value}" for name, value in settings.items()]
    return ["-m", "gtsa_kit", "train", context.images, "--out", out, "--preset", "quick", *options, *more]


def train(context: Context, out: Path, settings: dict[str, Any], *more: str) -> Path:
    """Train to the end and return the run folder."""
    call(command(context, out, settings, *more))
    return out


def kill_and_resume(context: Context, settings: dict[str, Any]) -> Path:
    """Kill a run after its first checkpoint, and resume it."""
    out = context.work / "killed"
    child = subprocess.Popen([sys.executable, *map(str, command(context, out, settings))])
    while child.poll() is None and not any((out / "checkpoints").glob("*")):
        time.sleep(0.05)
    early = child.poll() is None
    child.send_signal(signal.SIGKILL)
    child.wait()
    context.add("killed before its end", early, ok=early)
    return train(context, out, settings, "--resume")


def compare(context: Context, what: str, first: Path, second: Path) -> None:
    """Compare the encoders of two runs: they must be equal to the bit."""
    from safetensors.torch import load_file

    a, b = (load_file(run / "encoder.safetensors") for run in (first, second))
    difference = max(float((a[name].double() - b[name].double()).abs().max()) for name in a)
    context.add(f"{what}: largest difference of a weight", difference, aim="0", ok=difference == 0.0)


def learn(context: Context) -> None:
    """Train on the images, and write what the run learned."""
    arch, steps = ("vit_test", 6) if context.tiny else ("vit_small", 2000)
    settings: dict[str, Any] = {"model.arch": arch, "train.steps": steps, "optim.warmup_epochs": 1}
    settings |= {"train.validate_images": 0, "train.devices": 1}
    if not context.tiny:
        settings |= {"train.batch_size": 64, "train.augment_on": "device", "views.global_size": 160}
        settings |= {"views.local_size": 64, "train.checkpoint_every": 1000, "train.log_every": 50, "optim.lr": 1e-3}
    started = time.monotonic()
    out = train(context, context.work / "long", settings)
    context.add(f"{steps} steps of {arch}", time.monotonic() - started, "s")
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for name in ("loss", "region", "region_loss_constant_baseline", "rotation_accuracy", "images_per_second"):
        context.add(f"{name}, first and last row", f"{rows[0][name]:.4g}, {rows[-1][name]:.4g}")
    probe(context, out, arch)


def probe(context: Context, run: Path, arch: str) -> None:
    """Measure the k-NN accuracy of a run beside that of random weights of its architecture."""
    from gtsa_kit.data.labeled import read_classification_dataset
    from gtsa_kit.evaluation.image_probes import ProbeOptions, knn
    from gtsa_kit.evaluation.models import open_models

    models = open_models([run], [arch], device=context.device)
    data = read_classification_dataset(context.labeled)
    report = knn(models, data, ProbeOptions(seeds=1 if context.tiny else 5, size=64 if context.tiny else 224))
    scores: dict[str, list[float]] = {}
    for row in report.rows:
        scores.setdefault(row["model"], []).append(float(row["top1"]))
    means = {name: sum(values) / len(values) for name, values in scores.items()}
    (trained, after), (_, before) = means.items()
    ok = None if context.tiny else after > before
    note = f"{len(data.paths)} images of {len(data.classes)} classes; random weights {before:.4g}"
    context.add(f"k-NN top-1 of {trained}", after, "%", aim="above random weights", ok=ok, note=note)
