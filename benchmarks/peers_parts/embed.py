"""Job "embed": a folder of images to vectors, by whole commands, and what each does with broken files in the folder.

All have a ViT-S/16 at 224 pixels. timm, transformers and gtsa-kit have the same weights; lightly-train has random ones
of its own checkpoint. The steady rate is that of the images by which the folder is larger than a small one, so it is
without the start.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from peers_parts.environments import last_line
from peers_parts.measured import run_checked, run_measured
from peers_parts.rounds import Column, Contestant, Job, Measurement
from peers_parts.setting import PATHS, SCRIPTS, Setting, gtsa
from peers_parts.train import QUIET, lightly_arguments

COLUMNS = (
    Column("seconds", "s, whole command", 1),
    Column("cpu_seconds", "CPU s", 1),
    Column("images_per_second", "images/s, whole"),
    Column("steady_per_second", "images/s, steady"),
    Column("peak_mb", "peak MB", 0),
    Column("broken", "3% broken files"),
)
RATIOS = (("images_per_second", True), ("cpu_seconds", False), ("steady_per_second", True))
BROKEN = 3
"""Broken files of the 100 of the folder with broken files."""

Command = Callable[[Path, Path], tuple[list[str], dict[str, str]]]
"""Command and environment variables that embed a folder (first path) into a folder (second path)."""


def embed_job(setting: Setting) -> Job:
    """Return the job."""
    large, small = (40, 8) if setting.micro else (300, 60)
    ours = {"gtsa embed, run folder": setting.run_folder, "gtsa embed, ONNX": partial(setting.exported, "onnx")}
    commands: dict[str, Command] = {
        "lightly-train embed": partial(lightly, setting),
        "timm, DataLoader": partial(script, setting, "timm", "timm"),
        "transformers, pipeline": partial(script, setting, "hf", "hf"),
        **{name: partial(own, model) for name, model in ours.items()},
    }
    contestants = (
        Contestant(
            name, partial(measure, setting, command, (large, small)), "" if name in ours else "gtsa embed, run folder"
        )
        for name, command in commands.items()
    )
    title = f"Embedding {large} images, ViT-{setting.arch}/16 at 224"
    return Job("embed", title, COLUMNS, RATIOS, tuple(contestants))


def lightly(setting: Setting, images: Path, out: Path) -> tuple[list[str], dict[str, str]]:
    """Return lightly-train's command; its checkpoint is made by a short training, once."""
    python, run = setting.python("lightly"), setting.out / "weights" / f"{setting.arch}-lightly"
    checkpoint = run / "checkpoints" / "last.ckpt"
    if not checkpoint.exists():
        arguments = lightly_arguments(setting, run, setting.folder_of(8), "fp32", 1)
        arguments |= {"overwrite": True, "method_args": {"output_dim": 64}}
        arguments["transform_args"]["local_view"]["num_views"] = 2
        log = setting.out / "weights" / "lightly.log"
        run_checked([python, str(SCRIPTS / "lightly_train_dino.py"), json.dumps(arguments)], log, **QUIET)
    return [python, str(SCRIPTS / "lightly_embed.py"), str(images), str(checkpoint), str(out / "vectors.pt")], QUIET


def script(setting: Setting, name: str, file_format: str, images: Path, out: Path) -> tuple[list[str], dict[str, str]]:
    """Return the command of a script in benchmarks/peers, on the weights of the run in its own format."""
    model = str(setting.exported(file_format))
    command = [setting.python(name), str(SCRIPTS / f"{name}_embed.py"), str(images), model, str(out / "vectors.npz")]
    return command, {"HF_HUB_OFFLINE": "1"}


def own(model: Callable[[], Path], images: Path, out: Path) -> tuple[list[str], dict[str, str]]:
    """Return our command."""
    return gtsa("embed", str(images), "--model", str(model()), "--out", str(out / "features")), PATHS


def measure(setting: Setting, command: Command, counts: tuple[int, int], folder: Path) -> Measurement:
    """Embed the folder, a small one, and one with broken files; return figures, and what happened to broken files."""
    usages = []
    for count in counts:
        out = folder / str(count)
        out.mkdir()
        arguments, environment = command(setting.folder_of(count), out)
        usages.append(run_checked(arguments, folder / f"{count}.txt", **environment))
        if count_vectors(out) != count:
            raise ValueError(f"{out} has {count_vectors(out)} vectors of {count} images; see {folder}/{count}.txt")
    (whole, start), (large, small) = usages, counts
    return {
        "seconds": whole.seconds,
        "cpu_seconds": whole.cpu_seconds,
        "images_per_second": large / whole.seconds,
        "steady_per_second": (large - small) / (whole.seconds - start.seconds),
        "steady_cpu_ms": 1000 * (whole.cpu_seconds - start.cpu_seconds) / (large - small),
        "peak_mb": whole.peak_mb,
        "broken": broken_files(setting, command, folder),
    }


def broken_files(setting: Setting, command: Command, folder: Path) -> str:
    """Return what a tool does with a folder of 100 files of which 3 are broken; the first round finds it."""
    stored = folder.with_name(f"{folder.stem}.broken.txt")
    if stored.exists():
        return stored.read_text()
    count, broken = (20, 1) if setting.micro else (100, BROKEN)
    images, out = setting.folder_of(count, broken), folder / "broken"
    out.mkdir()
    arguments, environment = command(images, out)
    usage = run_measured(arguments, folder / "broken.txt", **environment)
    names = [path.name for path in images.iterdir() if not path.is_symlink()]
    text = describe_broken(usage.code, usage.output, count_vectors(out), count, names, listed_text(out))
    stored.write_text(text)
    return text


def describe_broken(code: int, output: str, vectors: int, count: int, names: list[str], listed: str) -> str:
    """Say what a tool did with broken files.

    Args:
        code: Exit code.
        output: What it printed.
        vectors: Number of vectors that it wrote.
        count: Number of files.
        names: Names of the broken files.
        listed: Text of the files that it wrote beside the vectors.
    """
    if code and not vectors:
        return f"ends, no vectors: {last_line(output)[:60]}"
    named = sum(name in output + listed for name in names)
    kinds = {count: "vectors for all files, broken ones too", count - len(names): "all others embedded"}
    return f"{kinds.get(vectors, f'{vectors} of {count - len(names)} vectors')}, {named} of {len(names)} named"


def listed_text(out: Path) -> str:
    """Return the text of lists of errors that a tool wrote."""
    return "".join(path.read_text(errors="replace") for path in out.rglob("*.jsonl"))


def count_vectors(out: Path) -> int:
    """Return the number of vectors that a tool wrote, 0 if there is no file of them."""
    if (out / "vectors.npz").exists():
        return len(np.load(out / "vectors.npz")["vectors"])
    if (out / "vectors.pt").exists():
        import torch

        return len(torch.load(out / "vectors.pt", weights_only=True)["embeddings"])
    if (out / "features" / "journal.json").exists():
        from gtsa_kit.embedding import read_dataset

        return len(read_dataset(out / "features"))
    return 0
