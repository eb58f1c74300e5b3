"""Search for the part of a model whose values stop being finite in a precision."""

from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gtsa_kit.export.comparison import compare_output
from gtsa_kit.export.graph import DTYPES
from gtsa_kit.export.parity_cases import ParityCase
from gtsa_kit.export.spec import EMBEDDING, FEATURE_MAP, QUANTIZED, ExportOptions
from gtsa_kit.export.task_comparison import compare_task_output, in_logits, logits_std
from gtsa_kit.export.task_graph import AnyGraph, TaskGraph, build_graph, options_for
from gtsa_kit.export.tolerances import TASK_TOLERANCES, TOLERANCES
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.task_model import TaskModel


def explain_not_finite(reference: Encoder | TaskModel, precision: str, images: Tensor) -> str:
    """Describe where values stop being finite, by running the model itself in a precision, and what to do.

    Args:
        reference: Encoder or task model in float32.
        precision: Precision of the artifact.
        images: Normalized (B, 3, H, W), for which the artifact's output was not finite.

    Returns:
        Such as "not finite from block 7 on; bf16 holds, try --precision bf16".
    """
    model = "model" if isinstance(reference, TaskModel) else "encoder"
    if where := first_not_finite(reference, "fp32", images):
        return f"the float32 {model} itself is not finite from {where} on; its weights are damaged"
    if precision in QUANTIZED:
        return f"the float32 {model} is finite on the same images, {precision} is not; try --precision fp32"
    where = first_not_finite(reference, precision, images) if precision in DTYPES else ""
    if not where:
        return f"PyTorch computes finite values in {precision} on the same images, the runtime does not; try another"
    if where == "the head":
        return "not finite from the head on; try --keep-float head"
    holding = [other for other in DTYPES if other != precision and _holds(reference, other, images)]
    best = holding[0] if holding else "fp32"
    return f"not finite from {where} on; {best} holds, try --precision {best}"


def first_not_finite(reference: Encoder | TaskModel, precision: str, images: Tensor) -> str:
    """Return the first part of the model with a value that is not finite: "block 7" counts from 0; "" if none."""
    graph = _graph(reference, precision)
    encoder = graph.encoder if isinstance(graph, TaskGraph) else graph
    names: list[str] = []

    def watch(module: nn.Module, name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Tensor | tuple[Tensor, ...]) -> None:
            outputs = (output,) if isinstance(output, Tensor) else output
            if not names and not all(bool(one.isfinite().all()) for one in outputs):
                names.append(name)

        return module.register_forward_hook(hook)

    with ExitStack() as hooks, torch.inference_mode():
        hooks.callback(watch(encoder.patches, "the patch embedding").remove)
        for index, block in enumerate(encoder.blocks):
            hooks.callback(watch(block, f"block {index}").remove)
        hooks.callback(watch(encoder.norm, "the final norm").remove)
        if isinstance(graph, TaskGraph):
            hooks.callback(watch(graph.head, "the head").remove)
        graph(images)
    return names[0] if names else ""


def _graph(reference: Encoder | TaskModel, precision: str) -> AnyGraph:
    return build_graph(reference, options_for(reference, ExportOptions(precision=precision)))  # type: ignore[arg-type]


def _holds(reference: Encoder | TaskModel, precision: str, images: Tensor) -> bool:
    """Return whether the model in a precision is within the tolerances of that precision, for detectors finite."""
    graph = _graph(reference, precision)
    if isinstance(reference, TaskModel) and reference.spec.detector:
        with torch.inference_mode():
            return all(bool(output.isfinite().all()) for output in graph(images))
    with torch.inference_mode():
        actual, expected = graph(images), reference(images)
    case = ParityCase(len(images), images.shape[2], images.shape[3])
    if isinstance(reference, TaskModel):
        logits = np.asarray(expected)
        tolerance = in_logits(TASK_TOLERANCES[precision], logits_std(logits))
        names = [""] * len(images)
        return compare_task_output("logits", logits, np.asarray(actual[0]), case, tolerance, names).passed
    pairs = zip((EMBEDDING, FEATURE_MAP), expected[:2], actual[:2], strict=True)
    return all(
        compare_output(name, np.asarray(one), np.asarray(other), case, TOLERANCES[precision]).passed
        for name, one, other in pairs
    )
