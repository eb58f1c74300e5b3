"""Encoder to a torch.export program."""

import io
import warnings
from pathlib import Path

import torch
from torch.fx.experimental.dynamic_spec import ParamsSpec, ShapesSpec, ShapeVar, TensorSpec

from gtsa_kit.config import PATCH
from gtsa_kit.export.graph import ExportGraph, example_input
from gtsa_kit.export.spec import INPUT, ExportOptions
from gtsa_kit.files import atomic_write
from gtsa_kit.models.encoder import Encoder


def export_pt2(encoder: Encoder, options: ExportOptions, path: Path) -> dict[str, str]:
    """Write the program; it runs where there is torch and nothing else, and is what AOTInductor and others take.

    Returns:
        The manifest's target.
    """
    graph, buffer = ExportGraph(encoder, options), io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(graph, (example_input(options),), dynamic_shapes=shapes(options))
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # names folders of the machine that exported
        torch.export.save(program, buffer)
    with atomic_write(path) as file:
        file.write(buffer.getbuffer())
    return {"torch": torch.__version__}


def shapes(options: ExportOptions) -> ShapesSpec:
    """What is dynamic, as symbols of which torch.export may assume nothing but this.

    With the older `Dim` it assumes that no dimension is 1, and the program refuses a single image or row of patches.
    """
    ranges = {"batch": options.batch, "height": options.height, "width": options.width}
    axes = {name: r.min if r.fixed else ShapeVar(name, min=r.min, max=r.max) for name, r in ranges.items()}
    sizes = [axes["height"], axes["width"]]
    shape = [axes["batch"], *sizes, 3] if options.input == "uint8" else [axes["batch"], 3, *sizes]
    assumed = [size % PATCH == 0 for size in sizes if not isinstance(size, int)]
    return ShapesSpec(params=ParamsSpec({INPUT: TensorSpec(shape)}), assumptions=assumed)
