"""Encoder to TorchScript."""

import io
import warnings
from pathlib import Path

import torch

from gtsa_kit.encoder import Encoder
from gtsa_kit.export.graph import ExportGraph, example_input
from gtsa_kit.files import atomic_write


def export_torchscript(encoder: Encoder, path: Path) -> dict[str, str]:
    """Trace the encoder into `path`; the file runs where there is torch and nothing else.

    Returns:
        The manifest's target.
    """
    buffer = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        # torch.jit announces its retirement and that shapes were looked at; the parity gate tries several shapes.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(ExportGraph(encoder), example_input(), check_trace=False)  # type: ignore[no-untyped-call]
        torch.jit.save(traced, buffer)
    with atomic_write(path) as file:
        file.write(buffer.getbuffer())
    return {"torch": torch.__version__}
