"""The two variants of TensorRT, which are libraries with one API: choice, import, supported GPUs, logger."""

import importlib
import importlib.util
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Final

import torch

from gtsa_kit.export.manifest_records import EngineRecord
from gtsa_kit.export.runtime.engine_header import LATER_GPUS, VariantName
from gtsa_kit.export.runtime.other_gpus import describe_capability, way_to_engine

MODULES: Final[dict[str, str]] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Python modules by variant."""
VARIANT_INSTALL: Final = {
    "tensorrt": "pip install 'gtsa-kit[tensorrt]'",
    "tensorrt-rtx": "pip install 'gtsa-kit[tensorrt-rtx]'",
}
"""Installation hints by variant."""
TURING: Final = "7.5"
"""Compute capability of Turing GPUs."""
FIRST_WITH_FP8: Final = (8, 9)
"""First compute capability with fp8."""
LAST_NAMED: Final = (12, 1)
"""Last compute capability that TensorRT-RTX names; it can also build for later GPUs."""
NO_GPU: Final = "not run: no GPU"
MAX_ERRORS: Final = 10
"""Number of first error messages that a logger keeps; the last one is kept as well."""


@dataclass(frozen=True)
class TensorRTVariant:
    """One of the two libraries, imported."""

    name: VariantName
    library: Any
    """Module `tensorrt` or `tensorrt_rtx`."""

    @property
    def version(self) -> str:
        """Version of the library, in the format of the engine header."""
        return str(self.library.__version__)

    @property
    def capabilities(self) -> tuple[str, ...]:
        """Compute capabilities that the library builds for: its own list, or that of this machine's GPU."""
        if self.name == "tensorrt":
            return tuple(filter(None, [gpu_capability()]))
        members = self.library.ComputeCapability.__members__
        numbers = sorted(int(name[2:]) for name in members if name.startswith("SM"))
        return tuple(f"{number // 10}.{number % 10}" for number in numbers)


def gpu_capability() -> str | None:
    """Return the compute capability of the first GPU, such as "8.9"; None where there is no GPU."""
    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability(0)
    return f"{major}.{minor}"


def cannot_run(engine: EngineRecord) -> str:
    """Return why an engine can't run on this machine's GPU; "" if it can."""
    gpu = gpu_capability()
    if gpu is None:
        return NO_GPU
    if gpu in engine.capabilities or (LATER_GPUS in engine.capabilities and _as_pair(gpu) > LAST_NAMED):
        return ""
    return f"not run: this GPU has compute capability {gpu}, the engine is for {', '.join(engine.capabilities)}"


def is_installed(name: str) -> bool:
    """Return whether a variant is installed."""
    return importlib.util.find_spec(MODULES[name]) is not None


def import_variant(name: str) -> TensorRTVariant:
    """Import a variant by name, "tensorrt" or "tensorrt-rtx".

    Raises:
        ValueError: The name is unknown, the variant is not installed, or its libraries can't be loaded.
    """
    if name not in MODULES:
        raise ValueError(f"--runtime takes auto, {' or '.join(MODULES)}, got {name!r}")
    try:
        library = importlib.import_module(MODULES[name])
    except ImportError as error:
        if not is_installed(name):
            raise ValueError(f"{name} is not installed; {VARIANT_INSTALL[name]}") from error
        raise ValueError(f"{name} is installed but can't be loaded: {error}; {VARIANT_INSTALL[name]}") from error
    return TensorRTVariant(name, library)  # type: ignore[arg-type]


def choose_variant(runtime: str = "auto") -> tuple[TensorRTVariant, str]:
    """Return the variant to build with, and the reason for the choice.

    Args:
        runtime: "tensorrt", "tensorrt-rtx", or "auto": tensorrt where it is installed and there is a GPU, else
            tensorrt-rtx.

    Raises:
        ValueError: The variant is not installed, or it needs a GPU and there is none; the message holds a hint.
    """
    gpu = gpu_capability()
    if runtime == "tensorrt" and gpu is None:
        raise ValueError(
            "tensorrt builds on the GPU that it builds for, and this machine has none; use --runtime tensorrt-rtx, "
            "which builds without a GPU, or run this on the machine that will run the engine"
        )
    if runtime != "auto":
        return import_variant(runtime), "requested"
    if gpu is not None and is_installed("tensorrt"):
        return import_variant("tensorrt"), f"it is installed and there is a GPU of compute capability {gpu}"
    if is_installed("tensorrt-rtx"):
        reason = "there is no GPU, and it needs none to build" if gpu is None else "tensorrt is not installed"
        return import_variant("tensorrt-rtx"), reason
    raise ValueError(
        f"neither variant of TensorRT is installed; {VARIANT_INSTALL['tensorrt-rtx']} (builds without a GPU), or, with "
        f"a data-center GPU, {VARIANT_INSTALL['tensorrt']}"
    )


