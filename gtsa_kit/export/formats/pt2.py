"""Export to a torch.export program."""

import io
import warnings
from pathlib import Path

import torch
from torch.fx.experimental.dynamic_spec import ParamsSpec, ShapesSpec, ShapeVar, TensorSpec

from gtsa_kit.export.graph import ExportGraph, example_input
from gtsa_kit.export.layout import arrange
from gtsa_kit.export.spec import INPUT, ExportOptions
from gtsa_kit.files import atomic_write
from gtsa_kit.models.encoder import Encoder


def export_pt2(encoder: Encoder, options: ExportOptions, path: Path) -> dict[str, str]:
    """Write the program to `path`; it needs torch alone to run, and is the input of AOTInductor.

    Returns:
        The `target` of the manifest.
    """
    options = options.in_patches(encoder.architecture.patch)
    graph, buffer = ExportGraph(encoder, options), io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(graph, (example_input(options),), dynamic_shapes=shapes_spec(options))
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # it names folders of the exporting machine
        torch.export.save(program, buffer)
    with atomic_write(path) as file:
        file.write(buffer.getbuffer())
    return {"torch": torch.__version__}


def shapes_spec(options: ExportOptions) -> ShapesSpec:
    """Return the dynamic axes with all that torch.export may assume about them.

    With the older `Dim`, torch.export assumes that no dimension is 1, and the program rejects a single image or a
    single row of patches.
    """
    ranges = {"batch": options.batch, "height": options.height, "width": options.width}
    axes = {name: r.min if r.fixed else ShapeVar(name, min=r.min, max=r.max) for name, r in ranges.items()}
    sizes = [axes["height"], axes["width"]]
    shape = list(arrange(options.layout, axes["batch"], *sizes))
    steps = options.height.step, options.width.step
    assumptions = [size % step == 0 for size, step in zip(sizes, steps, strict=True) if not isinstance(size, int)]
    return ShapesSpec(params=ParamsSpec({INPUT: TensorSpec(shape)}), assumptions=assumptions)
