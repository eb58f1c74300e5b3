"""Steps and output of `gtsa export --part head`. Imports torch, so the command imports it when it runs."""

from dataclasses import replace
from pathlib import Path

from gtsa_kit.cli.support.common import fail, require
from gtsa_kit.cli.support.export_result import ExportResult
from gtsa_kit.cli.support.export_steps import megabytes, progress_callback
from gtsa_kit.cli.support.parity_table import failure_message, parity_table
from gtsa_kit.cli.support.progress import Steps, make_console
from gtsa_kit.cli.support.task_options import TaskExportOptions
from gtsa_kit.export.head_export import check_head_options, export_head_artifact
from gtsa_kit.export.parity_images import load_parity_images
from gtsa_kit.export.pipeline import artifact_path
from gtsa_kit.export.source import open_source
from gtsa_kit.export.spec import HEAD, ExportOptions


def export_head(
    path: Path,
    format_name: str,
    task: TaskExportOptions,
    options: ExportOptions,
    images: Path | None,
    out: Path | None,
    force: bool,
    result: ExportResult,
) -> None:
    """Write the head of a fine-tuned run, and print its parity; exit with 1 if it fails the gate.

    Raises:
        ValueError: An option is invalid or not for heads; nothing was written.
    """
    if task.part != HEAD:
        raise ValueError(f"--part takes model or head, got {task.part!r}")
    if format_name not in ("onnx", "auto"):
        raise ValueError(f"a head alone is exported to onnx, got --format {format_name}")
    if task.score:
        raise ValueError("--score is for whole models; omit it for a head")
    console, source = make_console(), open_source(path)
    check_head_options(source, options)
    file = artifact_path(replace(source, part=HEAD), "onnx", out, force)
    parity_set = load_parity_images(require(images) if images else source.images)
    console.print(f"writing {file}", soft_wrap=True)
    with Steps(console) as steps:
        manifest = export_head_artifact(source, file, options, parity_set, progress_callback(steps))
    assert manifest.parity is not None
    result.add_file(file, manifest)
    console.print(parity_table(manifest.parity))
    if not manifest.parity.passed:
        fail(f"{failure_message(file, manifest.parity)}; do not use it, its report is beside it", 1)
    inputs = ", ".join(spec.name for spec in manifest.inputs)
    console.print(f"{file}  {megabytes(file):.1f} MB, parity passed; it takes {inputs} of its encoder", soft_wrap=True)
