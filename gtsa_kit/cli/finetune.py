"""Commands `gtsa finetune segment`, `gtsa finetune classify` and `gtsa finetune detect`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from gtsa_kit.cli.support.common import fail, quick_imports, require
from gtsa_kit.cli.support.finetune_options import DATA, TRAINING, FinetuneOptions
from gtsa_kit.cli.support.help import PlainCommand, PlainGroup
from gtsa_kit.cli.support.options import WeightsOptions, with_option_groups
from gtsa_kit.config.finetune import TaskName
from gtsa_kit.files import shell_word

HEADS_BY_MASKS = {True: "mask-rcnn", False: "faster-rcnn"}
"""Head by `--masks`."""

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
    head: Annotated[
        str | None,
        typer.Option(
            help="fpn (the paper's Semantic FPN on four blocks), linear (one 1x1 convolution) or eomt (queries in the "
            "last blocks; needs transformers to train). Default fpn.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    pyramid: Annotated[
        str | None,
        typer.Option(
            help="Strides of the head fpn: flat (all of a patch) or strided (a quarter to two patches). Default flat.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            help="Blocks that the head takes, such as 2,5,8,11. Default: the last of each quarter for fpn, the one "
            "before the last four for eomt, else the last map.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help='Names and colors of classes, YAML: {0: road}, {0: {name: road, color: "#804080"}} or {road: '
            '"#804080"}; or JSON, or a CSV name,r,g,b. Default: each value in the masks is a class.',
            metavar="FILE",
            rich_help_panel=DATA,
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            help="Void class: an index, a color (#000000) or a name; repeatable. 255 is always void. Default: none.",
            metavar="CLASS",
            rich_help_panel=DATA,
        ),
    ] = None,
    mask_suffix: Annotated[
        str | None,
        typer.Option(
            help="End of the masks' names that the images' lack: _mask for a.jpg and a_mask.png. Default: none.",
            rich_help_panel=DATA,
        ),
    ] = None,
    *,
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
    given = {
        "head.name": head,
        "head.pyramid": pyramid,
        "head.layers": _blocks(layers),
        "data.labels": str(require(labels).absolute()) if labels else None,
        "data.ignore": ignore or None,
        "data.mask_suffix": mask_suffix,
    }
    _run("segment", data, options, weights, given)


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
    images: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the images that a JSON file names. Default: beside the file.",
            metavar="DIR",
            rich_help_panel=DATA,
        ),
    ] = None,
    val: Annotated[
        Path | None,
        typer.Option(
            help="JSON file of the validation images. Default: a part of the images of DATA, see --val-split.",
            metavar="FILE",
            rich_help_panel=DATA,
        ),
    ] = None,
    masks: Annotated[
        bool | None,
        typer.Option(
            "--masks/--no-masks",
            help="Learn masks (Mask R-CNN), or boxes alone (Faster R-CNN). Default: masks if the labels have them.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(
            help="mask-rcnn, faster-rcnn (boxes alone) or eomt (masks of queries in the last blocks; needs "
            "transformers to train). Default: as --masks says.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            help="Four blocks that the head takes, such as 3,5,7,11; one for eomt. Default: the last of each quarter, "
            "or the one before the last four.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    *,
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
    by_masks = None if masks is None else HEADS_BY_MASKS[masks]
    if head and masks is not None and (head != HEADS_BY_MASKS[False]) != masks:
        raise ValueError(f"--head {head} and --{'' if masks else 'no-'}masks contradict each other; give one of them")
    given = {
        "head.name": head or by_masks,
        "head.layers": _blocks(layers),
        "data.images": str(require(images).absolute()) if images else None,
        "data.val": str(require(val).absolute()) if val else None,
    }
    _run("detect", data, options, weights, given)


def _run(
    task: TaskName, data: Path | None, options: FinetuneOptions, weights: WeightsOptions, given: dict[str, Any]
) -> None:
    """Fine-tune with a display; exit with 130 if it was stopped."""
    from gtsa_kit.tasks.api import absolute_data, resolve_finetune

    overrides = options.settings(weights.import_options) | {k: v for k, v in given.items() if v is not None}
    overrides |= {"data.source": str(absolute_data(data))} if data else {}
    if options.dry_run and (options.resume or options.finish):
        raise ValueError(f"--dry-run is for a new run; omit --{'resume' if options.resume else 'finish'}")
    run_dir = options.out or _default_out(task, data)
    if options.finish:
        _finish(run_dir, bool(overrides or options.preset or options.config or options.resume))
        return
    config = resolve_finetune(task, run_dir, options.resume, options.preset, options.config, overrides)
    from gtsa_kit.models.run_folder import check_run_dir

    check_run_dir(run_dir, options.resume)
    if options.dry_run:
        with quick_imports():
            from gtsa_kit.cli.support.finetune_dry_run import estimate_finetuning

        if not estimate_finetuning(config, run_dir):
            fail("stopped; nothing was written", 130)
        return
    with quick_imports():
        from gtsa_kit.cli.support.finetune_display import run_finetuning

    if not run_finetuning(config, run_dir, options.resume):
        fail(f"stopped and saved; resume with: gtsa finetune {task} --resume --out {shell_word(run_dir)}", 130)


def _finish(run_dir: Path, has_settings: bool) -> None:
    """Write the result of a run from its last checkpoint."""
    if has_settings:
        raise ValueError("--finish ends a run as it is; omit the settings, or continue with them by --resume")
    from gtsa_kit.cli.support.finetune_display import finish_with_result

    finish_with_result(run_dir)


def _default_out(task: TaskName, data: Path | None) -> Path:
    if data is None:
        raise ValueError(f"no labeled images given; give a folder or a CSV: gtsa finetune {task} DATA")
    return Path("runs") / f"{data.absolute().stem}-{task}"


def _blocks(text: str | None) -> list[int] | None:
    if text is None:
        return None
    if not all(part.strip().isdecimal() for part in text.split(",")):
        raise ValueError(f"--layers takes numbers of blocks such as 2,5,8,11, got {text!r}")
    return [int(part) for part in text.split(",")]
