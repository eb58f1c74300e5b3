"""TorchScript export."""

import io
import zipfile
from pathlib import Path
from typing import BinaryIO

import torch

from gtsa_kit.export.formats.tracing import tracing
from gtsa_kit.export.graph import example_input
from gtsa_kit.export.spec import ExportOptions
from gtsa_kit.export.task_graph import build_graph, float_head_note, options_for
from gtsa_kit.files import atomic_write
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.task_model import TaskModel


def export_torchscript(model: Encoder | TaskModel, options: ExportOptions, path: Path) -> dict[str, str]:
    """Trace an encoder or a task model, freeze it and write it to `path`; the file needs torch alone to run.

    Returns:
        The `target` of the manifest.
    """
    options, buffer = options_for(model, options), io.BytesIO()
    with tracing():
        graph, example = build_graph(model, options), example_input(options)
        traced = torch.jit.trace(graph, example, check_trace=False)  # type: ignore[no-untyped-call]
        torch.jit.save(torch.jit.freeze(traced), buffer)
    with atomic_write(path) as file:
        copy_without_debug_info(buffer, file)
    return {"torch": torch.__version__} | float_head_note(model, options)


def copy_without_debug_info(archive: BinaryIO, out: BinaryIO) -> None:
    """Copy an archive without its `.debug_pkl` entries, which name source files of the exporting machine."""
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as copy:
        for entry in source.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                copy.writestr(entry, source.read(entry))
