"""Traces run without gradients, the search for reference cycles and torch.export's cache, and leave all as it was."""

import gc
from pathlib import Path

import pytest
import torch
from torch._dynamo import config

from gtsa_kit.export.pipeline import EXPORTERS
from gtsa_kit.export.spec import ExportOptions
from gtsa_kit.models.encoder import Encoder


class ReachedError(Exception):
    """Raised in place of a trace."""


@pytest.mark.parametrize(
    ("file_format", "function"),
    [("torchscript", "jit.trace"), ("pt2", "export.export"), ("onnx", "onnx.export"), ("openvino", "export.export")],
)
def test_every_format_is_traced_without_what_only_takes_time(
    file_format: str, function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if file_format == "openvino":
        pytest.importorskip("openvino")
    during = []

    def trace(*_: object, **__: object) -> None:
        during.append((gc.isenabled(), torch.is_grad_enabled(), config.fake_tensor_cache_enabled))
        raise ReachedError

    monkeypatch.setattr(f"torch.{function}", trace)
    with pytest.raises(ReachedError):
        EXPORTERS[file_format](Encoder("vit_test").eval(), ExportOptions(), tmp_path / "file", None)
    assert during == [(False, False, file_format == "torchscript")]
    assert config.fake_tensor_cache_enabled
    assert gc.isenabled()
    assert torch.is_grad_enabled()
