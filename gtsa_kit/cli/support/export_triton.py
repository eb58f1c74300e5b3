"""Steps and output of `gtsa export --format triton`. Imports torch, so the command imports it when it runs."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gtsa_kit.cli.support.common import fail, require
from gtsa_kit.cli.support.export_ensemble import layers_of_heads, open_heads
from gtsa_kit.cli.support.export_result import ExportResult
from gtsa_kit.cli.support.export_steps import megabytes, progress_callback
from gtsa_kit.cli.support.gate_again import gate_again
from gtsa_kit.cli.support.opening import open_encoder
from gtsa_kit.cli.support.parity_table import failure_message, parity_table
from gtsa_kit.cli.support.progress import Steps, make_console
from gtsa_kit.cli.support.score_steps import fail_if_lower, open_score_gate, score_file
from gtsa_kit.cli.support.task_options import ScoreOptions
from gtsa_kit.export.folder_report import read_folder_report
from gtsa_kit.export.manifest import Manifest
from gtsa_kit.export.open_options import ImportOptions
from gtsa_kit.export.parity_images import load_parity_images
from gtsa_kit.export.pipeline import check_supported, export_artifact, read_calibration
from gtsa_kit.export.source import Source
from gtsa_kit.export.spec import SUFFIX, ExportOptions, InputType
from gtsa_kit.export.triton.config import ServingOptions, check_serving
from gtsa_kit.export.triton.ensemble import ServedHead, ensemble_models, ensemble_names
from gtsa_kit.export.triton.models import open_artifact, repository_models
from gtsa_kit.export.triton.repository import RepositoryModel, check_targets, write_repository
from gtsa_kit.files import shell_word

SERVED_SUFFIXES = (SUFFIX["onnx"], SUFFIX["trt"])


def parse_serving(
    name: str | None, instances: str | None, max_batch: int | None, delay_ms: float | None
) -> ServingOptions:
    """Parse --name, --instances, --max-batch and --queue-delay-ms; None takes the default."""
    kind, _, count = (instances or "1").rpartition(":")
    if not count.isdecimal() or kind not in ("", "gpu", "cpu"):
        raise ValueError(f"--instances takes N, gpu:N or cpu:N, got {instances!r}")
    defaults = ServingOptions()
    return ServingOptions(
        name=defaults.name if name is None else name,
        instances=int(count),
        kind=kind or "auto",  # type: ignore[arg-type]
        max_batch=max_batch,
        queue_delay_ms=defaults.queue_delay_ms if delay_ms is None else delay_ms,
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
    result: ExportResult,
    scoring: ScoreOptions,
    heads: Mapping[str, Path],
) -> None:
    """Write a model repository from an exported file as it is, or from weights, which are exported to ONNX first.

    Exits with 1 if the export fails the parity gate.

    Args:
        path: Exported file, run folder or weights.
        import_options: Facts that a checkpoint of another tool does not contain.
        serving: Settings of the served model.
        precision: Value of --precision; None if it was not given.
        options: Options of the export.
        calibrate: Folder of calibration images for int8 and fp8.
        images: Folder of images for the parity gate; None takes those of the run.
        out: Folder of the repository; by default `triton` beside the source.
        force: Whether to replace models that gtsa-kit wrote before.
        result: Result to which the written model is added.
        scoring: Labeled images for the task-score gate.
        heads: File or run folder of each head by its name, for an ensemble of the encoder and them.

    Raises:
        ValueError: An option is invalid, or the file can't be served; nothing was written.
    """
    console = make_console()
    if path.is_file() and path.suffix in SERVED_SUFFIXES:
        gate = partial(gate_again, path, images=images, console=console)
        manifest = open_artifact(path, gate)
        _check_unchanged(path, manifest, precision, options, calibrate)
        if scoring.score:
            raise ValueError(f"{path} is served as it is; score it with: gtsa verify {shell_word(path)} --score DATA")
        repository = out or path.parent / "triton"
        with _scratch(repository) as folder:
            opened_heads = open_heads(heads, manifest, folder, images, console)
            _write(path, manifest, serving, options.input, repository, force, result, console, opened_heads)
        return
    check_serving("onnx", options.precision, options.batch, serving)
    check_supported("onnx", options, calibrate is not None)
    if heads:
        options = replace(options, layers=tuple(sorted({*options.layers, *layers_of_heads(heads)})))
    opened = open_encoder(path, import_options, console)
    if heads and opened.task:
        raise ValueError(f"{path} has a head of its own; omit --head, or name the encoder that it was trained on")
    repository = out or opened.folder / "triton"
    check_targets(repository, ensemble_names(serving, tuple(heads), False) if heads else [serving.name], force)
    score_gate = open_score_gate(opened, scoring, console)
    with _scratch(repository) as folder:
        graph = folder / "encoder.onnx"
        manifest = score_file(graph, _export(opened, graph, options, calibrate, images, console), score_gate)
        fail_if_lower(graph, manifest.task_score)
        opened_heads = open_heads(heads, manifest, folder, images, console)
        _write(graph, manifest, serving, options.input, repository, force, result, console, opened_heads)


@contextmanager
def _scratch(repository: Path) -> Iterator[Path]:
    """Create a hidden folder beside a repository, and remove it at the end."""
    repository.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{repository.name}-", dir=repository.parent) as folder:
        yield Path(folder)


def _check_unchanged(
    path: Path, manifest: Manifest, precision: str | None, options: ExportOptions, calibrate: Path | None
) -> None:
    """Raise `ValueError` for options that would change the graph of an exported file."""
    unchanged = ExportOptions(precision=options.precision, input=options.input)
    if precision not in (None, manifest.precision) or options != unchanged or calibrate:
        raise ValueError(
            f"{path} is served as it is; omit --precision, --calibrate, --size, --batch, --layers, --class-token, "
            "--opset, --output and --keep-float, or give the run that it was exported from"
        )


def _export(
    opened: Source, graph: Path, options: ExportOptions, calibrate: Path | None, images: Path | None, console: Console
) -> Manifest:
    preprocessing = opened.encoder.preprocessing
    parity_set = load_parity_images(require(images) if images else opened.images, preprocessing)
    calibration = read_calibration(require(calibrate), preprocessing) if calibrate else None
    console.print("writing the graph")
    with Steps(console) as steps:
        manifest = export_artifact(opened, "onnx", graph, options, parity_set, calibration, progress_callback(steps))
    assert manifest.parity is not None
    console.print(parity_table(manifest.parity))
    if not manifest.parity.passed:
        fail(f"{failure_message(opened.path, manifest.parity)}; no repository was written", 1)
    return manifest


def _write(
    artifact: Path,
    manifest: Manifest,
    serving: ServingOptions,
    input_type: InputType,
    repository: Path,
    force: bool,
    result: ExportResult,
    console: Console,
    heads: Sequence[ServedHead],
) -> None:
    if heads:
        models = ensemble_models(artifact, manifest, serving, input_type, heads)
    else:
        models = repository_models(artifact, manifest, serving, input_type)
    size = megabytes(artifact) + sum(megabytes(head.file) for head in heads)
    *_, folder = write_repository(repository, models, force)
    result.add_folder(folder, read_folder_report(folder))
    console.print(_models_table(models))
    if manifest.engine:
        console.print(
            f"the server must have TensorRT {manifest.engine.version}, which built the engine", soft_wrap=True
        )
    start = f"tritonserver --model-repository={shell_word(repository.resolve())}"
    console.print(f"{repository}  {size:.1f} MB; {start}", soft_wrap=True)


def _models_table(models: list[RepositoryModel]) -> Table:
    """Build a table with a row for each input and output."""
    table = Table(box=None, pad_edge=False)
    for name in ("model", "", "tensor", "type", "dims", "batch"):
        table.add_column(name, overflow="fold")
    for model in models:
        max_batch = model.config["max_batch_size"]
        for direction in ("input", "output"):
            for tensor in model.config[direction]:
                dims = ", ".join("any" if length == -1 else str(length) for length in tensor["dims"])
                batch = f"up to {max_batch}" if max_batch else "in dims"
                table.add_row(model.name, direction, tensor["name"], tensor["data_type"], dims, batch)
    return table
