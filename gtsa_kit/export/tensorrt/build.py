"""An ONNX graph to a plan: the builder's log goes to a file, its progress to whoever looks, Ctrl-C ends it."""

import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from gtsa_kit.export.formats.onnx_graph import layer_of
from gtsa_kit.export.runtime.profile import Profile, Shape
from gtsa_kit.export.runtime.tensorrt_variant import TensorRTVariant, make_logger
from gtsa_kit.export.tensorrt.network import EngineBuildError, ParseProblem, parse_network, tensors_of
from gtsa_kit.files import atomic_write

if TYPE_CHECKING:
    from onnx import ModelProto

OnStep = Callable[[str, int, int], None]
"""Told what is being done, steps done, and steps in all."""
LEVELS: Final = range(6)


@dataclass(frozen=True)
class BuildSettings:
    """How to build."""

    capabilities: tuple[str, ...] = ()
    """Compute capabilities, of TensorRT-RTX; () is its own default."""
    tf32: bool = False
    """Multiply float32 matrices with 10 bits of mantissa."""
    workspace: float | None = None
    """GiB of GPU memory that one operation may take, at most; None is all there is."""
    timing_cache: Path | None = None
    """Of TensorRT: what was measured in earlier builds is not measured again."""
    level: int | None = None
    """0 to 5: the higher, the longer it looks for fast kernels; None is the builder's own default, 3."""


@dataclass(frozen=True)
class SerializedEngine:
    """What was built."""

    content: bytes
    tensors: tuple[tuple[str, str, Shape], ...]
    """Name, type and shape (-1 is dynamic) of the inputs and outputs, as TensorRT sees the graph."""
    seconds: float


def check_settings(variant: TensorRTVariant, settings: BuildSettings) -> None:
    """Raise `ValueError` for what a variant does not have."""
    if settings.level is not None and settings.level not in LEVELS:
        raise ValueError(f"--optimization-level lies between 0 and {LEVELS[-1]}, got {settings.level}")
    if settings.workspace is not None and settings.workspace <= 0:
        raise ValueError(f"--workspace is a number of GiB above 0, got {settings.workspace}")
    if settings.timing_cache and variant.name == "tensorrt-rtx":
        raise ValueError(
            "TensorRT-RTX measures nothing while it builds, so it has no use for --timing-cache; leave it out"
        )


def build_engine(
    variant: TensorRTVariant,
    model: "ModelProto",
    name: str,
    profile: Profile,
    settings: BuildSettings,
    log: Path,
    on_step: OnStep = lambda *_: None,
) -> SerializedEngine:
    """Build in a thread, so that Ctrl-C is heard meanwhile and ends it at the next step.

    Args:
        variant: What builds.
        model: The graph, with its weights inside and one input.
        name: Of the graph, for messages.
        profile: Of the input; not used where the graph's own shape is fixed.
        settings: How to build.
        log: Where the builder's own words go; replaced.
        on_step: See `OnStep`.

    Raises:
        Unbuildable: TensorRT refuses the graph or can't compile it.
        KeyboardInterrupt: As asked.
    """
    stop = threading.Event()
    with open(log, "w", encoding="utf-8") as lines, ThreadPoolExecutor(1, "gtsa-builder") as pool:
        future = pool.submit(_build, variant, model, name, profile, settings, lines, on_step, stop)
        try:
            return _wait(future)
        except BaseException:
            stop.set()
            raise


def _wait(future: "Future[SerializedEngine]") -> SerializedEngine:
    while not future.done():
        with suppress(TimeoutError):
            future.result(timeout=0.1)
    return future.result()


