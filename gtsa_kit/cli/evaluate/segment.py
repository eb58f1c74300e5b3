"""The command `gtsa eval segment`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from gtsa_kit.cli.support.checks import check_labeled_evaluation
from gtsa_kit.cli.support.common import require
from gtsa_kit.cli.support.evaluate_options import (
    BaselineOptions,
    FigureFormat,
    MaxMissing,
    Models,
    Out,
    Seeds,
    figure_path,
)
from gtsa_kit.cli.support.options import JsonOption, ModelOptions, with_option_groups


@with_option_groups
def segment(
    images: Annotated[
        Path,
        typer.Option(
            help="Images; or, without --masks, a folder with images/ and masks/, optionally in train/ and val/ each, "
            "or a CSV image,mask.",
            metavar="DIR",
        ),
    ],
    out: Out,
    models: Models = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            help="Masks with the names of the images, as index or color PNG. Default: masks/ in --images.",
            metavar="DIR",
        ),
    ] = None,
    mask_suffix: Annotated[
        str, typer.Option(help="End of the masks' names that the images' lack: _mask for a.jpg and a_mask.png.")
    ] = "",
    max_missing: MaxMissing = 0.2,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            help="Void class: an index, a color (#000000) or a name; repeatable. 255 is always void. Default: none.",
            metavar="CLASS",
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help='Names of classes: YAML or JSON, such as {3: road}, {road: "#804080"} or {3: {name: road, color: '
            '"#804080"}}, or a CSV name,r,g,b. Other pixels are void. Default: each color or index in the masks is a '
            "class.",
            metavar="FILE",
        ),
    ] = None,
    tiles: Annotated[
        int | None,
        typer.Option(
            min=16,
            help="Cut images into square tiles of this side; for models trained on small crops. Default: whole images.",
            metavar="PIXELS",
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(min=1, help="Longer side of the input, in pixels. Default: the tile's, or the model's own size."),
    ] = None,
    probe: Annotated[str, typer.Option(help="linear, knn or both.")] = "both",
    k: Annotated[int, typer.Option(min=1, help="Number of neighbors of the k-NN probe.")] = 30,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of the linear probe.")] = 20,
    seeds: Seeds = 3,
    val_share: Annotated[
        float, typer.Option(min=0.01, max=0.99, help="Fraction of the images for validation, if there is no split.")
    ] = 0.2,
    examples: Annotated[int, typer.Option(min=1, help="Number of validation images in the figure.")] = 3,
    figure_format: FigureFormat = "png",
    as_json: JsonOption = False,
    *,
    beside: BaselineOptions,
    opening: ModelOptions,
) -> None:
    """Segment images by probes of frozen patch tokens, or score fine-tuned models.

    Encoders are probed by a linear layer, and by k-NN among labeled patches. Runs of gtsa finetune segment, and files
    that were exported from them, are scored by the labels that they have; segment.json is all that they write.
    Metrics are measured at the full resolution of the masks. Writes segment.json, and three figures: segment.png with
    the mIoU, segment-classes.png with the IoU of each class, segment-images.png with images, masks and predictions.
    Frames of one video are similar: keep them on one side of the split, with train/ and val/.

    [bold]Examples[/bold]

      gtsa eval segment runs/street --images camvid/ --ignore 11 --out eval/ --random vit_small --size 480

      gtsa eval segment runs/street encoder-fp16.onnx --images photos/ --masks masks/ --out eval/ --tiles 96

      gtsa eval segment runs/camvid runs/camvid/model.onnx --images camvid/ --out eval/
    """
    of_probes: dict[str, object] = {
        "--random": beside.random,
        "--masks": masks,
        "--mask-suffix": mask_suffix,
        "--ignore": ignore,
    }
    of_probes |= {"--labels": labels, "--tiles": tiles, "--size": size, "--probe": probe != "both", "--k": k != 30}
    of_probes |= {"--epochs": epochs != 20, "--seeds": seeds != 3, "--val-share": val_share != 0.2}
    of_probes |= {"--examples": examples != 3, "--format": figure_format != "png", "--max-missing": max_missing != 0.2}
    if _score_task_models(models, images, out, opening, as_json, [name for name, given in of_probes.items() if given]):
        return
    figures = [figure_path(out, f"segment{end}", figure_format) for end in ("", "-classes", "-images")]
    check_labeled_evaluation(images, out, models, beside.random, "torchmetrics")
    from gtsa_kit.cli.support.progress import progress_bar
    from gtsa_kit.data.label_file import read_mask_options
    from gtsa_kit.data.labeled_masks import read_segmentation_dataset

    mask_options = replace(read_mask_options(labels, ignore or []), suffix=mask_suffix)
    from gtsa_kit.cli.support.evaluate_steps import open_for_evaluation, write_report
    from gtsa_kit.evaluation import segment as evaluation
    from gtsa_kit.evaluation.dense_probes import KNNProbeOptions, LinearProbeOptions
    from gtsa_kit.evaluation.dense_tokens import InputOptions
    from gtsa_kit.evaluation.segment_plot import ExampleCollector, draw_class_iou, draw_predictions
    from gtsa_kit.evaluation.support.plots import bar_chart
    from gtsa_kit.figures import save_figure
    from gtsa_kit.models.channel_images import reader_of

    probes = evaluation.PROBES if probe == "both" else (probe,)
    linear, knn = LinearProbeOptions(epochs=epochs), KNNProbeOptions(k=k)
    options = evaluation.SegmentOptions(InputOptions(size, tiles), probes, seeds, val_share, linear, knn)
    opened = open_for_evaluation(models, beside, opening, channels=True)
    preprocessing = opened[0].runner.preprocessing
    with progress_bar() as on_progress:
        facts = mask_options, on_progress, max_missing, reader_of(preprocessing)
        data = read_segmentation_dataset(images, masks, *facts)
        collector = ExampleCollector(data, val_share, examples, preprocessing)
        report = evaluation.segment(opened, data, options, on_progress, collector)
    save_figure(bar_chart(report, {"miou": "mIoU"}, "mIoU, %"), figures[0])
    save_figure(draw_class_iou(report), figures[1])
    save_figure(draw_predictions(collector.examples(), data.classes), figures[2])
    write_report(report, out, as_json)


@with_option_groups
def classify(
    images: Annotated[
        Path, typer.Option(help="Folder with a subfolder for each class, possibly in train/ and val/; or a CSV.")
    ],
    out: Out,
    models: Models = None,
    as_json: JsonOption = False,
    *,
    opening: ModelOptions,
) -> None:
    """Score models of gtsa finetune classify, and files that were exported from them, on images with a class each.

    Writes classify.json with top-1, top-5 and the confusion matrix of the validation images, or of all if there is no
    split. Inputs have the size of the training; there is no --size.

    [bold]Examples[/bold]

      gtsa eval classify runs/animals runs/animals/model.onnx --images animals/ --out eval/
    """
    require(images)
    if not models:
        raise ValueError("no model given; name a run of gtsa finetune classify, or a file that was exported from one")
    from gtsa_kit.cli.support.task_scores import score_models

    score_models("classify", [require(model) for model in models], images, out, opening, as_json)


def _score_task_models(
    models: list[Path] | None,
    images: Path,
    out: Path,
    opening: ModelOptions,
    as_json: bool,
    of_probes: list[str],
) -> bool:
    """Score the models if they are fine-tuned ones; return False for encoders.

    Raises:
        ValueError: There are models of both kinds, or options of probes are given.
    """
    from gtsa_kit.export.spec import SUFFIX

    paths = [require(path) for path in models or []]
    # Encoders in run folders and weights are known by their names, before torch is imported.
    if not any((path / "model.safetensors").exists() or path.suffix in SUFFIX.values() for path in paths):
        return False
    from gtsa_kit.cli.support.task_scores import is_task_model, score_models

    tasks = [is_task_model(path) for path in paths]
    if not any(tasks):
        return False
    if not all(tasks):
        raise ValueError("fine-tuned models have scores and encoders have probes; give models of one kind")
    if of_probes:
        raise ValueError(f"{', '.join(of_probes)} is for probes; fine-tuned models have labels and a size, so omit it")
    score_models("segment", paths, require(images), out, opening, as_json)
    return True
