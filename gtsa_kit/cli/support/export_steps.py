"""What `gtsa export` does for each kind of format, and what it shows of it. Commands import this when they run."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gtsa_kit.cli.support.common import fail
from gtsa_kit.cli.support.parity_table import parity_table, verdict
from gtsa_kit.cli.support.progress import Steps
from gtsa_kit.export.benchmark.autoselect import Autoselection, autoselect, candidates
from gtsa_kit.export.formats.frameworks import export_framework
from gtsa_kit.export.formats.quantize import QUANT_TYPES, Calibration, calibration_batches, layer_sensitivity
from gtsa_kit.export.graph import ExportGraph
from gtsa_kit.export.parity_images import ParityImages
from gtsa_kit.export.pipeline import artifact_path, check_supported, export_artifact
from gtsa_kit.export.source import ImportOptions, Source, open_source
from gtsa_kit.export.spec import FORMATS, QUANTIZED, SUPPORTED_PRECISIONS, ExportOptions


def open_source_with_note(path: Path, hints: ImportOptions, shown: Console) -> Source:
    """Open a source, and show what was taken out of a foreign one."""
    opened = open_source(path, hints)
    if opened.note:
        shown.print(opened.note, soft_wrap=True)
    return opened


def all_formats(options: ExportOptions, shown: Console) -> list[str]:
    """Every format that has the precision and whose library is here."""
    forms = [name for name in FORMATS if options.precision in SUPPORTED_PRECISIONS[name]]
    for name in set(FORMATS) - set(forms):
        shown.print(f"{name} is left out: it is not offered in {options.precision}")
    if "openvino" in forms and importlib.util.find_spec("openvino") is None:
        shown.print("openvino is left out: pip install 'gtsa-kit[openvino]'", markup=False)
        forms.remove("openvino")
    if "trt" in forms:  # it has choices of its own
        shown.print("trt is left out: gtsa export --format trt")
        forms.remove("trt")
    return forms


def export_each(
    opened: Source,
    forms: list[str],
    options: ExportOptions,
    images: ParityImages,
    calibration: Calibration | None,
    out: Path | None,
    force: bool,
    shown: Console,
) -> None:
    """Formats by name: all of it is refused before any is written; exits with 1 if one does not hold parity."""
    for name in forms:
        check_supported(name, options, calibration is not None)
    paths = [artifact_path(opened, name, out, force) for name in forms]
    failures = []
    for name, path in zip(forms, paths, strict=True):
        shown.print(f"writing {path}", soft_wrap=True)
        with Steps(shown) as steps:
            on_case = counting(steps)
            manifest = export_artifact(opened, name, path, options, images, calibration, on_case)
        assert manifest.parity is not None
        shown.print(parity_table(manifest.parity))
        if manifest.parity.passed:
            shown.print(
                f"{path}  {megabytes(path):.1f} MB, parity holds; the manifest is {path.name}.json", soft_wrap=True
            )
            continue
        failures.append(verdict(path, manifest.parity))
        if calibration and options.precision in QUANTIZED:
            shown.print(_sensitivity_table(opened, calibration, options, shown))
    if failures:
        fail(f"{failures[0]}; do not use it, its report is beside it", 1)


def export_the_fastest(
    opened: Source,
    precision: str | None,
    options: ExportOptions,
    images: ParityImages,
    calibration: Calibration | None,
    out: Path,
    force: bool,
    shown: Console,
) -> None:
    """The fastest format on this machine that holds parity."""
    if out.suffix and not out.is_dir():
        raise ValueError(f"{out} ends in no format's suffix; name a folder, or a format with --format")
    rounds = candidates(precision)  # type: ignore[arg-type]
    for candidate in (one for of in rounds for one in of):
        check_supported(candidate.file_format, options, calibration is not None)
        artifact_path(opened, candidate.file_format, out, force)
    with Steps(shown) as steps:

        def on_step(what: str, done: int, total: int) -> None:
            if done == 0:
                steps.begin("looking for the fastest", total)
            steps.update(done, what)

        choice = autoselect(opened, out, options, rounds, images, calibration, on_step)
    if choice is None:
        fail("no format held parity; export one by name with --format to see how it differs", 1)
    _show_choice(choice, shown)


def _show_choice(choice: Autoselection, shown: Console) -> None:
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
        f"{path}  {manifest.format} {manifest.precision}, {megabytes(path):.1f} MB, parity holds; "
        f"the manifest is {path.name}.json",
        soft_wrap=True,
    )


def export_for_framework(
    opened: Source, form: str, folder: Path, images: ParityImages, force: bool, shown: Console
) -> None:
    """A folder for another framework, read back and compared."""
    report = export_framework(opened.encoder, form, folder, images, force)
    shown.print(parity_table(report.parity))
    if not report.parity.passed:
        fail(f"{verdict(folder, report.parity)}; do not use it, its report is in gtsa.json", 1)
    shown.print(f"{folder}  {', '.join(report.files)}; parity holds; how to use it: docs/frameworks.md", soft_wrap=True)


def _sensitivity_table(opened: Source, calibration: Calibration, options: ExportOptions, shown: Console) -> Table:
    """Which layers rounding hurts."""
    batches = list(calibration_batches(calibration, opened.encoder.preprocessing, options))
    with Steps(shown) as steps:
        grid = QUANT_TYPES[options.precision]
        found = layer_sensitivity(
            ExportGraph(opened.encoder, options), batches, grid, counting(steps, "which layers hurt")
        )
    table = Table(
        title=f"worst patch cosine if this layer alone were {options.precision}", title_justify="left", box=None
    )
    table.add_column("layer")
    table.add_column("cosine", justify="right")
    for name, cosine in found[:10]:
        table.add_row(name, f"{cosine:.6f}")
    return table


def counting(steps: Steps, what: str = "parity") -> Callable[[int, int], None]:
    """Something to tell (done, in all)."""

    def tell(done: int, total: int) -> None:
        if done == 1:
            steps.begin(what, total)
        steps.update(done)

    return tell


def megabytes(path: Path) -> float:
    """Size of an artifact, with the weights that lie beside it."""
    weights = path.with_suffix(".bin")
    return (path.stat().st_size + (weights.stat().st_size if path.suffix == ".xml" else 0)) / 1e6
