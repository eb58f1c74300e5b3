"""Build of a TensorRT engine from an ONNX graph; it reports progress, writes a log and stops at Ctrl-C."""

import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from gtsa_kit.export.runtime.profile import Profile, Shape
from gtsa_kit.export.runtime.tensorrt_variant import TensorRTVariant, freed_after_error, make_logger
from gtsa_kit.export.tensorrt.network import EngineBuildError, parse_network, tensors_of
from gtsa_kit.export.tensorrt.problems import ParseProblem, locate_nodes
from gtsa_kit.files import atomic_write

if TYPE_CHECKING:
    from onnx import ModelProto

OnStep = Callable[[str, int, int], None]
"""Callback that gets the current phase of the build, the steps that are done, and their number."""
LEVELS: Final = range(6)


@dataclass(frozen=True)
class BuildSettings:
    """Settings of the builder."""

    capabilities: tuple[str, ...] = ()
    """Compute capabilities for TensorRT-RTX; () takes its default."""
    tf32: bool = False
    """True if float32 matrix products use 10 bits of mantissa."""
    workspace: float | None = None
    """Maximum GPU workspace of one layer in GiB; None sets no limit."""
    timing_cache: Path | None = None
    """File that keeps kernel timings between builds by TensorRT."""
    level: int | None = None
    """Optimization level, 0 to 5: a higher level searches longer for fast kernels; None takes the default, 3."""


@dataclass(frozen=True)
class SerializedEngine:
    """Result of a build."""

    content: bytes
    tensors: tuple[tuple[str, str, Shape], ...]
    """Name, dtype and shape (-1 for a dynamic axis) of inputs and outputs, as TensorRT parsed the graph."""
    seconds: float
    """Duration of the build."""


def check_settings(variant: TensorRTVariant, settings: BuildSettings) -> None:
    """Raise `ValueError` for settings that are invalid or that the variant does not have."""
    if settings.level is not None and settings.level not in LEVELS:
        raise ValueError(f"--optimization-level must be between 0 and {LEVELS[-1]}, got {settings.level}")
    if settings.workspace is not None and settings.workspace <= 0:
        raise ValueError(f"--workspace must be a number of GiB above 0, got {settings.workspace}")
    if settings.timing_cache and variant.name == "tensorrt-rtx":
        raise ValueError(
            "TensorRT-RTX measures no kernels during a build, so it has no timing cache; omit --timing-cache"
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
    """Build an engine in a thread, so that Ctrl-C is handled meanwhile and stops the build at its next step.

    Args:
        variant: The library that builds.
        model: Model with one input and its weights inside.
        name: Name of the model for error messages.
        profile: Optimization profile of the input; unused where the shape of the graph is fixed.
        settings: Settings of the builder.
        log: File for the builder's messages; it is replaced.
        on_step: Progress callback (see `OnStep`).

    Raises:
        EngineBuildError: TensorRT rejects the graph or can't compile it.
        KeyboardInterrupt: The build was interrupted.
    """
    stop = threading.Event()
    with freed_after_error(), open(log, "w", encoding="utf-8") as lines, ThreadPoolExecutor(1, "gtsa-builder") as pool:
        try:
            return _wait(pool.submit(_build, variant, model, name, profile, settings, lines, on_step, stop))
        finally:
            stop.set()  # also for an interrupt during `submit`: leaving the block waits for the thread


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
    start = time.perf_counter()
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
        raise _build_error(model, name, logger.errors)
    if cache is not None and settings.timing_cache:
        with atomic_write(settings.timing_cache) as file:
            file.write(bytes(cache.serialize()))
    tensors = tuple((tensor, dtype.name.lower(), shape) for tensor, dtype, shape in tensors_of(network))
    return SerializedEngine(bytes(content), tensors, time.perf_counter() - start)


def _make_monitor(variant: TensorRTVariant, on_step: OnStep, stop: threading.Event) -> Any:
    library = variant.library

    class Monitor(library.IProgressMonitor):  # type: ignore[misc, name-defined]
        """Progress monitor that counts the steps of the outermost phase and names the innermost one."""

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
                self.done = self.total  # the last step is not always reported
                on_step(phase, self.done, self.total)
            if phase in self.phases:
                self.phases.remove(phase)

    return Monitor()


def _configure(variant: TensorRTVariant, config: Any, settings: BuildSettings) -> None:
    library = variant.library
    if settings.tf32:
        config.set_flag(library.BuilderFlag.TF32)
    else:
        config.clear_flag(library.BuilderFlag.TF32)  # it is on by default, with 13 bits less than float32
    if settings.workspace is not None:
        config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, int(settings.workspace * 2**30))
    if settings.level is not None:
        config.builder_optimization_level = settings.level
    if settings.capabilities and variant.name == "tensorrt-rtx":
        config.num_compute_capabilities = len(settings.capabilities)
        for index, capability in enumerate(settings.capabilities):
            member = getattr(library.ComputeCapability, "SM" + capability.replace(".", ""))
            config.set_compute_capability(member, index)


def _timing_cache(config: Any, path: Path | None) -> Any:
    if path is None:
        return None
    cache = config.create_timing_cache(path.read_bytes() if path.exists() else b"")
    if not config.set_timing_cache(cache, False):
        raise ValueError(f"{path} is the timing cache of another GPU or version; give a new file with --timing-cache")
    return cache


def _build_error(model: "ModelProto", name: str, errors: list[str]) -> EngineBuildError:
    """Return an error with the builder's first message and the node that it names."""
    message = errors[0] if errors else "it gave no reason"
    message = re.sub(r"^\S+: Error Code \d+: ", "", message).splitlines()[0]
    nodes = {one.node.name: one for one in locate_nodes(model) if one.node.name}
    named = next((nodes[word] for word in re.findall(r"[\w./:-]+", message) if word in nodes), None)
    if named is None:
        return EngineBuildError(name, [ParseProblem("", "the graph", "", message, _hint(message))])
    return EngineBuildError(name, [named.problem(message, _hint(message))])


def _hint(message: str) -> str:
    if "workspace" in message:
        return "raise --workspace, or omit it"
    if "HW-specific datatypes" in message:
        return "remove those GPUs from --gpu, or use another --precision"
    if "FP32 GEMM" in message:
        return "use --precision fp16 and fix the size with --size"
    return "the builder's messages are in its log"
