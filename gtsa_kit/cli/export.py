"""gtsa export."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gtsa_kit.cli.common import fail, require
from gtsa_kit.cli.parsing import parse_colour, parse_layers, parse_range, parse_sizes

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from gtsa_kit.cli.progress import Steps
    from gtsa_kit.export.fastest import Choice
    from gtsa_kit.export.parity import ParityImages
    from gtsa_kit.export.quantize import Calibration
    from gtsa_kit.export.source import Source
    from gtsa_kit.export.spec import Options

Sides = "N, or HEIGHTxWIDTH; multiples of 16."


def export(
    source: Annotated[
        Path,
        typer.Argument(
            help="A run folder, weights (of ours, timm, Hugging Face, DINO, MoCo v3, the paper's authors), or an "
            "ONNX file exported before.",
            metavar="SOURCE",
        ),
    ],
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="onnx, torchscript, pt2, openvino; all of these; or a checkpoint for timm, hf, mmseg, mmdet, "
            "detectron2. auto: the fastest on this machine that holds parity.",
        ),
    ] = "auto",
    precision: Annotated[
        str | None, typer.Option(help="fp32, fp16, bf16 or int8. Default: fp32; for auto, what is fastest.")
    ] = None,
    size: Annotated[str | None, typer.Option(help=f"Fix the input's size, which folds the positions. {Sides}")] = None,
    min_size: Annotated[str | None, typer.Option(help=f"Smallest input. {Sides}")] = None,
    max_size: Annotated[str | None, typer.Option(help=f"Largest input. {Sides} Default: no limit.")] = None,
    batch: Annotated[str | None, typer.Option(help="N fixes it, MIN:MAX bounds it. Default: any.")] = None,
    layers: Annotated[str | None, typer.Option(help="Blocks whose maps are outputs too: 2,5,8,11.")] = None,
    opset: Annotated[int | None, typer.Option(help="Of ONNX: 18 to 23. Default: 20.")] = None,
    input_type: Annotated[
        str, typer.Option("--input", help="float32: normalised (B, 3, H, W). uint8: (B, H, W, 3), RGB as it is.")
    ] = "float32",
    calibrate: Annotated[Path | None, typer.Option(help="Typical photographs, for int8's ranges.")] = None,
    images: Annotated[
        Path | None, typer.Option(help="Photographs for the parity gate. Default: those that the run was trained on.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File or folder. Default: beside the weights, as encoder.onnx and so on.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    branch: Annotated[str | None, typer.Option(help="teacher or student, of a foreign checkpoint with both.")] = None,
    heads: Annotated[int | None, typer.Option(min=1, help="Attention heads of a foreign checkpoint.")] = None,
    mean: Annotated[str | None, typer.Option(help="What foreign weights were trained with: 0.5,0.5,0.5.")] = None,
    std: Annotated[str | None, typer.Option(help="Likewise.")] = None,
) -> None:
    """Write a file that other tools run, and prove that it computes what the encoder computes.

    One graph takes any batch and any height and width in steps of 16, unless --size or --batch fix them. The file is
    opened again and compared with the float32 encoder on photographs at many shapes; the report goes into FILE.json.
    Exits with 1 if it differs by more than its precision may.

    [bold]Examples[/bold]

      gtsa export runs/street

      gtsa export runs/street --format onnx --layers 2,5,8,11 --input uint8

      gtsa export runs/street --format openvino --precision int8 --calibrate photos/

      gtsa export dino_deitsmall16_pretrain.pth --format onnx --out deploy/
    """
    require(source)
    if branch not in (None, "teacher", "student"):
        raise ValueError(f"--branch takes teacher or student, got {branch!r}")
    from gtsa_kit.export.spec import ANY_BATCH, OPSET, Options

    height, width = parse_sizes(size, min_size, max_size)
    options = Options(
        precision=precision or "fp32",  # type: ignore[arg-type]
        height=height,
        width=width,
        batch=parse_range(batch, "--batch") if batch else ANY_BATCH,
        layers=parse_layers(layers),
        opset=opset or OPSET,
        input=input_type,  # type: ignore[arg-type]
    )
    colours = parse_colour(mean, "--mean"), parse_colour(std, "--std")
    from gtsa_kit.cli.progress import console
    from gtsa_kit.export.source import Hints, open_source

    hints = Hints(branch, heads, *colours)  # type: ignore[arg-type]
    opened = open_source(source, hints)
    shown = console()
    if opened.note:
        shown.print(opened.note, soft_wrap=True)
    _dispatch(opened, form, precision, options, calibrate, images, out, force, shown)


def _dispatch(
    opened: "Source",
    form: str,
    precision: str | None,
    options: "Options",
    calibrate: Path | None,
    images: Path | None,
    out: Path | None,
    force: bool,
    shown: "Console",
) -> None:
    """Call what the format asks for."""
    from gtsa_kit.export.frameworks import FRAMEWORKS
    from gtsa_kit.export.parity import parity_images
    from gtsa_kit.export.pipeline import read_calibration
    from gtsa_kit.export.spec import FORMATS, SUFFIX

    by_suffix = {suffix: name for name, suffix in SUFFIX.items()}
    if form == "auto" and out and out.suffix in by_suffix:
        form = by_suffix[out.suffix]
    known = ("auto", "all", *FORMATS, *FRAMEWORKS)
    if form not in known:
        raise ValueError(f"unknown format {form!r}; choose one of {', '.join(known)}")
    photographs = parity_images(require(images) if images else opened.photographs)
    if form in FRAMEWORKS:
        return _framework(opened, form, out or opened.folder / form, photographs, force, shown)
    calibration = read_calibration(require(calibrate)) if calibrate else None
    if form == "auto":
        return _fastest(opened, precision, options, photographs, calibration, out or opened.folder, force, shown)
    forms = _all_of(options, shown) if form == "all" else [form]
    return _each(opened, forms, options, photographs, calibration, out, force, shown)


def _all_of(options: "Options", shown: "Console") -> list[str]:
    """Every format that has the precision and whose library is here."""
    import importlib.util

    from gtsa_kit.export.spec import FORMATS, OFFERED

    forms = [name for name in FORMATS if options.precision in OFFERED[name]]
    for name in set(FORMATS) - set(forms):
        shown.print(f"{name} is left out: it is not offered in {options.precision}")
    if "openvino" in forms and importlib.util.find_spec("openvino") is None:
        shown.print("openvino is left out: pip install 'gtsa-kit[openvino]'", markup=False)
        forms.remove("openvino")
    return forms


def _each(
    opened: "Source",
    forms: list[str],
    options: "Options",
    photographs: "ParityImages",
    calibration: "Calibration | None",
    out: Path | None,
    force: bool,
    shown: "Console",
) -> None:
    from gtsa_kit.cli.parity import parity_table, verdict
    from gtsa_kit.cli.progress import Steps
    from gtsa_kit.export.pipeline import artifact_path, check_offer, export_artifact

    for name in forms:
        check_offer(name, options, calibration is not None)
    paths = [artifact_path(opened, name, out, force) for name in forms]  # all of it is refused before any is written
    failures = []
    for name, path in zip(forms, paths, strict=True):
        shown.print(f"writing {path}", soft_wrap=True)
        with Steps(shown) as steps:
            on_case = counting(steps)
            manifest = export_artifact(opened, name, path, options, photographs, calibration, on_case)
        assert manifest.parity is not None
        shown.print(parity_table(manifest.parity))
        if manifest.parity.passed:
            shown.print(
                f"{path}  {_megabytes(path):.1f} MB, parity holds; the manifest is {path.name}.json", soft_wrap=True
            )
            continue
        failures.append(verdict(path, manifest.parity))
        if calibration and options.precision == "int8":
            shown.print(_sensitivity_table(opened, calibration, options, shown))
    if failures:
        fail(f"{failures[0]}; do not use it, its report is beside it", 1)


def _fastest(
    opened: "Source",
    precision: str | None,
    options: "Options",
    photographs: "ParityImages",
    calibration: "Calibration | None",
    out: Path,
    force: bool,
    shown: "Console",
) -> None:
    from gtsa_kit.cli.progress import Steps
    from gtsa_kit.export.fastest import candidates, export_fastest
    from gtsa_kit.export.pipeline import artifact_path, check_offer

    if out.suffix and not out.is_dir():
        raise ValueError(f"{out} ends in no format's suffix; name a folder, or a format with --format")
    rounds = candidates(precision)  # type: ignore[arg-type]
    for candidate in (one for of in rounds for one in of):
        check_offer(candidate.form, options, calibration is not None)
        artifact_path(opened, candidate.form, out, force)
    with Steps(shown) as steps:

        def on_step(what: str, done: int, total: int) -> None:
            if done == 0:
                steps.begin("looking for the fastest", total)
            steps.update(done, what)

        choice = export_fastest(opened, out, options, rounds, photographs, calibration, on_step)
    if choice is None:
        fail("no format held parity; export one by name with --format to see how it differs", 1)
    _show_choice(choice, shown)


def _show_choice(choice: "Choice", shown: "Console") -> None:
    import importlib.util

    from rich.table import Table

    from gtsa_kit.cli.parity import parity_table

    assert choice.manifest.parity is not None
    shown.print(parity_table(choice.manifest.parity))
    table = Table(title="images per second", title_justify="left", box=None)
    for name in ("artifact", "images/s", "shape"):
        table.add_column(name, justify="right" if name == "images/s" else "left")
    for speed in sorted(choice.speeds, key=lambda one: -one.images_per_second):
        table.add_row(speed.name, f"{speed.images_per_second:.1f}", str(speed.shape))
    shown.print(table)
    for candidate in choice.failed:
        shown.print(f"{candidate} did not hold parity")
    if importlib.util.find_spec("openvino") is None:
        shown.print("OpenVINO may be faster on this processor: pip install 'gtsa-kit[openvino]'", markup=False)
    path, manifest = choice.path, choice.manifest
    shown.print(
        f"{path}  {manifest.format} {manifest.precision}, {_megabytes(path):.1f} MB, parity holds; "
        f"the manifest is {path.name}.json",
        soft_wrap=True,
    )


def _framework(
    opened: "Source", form: str, folder: Path, photographs: "ParityImages", force: bool, shown: "Console"
) -> None:
    from gtsa_kit.cli.parity import parity_table, verdict
    from gtsa_kit.export.frameworks import export_framework

    report = export_framework(opened.encoder, form, folder, photographs, force)
    shown.print(parity_table(report.parity))
    if not report.parity.passed:
        fail(f"{verdict(folder, report.parity)}; do not use it, its report is in gtsa.json", 1)
    shown.print(f"{folder}  {', '.join(report.files)}; parity holds; how to use it: docs/frameworks.md", soft_wrap=True)


def _sensitivity_table(opened: "Source", calibration: "Calibration", options: "Options", shown: "Console") -> "Table":
    """Which layers int8 hurts."""
    from rich.table import Table

    from gtsa_kit.cli.progress import Steps
    from gtsa_kit.export.graph import ExportGraph
    from gtsa_kit.export.quantize import calibration_batches, sensitivity

    batches = list(calibration_batches(calibration, opened.encoder.preprocessing, options))
    with Steps(shown) as steps:
        found = sensitivity(ExportGraph(opened.encoder, options), batches, counting(steps, "which layers hurt"))
    table = Table(title="worst patch cosine if this layer alone were int8", title_justify="left", box=None)
    table.add_column("layer")
    table.add_column("cosine", justify="right")
    for name, cosine in found[:10]:
        table.add_row(name, f"{cosine:.6f}")
    return table


def counting(steps: "Steps", what: str = "parity") -> Callable[[int, int], None]:
    """Something to tell (done, in all)."""

    def tell(done: int, total: int) -> None:
        if done == 1:
            steps.begin(what, total)
        steps.update(done)

    return tell


def _megabytes(path: Path) -> float:
    weights = path.with_suffix(".bin")
    return (path.stat().st_size + (weights.stat().st_size if path.suffix == ".xml" else 0)) / 1e6