def _build(
    variant: TensorRTVariant,
    model: "ModelProto",
    name: str,
    profile: Profile,
    settings: BuildSettings,
    lines: IO[str],
    on_step: OnStep,
    stop: threading.Event,
) -> SerializedEngine:
    began = time.perf_counter()
    logger, monitor = make_logger(variant, lines), _make_monitor(variant, on_step, stop)
    builder = variant.library.Builder(logger)
    network = parse_network(variant, builder, logger, model, name)
    config = builder.create_builder_config()
    config.progress_monitor = monitor
    _configure(variant, config, settings)
    if any(-1 in shape for _, _, shape in tensors_of(network)):
        shapes = builder.create_optimization_profile()
        shapes.set_shape(network.get_input(0).name, profile.min, profile.opt, profile.max)
        config.add_optimization_profile(shapes)
    cache = _timing_cache(config, settings.timing_cache)
    content = builder.build_serialized_network(network, config)
    if content is None:
        raise _failure(model, name, logger.errors)
    if cache is not None and settings.timing_cache:
        with atomic_write(settings.timing_cache) as file:
            file.write(bytes(cache.serialize()))
    tensors = tuple((tensor, dtype.name.lower(), shape) for tensor, dtype, shape in tensors_of(network))
    return SerializedEngine(bytes(content), tensors, time.perf_counter() - began)


def _make_monitor(variant: TensorRTVariant, on_step: OnStep, stop: threading.Event) -> Any:
    library = variant.library

    class Monitor(library.IProgressMonitor):  # type: ignore[misc, name-defined]
        """Counts the steps of the outermost phase and names the innermost."""

        def __init__(self) -> None:
            library.IProgressMonitor.__init__(self)
            self.phases: list[str] = []
            self.done = self.total = 0

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            if not self.phases:
                self.done, self.total = 0, steps
            self.phases.append(phase)
            on_step(phase, self.done, self.total)

        def step_complete(self, phase: str, step: int) -> bool:
            if self.phases and phase == self.phases[0]:
                self.done = step + 1
                on_step(phase, self.done, self.total)
            return not stop.is_set()

        def phase_finish(self, phase: str) -> None:
            if self.phases == [phase]:
                self.done = self.total  # the last step is not always told
                on_step(phase, self.done, self.total)
            if phase in self.phases:
                self.phases.remove(phase)

    return Monitor()


def _configure(variant: TensorRTVariant, config: Any, settings: BuildSettings) -> None:
    library = variant.library
    if settings.tf32:
        config.set_flag(library.BuilderFlag.TF32)
    else:
        config.clear_flag(library.BuilderFlag.TF32)  # it is on unless told otherwise, and 13 bits short of float32
    if settings.workspace is not None:
        config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, int(settings.workspace * 2**30))
    if settings.level is not None:
        config.builder_optimization_level = settings.level
    if settings.capabilities and variant.name == "tensorrt-rtx":
        config.num_compute_capabilities = len(settings.capabilities)
        for index, one in enumerate(settings.capabilities):
            member = getattr(library.ComputeCapability, "SM" + one.replace(".", ""))
            config.set_compute_capability(member, index)


def _timing_cache(config: Any, path: Path | None) -> Any:
    if path is None:
        return None
    cache = config.create_timing_cache(path.read_bytes() if path.exists() else b"")
    if not config.set_timing_cache(cache, False):
        raise ValueError(f"{path} is the timing cache of another GPU or version; name a new file with --timing-cache")
    return cache


def _failure(model: "ModelProto", name: str, errors: list[str]) -> EngineBuildError:
    """The builder's first error, with the node that it names."""
    said = errors[0] if errors else "it gave no reason"
    said = re.sub(r"^\S+: Error Code \d+: ", "", said).splitlines()[0]
    nodes = {node.name: node for node in model.graph.node}
    named = next((nodes[word] for word in re.findall(r"[\w./:-]+", said) if word in nodes), None)
    if named is None:
        return EngineBuildError(name, [ParseProblem("", "the graph", "", said, _way_out(said))])
    return EngineBuildError(name, [ParseProblem(named.name, named.op_type, layer_of(named), said, _way_out(said))])


def _way_out(said: str) -> str:
    if "workspace" in said:
        return "raise --workspace, or leave it out"
    if "HW-specific datatypes" in said:
        return "leave those GPUs out of --gpu, or take another --precision"
    if "FP32 GEMM" in said:
        return "take --precision fp16 and fix the size with --size"
    return "the builder's own words are in its log"
