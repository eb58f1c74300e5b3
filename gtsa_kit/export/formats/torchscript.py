"""Encoder to TorchScript."""

import io
import warnings
import zipfile
from pathlib import Path
from typing import BinaryIO

import torch

from gtsa_kit.export.graph import ExportGraph, example_input
from gtsa_kit.export.spec import ExportOptions
from gtsa_kit.files import atomic_write
from gtsa_kit.models.encoder import Encoder


def export_torchscript(encoder: Encoder, options: ExportOptions, path: Path) -> dict[str, str]:
    """Trace and freeze the encoder into `path`; the file runs where there is torch and nothing else.

    Returns:
        The manifest's target.
    """
    buffer = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        # torch.jit announces its retirement and that shapes were looked at; the parity gate tries several shapes.
        warnings.simplefilter("ignore")
        graph, example = ExportGraph(encoder, options), example_input(options)
        traced = torch.jit.trace(graph, example, check_trace=False)  # type: ignore[no-untyped-call]
        torch.jit.save(torch.jit.freeze(traced), buffer)
    with atomic_write(path) as file:
        copy_without_traces(buffer, file)
    return {"torch": torch.__version__}


def copy_without_traces(archive: BinaryIO, out: BinaryIO) -> None:
    """Leave out what TorchScript shows when it fails: lines of source, with folders of the machine that exported."""
    with zipfile.ZipFile(archive) as full, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as lean:
        for entry in full.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                lean.writestr(entry, full.read(entry))
