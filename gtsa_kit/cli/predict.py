"""The `gtsa predict` command."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from gtsa_kit.cli.support.common import quick_imports, require
from gtsa_kit.cli.support.options import JsonOption, RuntimeOptions, with_option_groups
from gtsa_kit.cli.support.parsing import parse_auto

if TYPE_CHECKING:
    from gtsa_kit.tasks.predict_plan import PredictOptions


@with_option_groups
def predict(
    model: Annotated[
        Path, typer.Argument(help="Run folder of gtsa finetune, or a file exported from one.", metavar="MODEL")
    ],
    images: Annotated[
        str,
        typer.Argument(
            help="Images: a folder (searched recursively), a quoted glob, a text or Parquet list of paths, a .tar, a "
            ".zip, or a URL (s3://, gs://, hf://, http://).",
            metavar="IMAGES",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(help="Folder for masks/ or predictions.json, predictions.csv and errors.jsonl.", metavar="DIR"),
    ],
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Also write each image under its mask, or with its boxes.")
    ] = False,
    rle: Annotated[
        bool, typer.Option("--rle", help="Also write rle.jsonl: each class of each mask as an annotation of COCO.")
    ] = False,
    tile: Annotated[
        int | None,
        typer.Option(
            help="Predict large images by windows of N x N pixels at their own resolution; scenes of other channels "
            "than 8-bit RGB are read window by window. Default: whole images.",
            metavar="N",
        ),
    ] = None,
    overlap: Annotated[
        int | None, typer.Option(min=0, help="Overlap of the windows in pixels. Default: a quarter of --tile.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="Stretch to N or HEIGHTxWIDTH. Default: as the model was trained.")
    ] = None,
    short_side: Annotated[
        int | None, typer.Option(help="Keep the aspect ratio; the short side becomes N. Default: see --size.")
    ] = None,
    native: Annotated[
        bool, typer.Option("--native", help="Keep each image's own size, rounded to whole patches.")
    ] = False,
    threshold: Annotated[
        float | None,
        typer.Option(help="Lowest score of detections, 0 to 1.", show_default="0.5"),
    ] = None,
    ids: Annotated[
        Path | None,
        typer.Option(
            help="JSON file of COCO whose image ids predictions.json takes, by file_name. Default: counted from 1.",
            metavar="FILE",
        ),
    ] = None,
    batch_size: Annotated[str, typer.Option(help="Images, or windows, in one call of the model, or auto.")] = "auto",
    workers: Annotated[
        str, typer.Option(help="Threads that read, decode and write, or auto; workers of Ray.")
    ] = "auto",
    on_error: Annotated[
        Literal["skip", "fail"],
        typer.Option(help="skip: list unreadable images in errors.jsonl; fail: stop at the first."),
    ] = "skip",
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the job in DIR; where the images moved, IMAGES is their new place."),
    ] = False,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(help="local: this process. ray: all machines of a Ray cluster; without one, a local cluster."),
    ] = "local",
    max_megapixels: Annotated[
        float, typer.Option(min=0.001, help="Larger images are rejected before they are decoded.")
    ] = 178.0,
    as_json: JsonOption = False,
    *,
    runtime: RuntimeOptions,
) -> None:
    """Predict the class of every pixel or image, or the objects of every image, with a fine-tuned model.

    DIR/masks/ holds an index PNG for each image, at the image's own size, with the colors of the labels as palette;
    DIR/labels.json says which pixel value is which class. The mask of a georeferenced TIFF is a GeoTIFF with its
    position, where rasterio is installed. DIR/predictions.csv has a row for each image: its mask and the share of each
    class, or its most probable classes, or its number of objects of each class, which are listed in
    DIR/predictions.json as results of COCO. Images that can't be used are listed in DIR/errors.jsonl. If
    the command is killed at any time, the same command with --resume continues it, with the same result.

    [bold]Examples[/bold]

      gtsa predict runs/road photos/ --out predicted/ --overlay

      gtsa predict runs/road/model.onnx aerial/ --out predicted/ --tile 512 --max-megapixels 1000
    """
    from gtsa_kit.cli.support.parsing import parse_side

    require(model)
    load_options = runtime.runtime_load_options()
    parsed = parse_auto(batch_size, "--batch-size"), parse_auto(workers, "--workers")
    parsed_size = parse_side(size, "--size") if size else None
    with quick_imports():
        from gtsa_kit.tasks.predict_plan import PredictOptions

    options = PredictOptions(
        size=parsed_size,
        short_side=short_side,
        native=native,
        tile=tile,
        overlap=overlap,
        overlay=overlay,
        rle=rle,
        threshold=threshold,
        ids=require(ids) if ids else None,
        batch_size=parsed[0],
        workers=parsed[1],
        fail_on_unreadable=on_error == "fail",
        resume=resume,
        engine=engine,
        max_pixels=int(max_megapixels * 1e6),
        load=load_options,
    )
    _predict_with_progress(model, images, out, options, as_json)


def _predict_with_progress(model: Path, images: str, out: Path, options: "PredictOptions", as_json: bool) -> None:
    from gtsa_kit.data.image_files import check_source
    from gtsa_kit.embedding.folder import check_out

    check_out(out, options.resume)
    if not options.resume:
        check_source(images, channels=True)
    with quick_imports():
        from gtsa_kit.cli.support.job_display import run_job
        from gtsa_kit.cli.support.opening import open_runner
        from gtsa_kit.cli.support.progress import make_console
        from gtsa_kit.tasks.detections import SHOWN_SCORE
        from gtsa_kit.tasks.mask_files import pixel_values
        from gtsa_kit.tasks.predict_job import predict_folder
        from gtsa_kit.tasks.predictor import as_predictor

    console = make_console()
    predictor = as_predictor(open_runner(model, options.load, console), model)
    console.print(f"{predictor.runner.provider}; listing {images}", soft_wrap=True)
    if predictor.task == "segment" and not pixel_values(predictor.labels)[1]:
        console.print("pixels of the masks are class numbers, as the ids of the labels do not fit into a byte")
    if predictor.task == "detect" and options.threshold is None:
        console.print(f"detections from a score of {SHOWN_SCORE} on; --threshold chooses another one", soft_wrap=True)
    run_job(
        lambda on_progress: predict_folder(model, images, out, options, on_progress, predictor),
        *(out, "predicting", f"images in {out / 'predictions.csv'}", as_json, console),
    )
