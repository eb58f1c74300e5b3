"""`gtsa export --format triton`: what it does, and what it shows of it. Commands import this when they run."""

import shlex
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gtsa_kit.cli.support.common import fail, require
from gtsa_kit.cli.support.export_steps import megabytes, open_source_with_note, progress_callback
from gtsa_kit.cli.support.parity_table import failure_message, parity_table
from gtsa_kit.cli.support.progress import Steps, make_console
from gtsa_kit.export.manifest import Manifest
from gtsa_kit.export.parity_images import load_parity_images
from gtsa_kit.export.pipeline import check_supported, export_artifact, read_calibration
from gtsa_kit.export.source import ImportOptions, Source
from gtsa_kit.export.spec import SUFFIX, ExportOptions
from gtsa_kit.export.triton.config import ServingOptions, check_serving
from gtsa_kit.export.triton.models import open_artifact, repository_models
from gtsa_kit.export.triton.repository import RepositoryModel, check_targets, write_repository

SERVED = (SUFFIX["onnx"], SUFFIX["trt"])


def parse_serving(
    name: str | None, instances: str | None, max_batch: int | None, delay_ms: float | None
) -> ServingOptions:
    """--name, --instances, --max-batch and --queue-delay-ms; None leaves one to us."""
    kind, _, count = (instances or "1").rpartition(":")
    if not count.isdecimal() or kind not in ("", "gpu", "cpu"):
        raise ValueError(f"--instances takes N, gpu:N or cpu:N, got {instances!r}")
    standard = ServingOptions()
    return ServingOptions(
        name=standard.name if name is None else name,
        instances=int(count),
        kind=kind or "auto",  # type: ignore[arg-type]
        max_batch=max_batch,
        queue_delay_ms=standard.queue_delay_ms if delay_ms is None else delay_ms,
    )


def export_triton(
    path: Path,
    import_options: ImportOptions,
    serving: ServingOptions,
    precision: str | None,
    options: ExportOptions,
    calibrate: Path | None,
    images: Path | None,
    out: Path | None,
    force: bool,
) -> None:
    """A file as it is, or weights through the parity gate, into a model repository."""
    shown = make_console()
    if path.is_file() and path.suffix in SERVED:
        manifest = open_artifact(path)
        _check_as_it_is(path, manifest, precision, options, calibrate)
        _write(path, manifest, serving, options.input == "uint8", out or path.parent / "triton", force, shown)
        return
    check_serving("onnx", options.precision, options.batch, serving)
    check_supported("onnx", options, calibrate is not None)
    opened = open_source_with_note(path, import_options, shown)
    repository = out or opened.folder / "triton"
    check_targets(repository, [serving.name], force)
    repository.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{repository.name}-", dir=repository.parent) as folder:
        graph = Path(folder, "encoder.onnx")
        manifest = _export(opened, graph, options, calibrate, images, shown)
        _write(graph, manifest, serving, options.input == "uint8", repository, force, shown)


def _check_as_it_is(
    path: Path, manifest: Manifest, precision: str | None, options: ExportOptions, calibrate: Path | None
) -> None:
    """Refuse what would need another graph."""
    as_it_is = ExportOptions(precision=options.precision, input=options.input)
    if precision not in (None, manifest.precision) or options != as_it_is or calibrate:
        raise ValueError(
            f"{path} is served as it is; leave out --precision, --calibrate, --size, --batch, --layers and --opset, or "
            "name the run that it came from"
        )


def _export(
    opened: Source, graph: Path, options: ExportOptions, calibrate: Path | None, images: Path | None, shown: Console
) -> Manifest:
    parity_set = load_parity_images(require(images) if images else opened.images)
    calibration = read_calibration(require(calibrate)) if calibrate else None
    shown.print("writing the graph")
    with Steps(shown) as steps:
        manifest = export_artifact(opened, "onnx", graph, options, parity_set, calibration, progress_callback(steps))
    assert manifest.parity is not None
    shown.print(parity_table(manifest.parity))
    if not manifest.parity.passed:
        fail(f"{failure_message(opened.path, manifest.parity)}; no repository was written", 1)
    return manifest


def _write(
    artifact: Path,
    manifest: Manifest,
    serving: ServingOptions,
    uint8_input: bool,
    repository: Path,
    force: bool,
    shown: Console,
) -> None:
    models = repository_models(artifact, manifest, serving, uint8_input)
    size = megabytes(artifact)
    write_repository(repository, models, force)
    shown.print(_models_table(models))
    if manifest.engine:
        shown.print(f"the server must hold TensorRT {manifest.engine.version}, which built the engine", soft_wrap=True)
    start = f"tritonserver --model-repository={shlex.quote(str(repository.resolve()))}"
    shown.print(f"{repository}  {size:.1f} MB; {start}", soft_wrap=True)


def _models_table(models: list[RepositoryModel]) -> Table:
    """A row for each input and output."""
    table = Table(box=None, pad_edge=False)
    for name in ("model", "", "tensor", "type", "dims", "batch"):
        table.add_column(name, overflow="fold")
    for model in models:
        most = model.config["max_batch_size"]
        for way in ("input", "output"):
            for tensor in model.config[way]:
                dims = ", ".join("any" if length == -1 else str(length) for length in tensor["dims"])
                batch = f"up to {most}" if most else "in dims"
                table.add_row(model.name, way, tensor["name"], tensor["data_type"], dims, batch)
    return table
