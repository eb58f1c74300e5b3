"""Options of `gtsa export --format trt` as a request that is checked. Imports torch."""

from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from gtsa_kit.export.input_types import check_tensorrt_input
from gtsa_kit.export.layout import Layout
from gtsa_kit.export.runtime.other_gpus import check_elsewhere
from gtsa_kit.export.runtime.profile import InputRanges, OptimalShape, Profile, make_profile
from gtsa_kit.export.runtime.tensorrt_variant import check_capabilities, choose_variant, gpu_capability
from gtsa_kit.export.source import Source
from gtsa_kit.export.spec import ANY_SIZE, ExportOptions, Range
from gtsa_kit.export.task_graph import options_for
from gtsa_kit.export.tensorrt.build import BuildSettings, check_settings
from gtsa_kit.export.tensorrt.engine import EngineRequest
from gtsa_kit.export.tensorrt.source_graph import SourceGraph
from gtsa_kit.export.tensorrt.trial_run import find_rejected_size, size_of


@dataclass(frozen=True)
class EngineOptions:
    """Options of the command line for one engine."""

    runtime: str
    precision: str | None
    """Value of --precision; None if it was not given."""
    options: ExportOptions
    optimal: OptimalShape
    gpus: tuple[str, ...]
    settings: BuildSettings
    calibrate: Path | None
    images: Path | None
    out: Path | None
    force: bool
    dry_run: bool
    layout: Layout | None = None
    """Layout of the images of another tool's graph; None reads it from the shape."""


def make_request(opened: Source | SourceGraph, options: EngineOptions, console: Console) -> EngineRequest:
    """Choose the variant and check all options before anything is written.

    Raises:
        ValueError: An option is invalid, or the variant does not support it.
    """
    check_elsewhere(options.gpus, gpu_capability())
    variant, reason = choose_variant(options.runtime)
    console.print(f"{variant.name} {variant.version}: {reason}")
    check_settings(variant, options.settings)
    default_side = opened.default_side if isinstance(opened, SourceGraph) else opened.encoder.preprocessing.size
    ranges = _requested_ranges(opened, options.options).bounded(options.optimal, default_side)
    profile = make_profile(ranges, options.optimal, default_side)
    if isinstance(opened, SourceGraph) and opened.manifest is None:
        ranges = _try_sizes(opened, ranges, profile, options, console)
    precision = options.options.precision
    if isinstance(opened, SourceGraph) and precision != "tf32":
        precision = opened.manifest.precision if opened.manifest else "fp32"  # type: ignore[assignment]
    gpus = check_capabilities(variant, options.gpus, precision, dynamic=not ranges.height.fixed)
    settings = replace(options.settings, capabilities=gpus, tf32=precision == "tf32")
    return EngineRequest(variant, settings, ranges, options.optimal, precision)


def _requested_ranges(opened: Source | SourceGraph, options: ExportOptions) -> InputRanges:
    if isinstance(opened, Source):
        options = options_for(opened.model, options)
        check_tensorrt_input(options.dtype, "the graph")
        return InputRanges(options.batch, options.height, options.width, options.layout, options.channels)
    check_tensorrt_input(opened.inputs[0].dtype, opened.path.name)
    return opened.restrict(options.batch, options.height, options.width)


def _try_sizes(
    graph: SourceGraph, ranges: InputRanges, profile: Profile, options: EngineOptions, console: Console
) -> InputRanges:
    """Return the ranges that another tool's graph runs at: the requested ones, or by default its one size.

    Raises:
        ValueError: The graph does not run at an end of a range that was requested.
    """
    rejected = find_rejected_size(graph, profile)
    if rejected is None:
        return ranges
    height, width = size_of(graph, profile.opt)
    fixed = replace(ranges, height=Range(height, height), width=Range(width, width))
    fixed_works = find_rejected_size(graph, make_profile(fixed, OptimalShape(), height)) is None
    name = f"{graph.path.name}, whose height and width are dynamic by name,"
    if not fixed_works or (options.options.height, options.options.width) != (ANY_SIZE, ANY_SIZE):
        raise ValueError(
            f"{name} does not run at {rejected[0]} x {rejected[1]}; add --size with the size that it was exported for"
        )
    console.print(f"{name} does not run at {rejected[0]} x {rejected[1]}: building for {height} x {width} alone")
    return fixed