def check_capabilities(
    variant: TensorRTVariant, requested: tuple[str, ...], precision: str, dynamic: bool
) -> tuple[str, ...]:
    """Return the compute capabilities to build for; () stands for the library's default.

    Args:
        variant: The library that builds.
        requested: Compute capabilities such as ("8.9", "12.0"); () takes the default for the precision.
        precision: Precision of the graph.
        dynamic: Whether the image size is dynamic; the graph then resamples position embeddings by float32 matrix
            products.

    Raises:
        ValueError: The variant can't build for one of them, or not in this precision; the message holds a hint.
    """
    supported = variant.capabilities
    if unsupported := [capability for capability in requested if capability not in supported]:
        raise ValueError(_unsupported(variant, unsupported[0], supported))
    if variant.name == "tensorrt":
        return supported
    if TURING in requested:
        _check_turing(requested, precision, dynamic)
    without_fp8 = [capability for capability in requested if _as_pair(capability) < FIRST_WITH_FP8]
    if precision == "fp8" and without_fp8:
        raise ValueError(
            f"compute capability {without_fp8[0]} has no fp8; remove it from --gpu, or use --precision int8"
        )
    if precision == "fp8" and not requested:
        return tuple(capability for capability in supported if _as_pair(capability) >= FIRST_WITH_FP8)
    return requested


def _unsupported(variant: TensorRTVariant, capability: str, supported: tuple[str, ...]) -> str:
    if variant.name == "tensorrt":
        return (
            f"tensorrt builds for this machine's GPU, {supported[0]}, not for {capability}; omit --gpu, or use "
            "--runtime tensorrt-rtx"
        )
    return (
        f"TensorRT-RTX {variant.version} does not build for compute capability {describe_capability(capability)}, only "
        f"for {', '.join(supported)}; {way_to_engine(capability)}"
    )


def _check_turing(requested: tuple[str, ...], precision: str, dynamic: bool) -> None:
    if len(requested) > 1:
        raise ValueError(
            f"TensorRT-RTX can't build for {TURING} (Turing) and other GPUs in one file; export one file for {TURING} "
            "and one for the others"
        )
    if precision != "fp16":
        raise ValueError(
            f"TensorRT-RTX has no {precision} matrix products for {TURING} (Turing); use --precision fp16 --size 224"
        )
    if dynamic:
        raise ValueError(
            f"the image size must be fixed for {TURING} (Turing): otherwise float32 matrix products resample the "
            "position embeddings, which TensorRT-RTX does not support there; add --size 224, or another size"
        )


def make_logger(variant: TensorRTVariant, lines: IO[str] | None = None) -> Any:
    """Return a logger of the library that keeps the first errors and the last one in `errors`.

    Args:
        variant: The library.
        lines: Text file that every message is written to, if given.
    """
    library = variant.library

    class Log(library.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            library.ILogger.__init__(self)  # pybind11 requires an explicit call of the base class
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= library.ILogger.Severity.ERROR:
                self.errors = [*self.errors[:MAX_ERRORS], message]
            if lines:
                lines.write(f"{severity.name} {message}\n")

    return Log()


@contextmanager
def freed_after_error() -> Iterator[None]:
    """Free the library's objects that an error's frames hold, when the error leaves the block.

    Otherwise the garbage collector frees them later. If it runs while the library logs from inside of a call, their
    destructors wait for the lock of that call forever.
    """
    try:
        yield
    except BaseException as error:
        chained: BaseException | None = error
        while chained is not None:
            traceback.clear_frames(chained.__traceback__)
            chained = chained.__cause__ or chained.__context__
        raise


def _as_pair(capability: str) -> tuple[int, int]:
    major, minor = capability.split(".")
    return int(major), int(minor)
