"""The command `gtsa eval detect`."""

from pathlib import Path
from typing import Annotated

import typer

from gtsa_kit.cli.support.common import require
from gtsa_kit.cli.support.evaluate_options import FigureFormat, Models, Out, figure_path
from gtsa_kit.cli.support.options import JsonOption, ModelOptions, with_option_groups


@with_option_groups
def detect(
    images: Annotated[
        Path,
        typer.Option(
            help="Images with objects: a folder in the layout of COCO, YOLO or Pascal VOC, or a JSON file of COCO with "
            "its images beside it. With --annotations, the folder of the images.",
            metavar="DATA",
        ),
    ],
    out: Out,
    models: Models = None,
    annotations: Annotated[
        Path | None,
        typer.Option(help="JSON file of COCO for the images in --images. Default: in --images.", metavar="FILE"),
    ] = None,
    figure_format: FigureFormat = "png",
    as_json: JsonOption = False,
    *,
    opening: ModelOptions,
) -> None:
    """Score detectors of gtsa finetune detect, and files that were exported from them, by COCO's average precision.

    The images are those of the validation split, or all if there is no split. Inputs have the size of the training;
    there is no --size. Needs the extra finetune. Writes detect.json with COCO's 12 numbers and the AP of each class, of
    boxes and, if model and data have them, of masks; and detect.png with the AP of each class and precision by recall.

    [bold]Examples[/bold]

      gtsa eval detect runs/parts runs/parts/model.onnx --images parts/ --out eval/

      gtsa eval detect runs/coco --images val2017/ --annotations instances_val2017.json --out eval/
    """
    figure = figure_path(out, "detect", figure_format)
    require(images)
    if annotations:
        require(annotations)
    if not models:
        raise ValueError("no model given; name a run of gtsa finetune detect, or a file that was exported from one")
    from gtsa_kit.cli.support.task_scores import draw_scores, score_models

    scored = score_models("detect", [require(path) for path in models], images, out, opening, as_json, annotations)
    draw_scores(scored, figure)
