"""gtsa train."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from gtsa_kit.cli.support.common import fail, require


def train(
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="Images: a folder (searched below), or a text file with one path a line.", metavar="FOLDER"
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="coco (the paper's), ade20k, or quick (minutes on a CPU, to see it work). Default coco."),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="gtsa, or what to compare it with in the same trainer: dino or mocov3 "
            "(pip install 'gtsa-kit\\[baselines]'). Default gtsa."
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML settings, as config.yaml of a run folder.", metavar="FILE")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="One setting, e.g. loss.rotation_weight=0.25; repeatable.", metavar="KEY=VALUE"),
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="Times that each image is seen.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps, in place of epochs.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images that a device takes at a time.")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Batches that make one step.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that make views; 0 makes them in line.")] = None,
    augment_on: Annotated[
        str | None,
        typer.Option(help="cpu, or device: workers then only decode, and the GPU makes the views. Default cpu."),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="fp32, bf16, or auto: bf16 where this machine is fast at it.")
    ] = None,
    devices: Annotated[int | None, typer.Option(help="GPUs, or processes on a CPU. Default: all GPUs, or 1.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of every random draw.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder. Default runs/<name of FOLDER>.", metavar="DIR")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out from its last checkpoint.")
    ] = False,
) -> None:
    """Train a ViT on your images by GTSA, or by a method to compare it with.

    Leaves encoder.safetensors, checkpoints, metrics.jsonl, curves.png and TensorBoard files in the run folder. Ctrl-C
    saves; the same command with --resume goes on, bit for bit as if nothing had happened.

    [bold]Examples[/bold]

      gtsa train photos/ --preset quick

      gtsa train photos/ --out runs/street --epochs 300 --batch-size 64 --accumulate 8 --devices 4

      gtsa train photos/ --set model.arch=vit_base --set views.jitter_strength=0.5

      gtsa train photos/ --method dino --out runs/street-dino

      gtsa train photos/ --out runs/street --resume
    """
    overrides = _options(
        **{
            "train.epochs": epochs,
            "train.steps": steps,
            "train.batch_size": batch_size,
            "train.accumulate": accumulate,
            "train.workers": workers,
            "train.augment_on": augment_on,
            "train.precision": precision,
            "train.devices": devices,
            "train.seed": seed,
            "method": method,
            "data": str(require(folder).absolute()) if folder else None,
        }
    )
    run = out or _default_out(folder, resume)
    settings = resolve(run, resume, preset, config, set_ or [], overrides)

    from gtsa_kit.cli.support.training_display import run_training

    if not run_training(settings, run, resume):
        again = f"gtsa train --resume --out {run}"
        fail(f"stopped, and saved in {run}; go on with: {again}", 130)


def resolve(
    run: Path, resume: bool, preset: str | None, file: Path | None, sets: list[str], options: dict[str, Any]
) -> Any:
    """Settings of the command line, laid over those of the run when one is resumed.

    Raises:
        ValueError: A setting is wrong, no images are named, or a resumed run would not be the same run.
    """
    from gtsa_kit.config import load_config, parse_overrides

    overrides = parse_overrides(sets) | options
    saved_file = run / "config.yaml"
    if not (resume and saved_file.exists()):
        if resume:
            print(f"gtsa: nothing to resume in {run}, starting anew", file=sys.stderr)
        settings = load_config(preset or "coco", file, overrides)
        if not settings.data:
            raise ValueError("which images? name a folder or a text file of paths: gtsa train FOLDER")
        return settings

    from gtsa_kit.training.run import diff_configs

    saved = load_config(file=saved_file)
    if overrides.get("method", saved.method) != saved.method:  # said first: it brings other settings along
        raise ValueError(f"the run in {run} is one of {saved.method}; choose another --out for {overrides['method']}")
    base = {"data": saved.data, "method": saved.method} | overrides
    settings = (
        load_config(preset or "coco", file, base) if preset or file else load_config(file=saved_file, overrides=base)
    )
    if changed := diff_configs(saved, settings):
        raise ValueError(
            f"the run in {run} has other settings (run's, now: {'; '.join(changed)}); "
            "leave them out to resume, or choose another --out for a new run"
        )
    return settings


def _options(**given: Any) -> dict[str, Any]:
    return {key: value for key, value in given.items() if value is not None}


def _default_out(folder: Path | None, resume: bool) -> Path:
    if folder is None and resume:
        raise ValueError("which run? name its folder: gtsa train --resume --out DIR")
    if folder is None:
        raise ValueError("which images? name a folder or a text file of paths: gtsa train FOLDER")
    return Path("runs") / (folder.absolute().name if folder.is_dir() else folder.stem)
