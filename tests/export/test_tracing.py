"""Traces run without gradients and without the search for reference cycles, and leave both as they were."""

import gc
from pathlib import Path

import pytest
import torch

from gtsa_kit.export.pipeline import EXPORTERS
from gtsa_kit.export.spec import ExportOptions
from gtsa_kit.models.encoder import Encoder


class ReachedError(Exception):
    """Raised in place of a trace."""


@pytest.mark.parametrize(
    ("file_format", "function"),
    [("torchscript", "jit.trace"), ("pt2", "export.export"), ("onnx", "onnx.export"), ("openvino", "export.export")],
)
def test_every_format_is_traced_without_a_search_for_cycles(
    file_format: str, function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if file_format == "openvino":
        pytest.importorskip("openvino")
    during = []

    def trace(*_: object, **__: object) -> None:
        during.append((gc.isenabled(), torch.is_grad_enabled()))
        raise ReachedError

    monkeypatch.setattr(f"torch.{function}", trace)
    with pytest.raises(ReachedError):
        EXPORTERS[file_format](Encoder("vit_test").eval(), ExportOptions(), tmp_path / "file", None)
    assert during == [(False, False)]
    assert gc.isenabled()
    assert torch.is_grad_enabled()
