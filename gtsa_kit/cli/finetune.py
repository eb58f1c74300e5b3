"""Commands `gtsa finetune segment`, `gtsa finetune classify` and `gtsa finetune detect`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from gtsa_kit.cli.support.common import quick_imports
from gtsa_kit.cli.support.finetune_options import FinetuneOptions
from gtsa_kit.cli.support.finetune_task_options import DetectOptions, SegmentOptions
from gtsa_kit.cli.support.help import PlainCommand, PlainGroup
from gtsa_kit.cli.support.options import WeightsOptions, with_option_groups
from gtsa_kit.cli.support.run_steps import check_mode, estimate_or_train, refuse_settings
from gtsa_kit.config.finetune import TaskName

app = typer.Typer(
    cls=PlainGroup,
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Train a head, or all layers, on labeled images.",
)


@app.command("segment", cls=PlainCommand)
@with_option_groups
def segment(
    data: Annotated[
        Path | None,
        typer.Argument(
            help="Images and masks: images/ and masks/ in each of train/ and val/, or train/ and val/ in each of "
            "images/ and masks/, or images/ and masks/ alone; or a CSV image,mask. With --resume it may be left out.",
            metavar="DATA",
        ),
    ] = None,
    *,
    task: SegmentOptions,
    options: FinetuneOptions,
    weights: WeightsOptions,
) -> None:
    """Train a segmentation model on images with masks.

    The run folder gets model.safetensors (the best one by mIoU), scores.json, predictions.png, curves.png,
    metrics.jsonl, checkpoints and TensorBoard files. Ctrl-C saves a checkpoint and stops; --resume continues.

    [bold]Examples[/bold]

      gtsa finetune segment camvid/ --model dinov2_vits14.pth --ignore 11 --out runs/camvid

      gtsa finetune segment photos/ --model runs/street --head linear --val-split 0.2:order

      gtsa finetune segment ade20k/ --model runs/street --preset ade20k-fpn --devices 4

      gtsa finetune segment --resume --steps 2000 --out runs/camvid

      gtsa finetune segment --finish --out runs/camvid
    """
    _run("segment", data, options, weights, task.settings())


@app.command("classify", cls=PlainCommand)
@with_option_groups
def classify(
    data: Annotated[
        Path | None,
        typer.Argument(
            help="A folder with a subfolder for each class, possibly in train/ and val/; or a CSV path,label. With "
            "--resume it may be left out.",
            metavar="DATA",
        ),
    ] = None,
    *,
    options: FinetuneOptions,
    weights: WeightsOptions,
) -> None:
    """Train a classifier on images with a class each.

    The run folder gets model.safetensors (the best one by top-1), scores.json with the confusion matrix,
    predictions.png, curves.png, metrics.jsonl, checkpoints and TensorBoard files. Ctrl-C saves a checkpoint and stops;
    --resume continues.

    [bold]Examples[/bold]

      gtsa finetune classify animals/ --model dinov2_vits14.pth --out runs/animals

      gtsa finetune classify animals/ --model dinov2_vits14.pth --dry-run

      gtsa finetune classify animals.csv --model runs/street --no-freeze --epochs 30
    """
    _run("classify", data, options, weights, {})


@app.command("detect", cls=PlainCommand)
@with_option_groups
def detect(
    data: Annotated[
        Path | None,
        typer.Argument(
            help="Images with objects: a JSON file of COCO (with --images), or a folder of COCO, YOLO or Pascal VOC. "
            "With --resume it may be left out.",
            metavar="DATA",
        ),
    ] = None,
    *,
    task: DetectOptions,
    options: FinetuneOptions,
    weights: WeightsOptions,
) -> None:
    """Train a detector on images with boxes, and masks if there are any.

    The run folder gets model.safetensors (the best one by AP), scores.json with AP by class, predictions.png,
    curves.png, metrics.jsonl, checkpoints and TensorBoard files. Ctrl-C saves a checkpoint and stops; --resume
    continues.

    [bold]Examples[/bold]

      gtsa finetune detect bolts/ --model dinov2_vits14.pth --out runs/bolts

      gtsa finetune detect train.json --images photos/ --val val.json --model runs/street --no-masks

      gtsa finetune detect coco/ --model runs/street --preset coco-mask-rcnn --devices 8
    """
    _run("detect", data, options, weights, task.settings())


def _run(
    task: TaskName, data: Path | None, options: FinetuneOptions, weights: WeightsOptions, given: dict[str, Any]
) -> None:
    """Fine-tune with a display; exit with 130 if it was stopped."""
    from gtsa_kit.tasks.api import absolute_data, resolve_finetune

    overrides = options.settings(weights.import_options) | {k: v for k, v in given.items() if v is not None}
    overrides |= {"data.source": str(absolute_data(data))} if data else {}
    check_mode(options)
    run_dir = options.out or _default_out(task, data)
    if options.finish:
        refuse_settings(bool(overrides or options.preset or options.config or options.resume))
        from gtsa_kit.cli.support.finetune_display import finish_with_result

        finish_with_result(run_dir)
        return
    config = resolve_finetune(task, run_dir, options.resume, options.preset, options.config, overrides)
    from gtsa_kit.models.run_folder import check_run_dir
    from gtsa_kit.training.loggers.opening import require_loggers

    require_loggers(config.train.logger)
    check_run_dir(run_dir, options.resume)

    def estimate() -> bool:
        with quick_imports():
            from gtsa_kit.cli.support.finetune_dry_run import estimate_finetuning
        return estimate_finetuning(config, run_dir)

    def run() -> bool:
        with quick_imports():
            from gtsa_kit.cli.support.finetune_display import run_finetuning
        return run_finetuning(config, run_dir, options.resume)

    estimate_or_train(options, estimate, run, f"gtsa finetune {task}", run_dir)


def _default_out(task: TaskName, data: Path | None) -> Path:
    if data is None:
        raise ValueError(f"no labeled images given; give a folder or a CSV: gtsa finetune {task} DATA")
    return Path("runs") / f"{data.absolute().stem}-{task}"
