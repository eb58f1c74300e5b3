"""TensorRT comes in two variants with one API: which is here, which to take, and what each can build for."""

import importlib
import importlib.util
from dataclasses import dataclass
from typing import IO, Any, Final

import torch

from gtsa_kit.export.manifest import EngineRecord
from gtsa_kit.export.runtime.engine_header import AND_LATER, Name

MODULES: Final[dict[str, str]] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
INSTALL: Final = {
    "tensorrt": "pip install 'gtsa-kit[tensorrt]'",
    "tensorrt-rtx": "pip install 'gtsa-kit[tensorrt-rtx]'",
}
TURING: Final = "7.5"
EIGHT_BIT_FLOATS: Final = (8, 9)
"""The first compute capability with fp8."""
LAST: Final = (12, 1)
"""The last compute capability that TensorRT-RTX names; it can also build for those to come."""
MAX_ERRORS: Final = 10
"""Number of further error messages that a logger keeps after the first one."""
NO_GPU: Final = "not run: no GPU"


@dataclass(frozen=True)
class TensorRTVariant:
    """One of the two libraries, imported."""

    name: Name
    library: Any
    """The module: `tensorrt` or `tensorrt_rtx`."""

    @property
    def version(self) -> str:
        """As the library says it, and as the headers of its engines hold it."""
        return str(self.library.__version__)

    @property
    def capabilities(self) -> tuple[str, ...]:
        """Compute capabilities that it builds for: those on a list of its own, or that of the GPU at hand."""
        if self.name == "tensorrt":
            return tuple(filter(None, [gpu_capability()]))
        members = self.library.ComputeCapability.__members__
        numbers = sorted(int(name[2:]) for name in members if name.startswith("SM"))
        return tuple(f"{number // 10}.{number % 10}" for number in numbers)


def gpu_capability() -> str | None:
    """Compute capability of the first GPU, such as "8.9"; None where there is none."""
    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability(0)
    return f"{major}.{minor}"


def cannot_run(engine: EngineRecord) -> str:
    """Why an engine can't run on this machine's GPU; "" if it can."""
    gpu = gpu_capability()
    if gpu is None:
        return NO_GPU
    if gpu in engine.capabilities or (AND_LATER in engine.capabilities and _as_pair(gpu) > LAST):
        return ""
    return f"not run: this GPU is of compute capability {gpu}, the engine is for {', '.join(engine.capabilities)}"


def is_installed(name: str) -> bool:
    """Whether a variant could be imported."""
    return importlib.util.find_spec(MODULES[name]) is not None


def import_variant(name: str) -> TensorRTVariant:
    """A variant by name.

    Raises:
        ValueError: It is not installed, or its libraries can't be loaded.
    """
    if name not in MODULES:
        raise ValueError(f"--runtime takes auto, {' or '.join(MODULES)}, got {name!r}")
    try:
        library = importlib.import_module(MODULES[name])
    except ImportError as error:
        if not is_installed(name):
            raise ValueError(f"{name} is not installed; {INSTALL[name]}") from error
        raise ValueError(f"{name} is installed and can't be loaded: {error}; {INSTALL[name]}") from error
    return TensorRTVariant(name, library)  # type: ignore[arg-type]


def choose_variant(runtime: str = "auto") -> tuple[TensorRTVariant, str]:
    """The variant to build with, and why.

    Args:
        runtime: "tensorrt", "tensorrt-rtx", or "auto": TensorRT itself where it and a GPU are, else TensorRT-RTX.

    Raises:
        ValueError: It is not here, or needs a GPU that is not; the message says what to install.
    """
    gpu = gpu_capability()
    if runtime == "tensorrt" and gpu is None:
        raise ValueError(
            "tensorrt builds on the GPU that it builds for, and there is none here; take --runtime tensorrt-rtx, which "
            "builds without, or run this on the machine that will run the engine"
        )
    if runtime != "auto":
        return import_variant(runtime), "as asked"
    if gpu is not None and is_installed("tensorrt"):
        return import_variant("tensorrt"), f"it is installed and there is a GPU of compute capability {gpu}"
    if is_installed("tensorrt-rtx"):
        why = "there is no GPU, and it needs none to build" if gpu is None else "tensorrt is not installed"
        return import_variant("tensorrt-rtx"), why
    raise ValueError(
        f"neither variant of TensorRT is installed; {INSTALL['tensorrt-rtx']} (builds without a GPU), or, with a "
        f"data-center GPU, {INSTALL['tensorrt']}"
    )


def make_logger(variant: TensorRTVariant, lines: IO[str] | None = None) -> Any:
    """Return a logger of the library that keeps the first errors in `errors`.

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


def check_capabilities(
    variant: TensorRTVariant, wanted: tuple[str, ...], precision: str, dynamic: bool
) -> tuple[str, ...]:
    """What to build for: `wanted`, or the variant's default for that precision as ().

    Args:
        variant: What builds.
        wanted: Such as ("8.9", "12.0"); () leaves it to the variant.
        precision: Of the graph.
        dynamic: Whether the size is, so that positions are resampled by float32 products inside the graph.

    Raises:
        ValueError: The variant can't build for one of them, or not in this precision; the message says the way out.
    """
    able = variant.capabilities
    for one in wanted:
        if one in able:
            continue
        if variant.name == "tensorrt":
            raise ValueError(
                f"tensorrt builds for the GPU at hand, {able[0]}, not for {one}; leave out --gpu, or take --runtime "
                "tensorrt-rtx"
            )
        raise ValueError(
            f"TensorRT-RTX {variant.version} does not build for compute capability {one}, only for {', '.join(able)}; "
            "for other GPUs (9.0 is Hopper, 10.0 data-center Blackwell) take --runtime tensorrt on a machine with one"
        )
    if variant.name == "tensorrt":
        return able
    if TURING in wanted:
        _check_turing(wanted, precision, dynamic)
    old = [one for one in wanted if _as_pair(one) < EIGHT_BIT_FLOATS]
    if precision == "fp8" and old:
        raise ValueError(f"compute capability {old[0]} has no fp8; leave it out of --gpu, or take --precision int8")
    return wanted or (tuple(one for one in able if _as_pair(one) >= EIGHT_BIT_FLOATS) if precision == "fp8" else ())


def _check_turing(wanted: tuple[str, ...], precision: str, dynamic: bool) -> None:
    if len(wanted) > 1:
        raise ValueError(
            f"TensorRT-RTX builds for {TURING} (Turing) only alone; write a file for it and one for the others"
        )
    if precision != "fp16":
        raise ValueError(
            f"TensorRT-RTX multiplies no {precision} matrices for {TURING} (Turing); take --precision fp16 --size 224"
        )
    if dynamic:
        raise ValueError(
            f"for {TURING} (Turing) the size must be fixed, since TensorRT-RTX multiplies no float32 matrices there "
            "and positions are resampled by such; add --size 224, or another"
        )


def _as_pair(capability: str) -> tuple[int, int]:
    major, minor = capability.split(".")
    return int(major), int(minor)
