"""Learning, resuming after a kill, and repeatability of runs."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from gpu.part import Context

NEEDS = ("timm", "pydantic", "lightning_fabric", "PIL", "typer")


def run(context: Context) -> None:
    """Check that equal runs are equal, that a killed one resumes, and that a long one learns."""
    short = short_settings(context)
    first = train(context, context.work / "first", short)
    compare(context, "two runs of one seed", first, train(context, context.work / "second", short))
    compare(context, "a run that was killed and resumed", first, kill_and_resume(context, short))
    learn(context)


def short_settings(context: Context) -> dict[str, Any]:
    """Return the settings of the runs that are compared."""
    size = {"model.arch": "vit_test", "train.batch_size": 4} if context.tiny else {"model.arch": "vit_tiny"}
    every = {"train.log_every": 1, "train.checkpoint_every": 2 if context.tiny else 10}
    return {"train.steps": 6 if context.tiny else 60, "train.workers": 2, **every, **size}


def command(context: Context, out: Path, settings: dict[str, Any], *more: str) -> list[str]:
    """Return the command line of `gtsa train`."""
    options = [f"--set={name}={value}" for name, value in settings.items()]
    preset = ["--preset", "quick"]
    return [sys.executable, "-m", "gtsa_kit", "train", str(context.images), "--out", str(out), *preset, *options, *more]


def train(context: Context, out: Path, settings: dict[str, Any], *more: str) -> Path:
    """Train to the end and return the run folder."""
    subprocess.run(command(context, out, settings, *more), check=True, stdout=sys.stdout, stderr=sys.stdout)
    return out


def kill_and_resume(context: Context, settings: dict[str, Any]) -> Path:
    """Kill a run after its first checkpoint, and resume it."""
    out = context.work / "killed"
    child = subprocess.Popen(command(context, out, settings), start_new_session=True)
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
    """Train on the images, and probe before and after by k-NN on their class folders."""
    from gtsa_kit.data.labeled import read_classification_dataset
    from gtsa_kit.evaluation.image_probes import ProbeOptions, knn
    from gtsa_kit.evaluation.models import open_models

    arch, steps = ("vit_test", 6) if context.tiny else ("vit_small", 2000)
    settings: dict[str, Any] = {"model.arch": arch, "train.steps": steps, "optim.warmup_epochs": 1}
    if not context.tiny:
        settings |= {"train.batch_size": 64, "train.augment_on": "device", "views.global_size": 160}
        settings |= {"views.local_size": 64, "train.checkpoint_every": 1000, "train.log_every": 50, "optim.lr": 1e-3}
    started = time.monotonic()
    out = train(context, context.work / "long", settings)
    context.add(f"{steps} steps of {arch}", time.monotonic() - started, "s")
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for name in ("loss", "region", "region_loss_constant_baseline", "rotation_accuracy", "images_per_second"):
        if name in rows[-1]:
            context.add(f"{name}, first and last row", f"{rows[0][name]:.4g}, {rows[-1][name]:.4g}")
    models = open_models([out], [arch], device=context.device)
    data = read_classification_dataset(context.images)
    report = knn(models, data, ProbeOptions(seeds=1 if context.tiny else 5, size=96 if context.tiny else 224))
    scores: dict[str, list[float]] = {}
    for row in report.rows:
        scores.setdefault(row["model"], []).append(float(row["top1"]))
    means = {name: sum(values) / len(values) for name, values in scores.items()}
    (trained, after), (_, before) = means.items()
    ok = None if context.tiny else after > before
    context.add(f"k-NN top-1 of {trained}, random weights {before:.3g}", after, aim="above random", ok=ok)
