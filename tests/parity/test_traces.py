"""Traces that tests share: what gives another graph gives another key."""

from dataclasses import replace

import torch
from helpers.traces import trace_key

from gtsa_kit.export.graph import ExportGraph
from gtsa_kit.export.spec import ExportOptions, Range
from gtsa_kit.export.task_graph import build_graph, options_for
from gtsa_kit.models.encoder import Encoder


def key(encoder: Encoder, options: ExportOptions) -> str:
    options = options_for(encoder, options)
    return trace_key(build_graph(encoder, options, attention="explicit"), options)


def test_whatever_changes_a_graph_changes_its_key() -> None:
    torch.manual_seed(0)
    encoder, options = Encoder("vit_test"), ExportOptions()
    keys = [key(encoder, options)]
    for change in (
        {"precision": "fp16"},
        {"precision": "bf16"},
        {"layers": (1,)},
        {"class_token": True},
        {"input": "uint8"},
        {"opset": options.opset + 1},
        {"batch": Range(1, 4)},
        {"height": Range(16, 64)},
        {"height": Range(32, 32), "width": Range(48, 48)},
    ):
        keys.append(key(encoder, replace(options, **change)))
    patched = options_for(encoder, options)
    keys.append(trace_key(ExportGraph(encoder, patched, "fused"), patched))
    with torch.no_grad():
        encoder.vit.blocks[1].mlp.fc2.bias[0] += 1
    keys.append(key(encoder, options))
    assert len(set(keys)) == len(keys)


def test_equal_graphs_have_one_key() -> None:
    """Quantization follows the trace, and tf32 is a mode of the engine."""
    torch.manual_seed(0)
    encoder = Encoder("vit_test")
    assert len({key(encoder, ExportOptions(precision=precision)) for precision in ("fp32", "tf32", "int8", "fp8")}) == 1
