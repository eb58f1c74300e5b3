"""Export to a torch.export program."""

import importlib
import importlib.util
import io
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from gtsa_kit.export.formats.tracing import tracing
from gtsa_kit.export.graph import dynamic_shapes, example_input
from gtsa_kit.export.layout import arrange
from gtsa_kit.export.spec import INPUT, ExportOptions
from gtsa_kit.export.task_graph import build_graph, float_head_note, options_for
from gtsa_kit.files import atomic_write
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.task_model import TaskModel


def export_pt2(model: Encoder | TaskModel, options: ExportOptions, path: Path) -> dict[str, str]:
    """Write the program to `path`; it needs torch alone to run, and is the input of AOTInductor.

    Returns:
        The `target` of the manifest.

    Raises:
        ValueError: The image size is dynamic, and this torch can't export that.
    """
    options = options_for(model, options)
    graph, buffer = build_graph(model, options), io.BytesIO()
    shapes, settings = dynamic_axes(options)
    with tracing(), settings:
        program = torch.export.export(graph, (example_input(options),), dynamic_shapes=shapes)
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # it names folders of the exporting machine
        torch.export.save(program, buffer)
    with atomic_write(path) as file:
        file.write(buffer.getbuffer())
    return {"torch": torch.__version__} | float_head_note(model, options)


def dynamic_axes(options: ExportOptions) -> tuple[Any, AbstractContextManager[object]]:
    """Return the dynamic axes for torch.export, and the context in which it takes no axis to be other than 1.

    Raises:
        ValueError: The image size is dynamic, and this torch can't export that.
    """
    if has_shape_assumptions():
        return shapes_spec(options), nullcontext()
    if not options.height.fixed:
        raise ValueError(
            f"torch {torch.__version__} can't export pt2 for any image size: a single row of patches would be refused; "
            "give one --size, or install torch 2.14"
        )
    settings: Any = importlib.import_module("torch.fx.experimental._config")
    return dynamic_shapes(options), settings.patch(backed_size_oblivious=True)


def has_shape_assumptions() -> bool:
    """Return whether this torch takes assumptions about dynamic axes, as 2.14 does and 2.11 does not."""
    return importlib.util.find_spec("torch.fx.experimental.dynamic_spec") is not None


def shapes_spec(options: ExportOptions) -> Any:
    """Return the dynamic axes with all that torch.export may assume about them.

    With the older `Dim`, torch.export assumes that no dimension is 1, and the program rejects a single image or a
    single row of patches.
    """
    from torch.fx.experimental.dynamic_spec import ParamsSpec, ShapesSpec, ShapeVar, TensorSpec

    ranges = {"batch": options.batch, "height": options.height, "width": options.width}
    axes = {name: r.min if r.fixed else ShapeVar(name, min=r.min, max=r.max) for name, r in ranges.items()}
    sizes = [axes["height"], axes["width"]]
    shape = list(arrange(options.layout, axes["batch"], sizes[0], sizes[1], options.channels))
    steps = options.height.step, options.width.step
    assumptions = [size % step == 0 for size, step in zip(sizes, steps, strict=True) if not isinstance(size, int)]
    return ShapesSpec(params=ParamsSpec({INPUT: TensorSpec(shape)}), assumptions=assumptions)
