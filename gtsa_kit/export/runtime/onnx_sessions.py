"""Opening ONNX Runtime sessions; one that ONNX Runtime moved to the processor unasked is none."""

import ctypes
import importlib
import importlib.util
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch

from gtsa_kit.export.manifest import Manifest
from gtsa_kit.export.runtime.providers import (
    INSTALL,
    NAMES,
    PLUGIN,
    PREFIXES,
    FallbackWarning,
    ProviderUnavailable,
    cache_folder,
    install_hint,
    limit_to_profile,
    provider_options,
)
from gtsa_kit.files import sha256_of

COSTLY: Final = frozenset(("Conv", "MatMul", "Gemm", "Softmax", "LayerNormalization", "Gelu"))
"""What takes the time; small arithmetic on shapes may well be the processor's."""


@dataclass(frozen=True)
class GpuSession:
    """A session whose work a GPU does."""

    session: Any
    manifest: Manifest
    """With the ranges that the provider takes."""
    description: str
    """ONNX Runtime, the provider, and the operators that run elsewhere; for people."""


def open_session(model: str | bytes, path: Path, threads: int, fp8: bool = False) -> Any:
    """A session on the processor, else `ValueError` that names `path`."""
    import onnxruntime as ort

    try:
        return ort.InferenceSession(model, _options(threads, fp8), providers=[NAMES["cpu"]])
    except _refusals() as error:
        raise ValueError(f"{path} can't be opened by ONNX Runtime: {_first_line(error)}") from error


def open_gpu_session(
    path: Path, manifest: Manifest, order: tuple[str, ...], device: torch.device, engine_cache: Path | None
) -> GpuSession | None:
    """A session of the first provider that runs here; None where it is the processor's turn.

    Each that is passed over is told in a `FallbackWarning`.

    Args:
        path: The ONNX file.
        manifest: Its manifest.
        order: See `ProviderRequest.order`.
        device: The GPU; without an index the first.
        engine_cache: See `ProviderRequest`.

    Raises:
        Unavailable: The last of the order can't run here.
        ValueError: A folder for engines that can't be written, or a precision that a provider does not have.
    """
    for provider, following in zip(order, (*order[1:], None), strict=True):
        if provider == "cpu":
            return None
        try:
            return _open_provider(path, manifest, order[order.index(provider) :], device.index or 0, engine_cache)
        except ProviderUnavailable as error:
            if following is None:
                raise
            reason = str(error).partition("; ")[0]
            warnings.warn(f"{reason}; falling back to {following}", FallbackWarning, stacklevel=2)
    raise AssertionError("an order names a provider")


def _open_provider(
    path: Path, manifest: Manifest, order: tuple[str, ...], index: int, engine_cache: Path | None
) -> GpuSession:
    """Open with the first of an order; what that does not take of the graph goes to the others."""
    provider, *others = order
    if obstacle := unavailable_reason(provider):
        raise ProviderUnavailable(_sentence(path, provider, obstacle))
    options = provider_options(provider, manifest, index, None)
    if engine_cache and provider in PREFIXES:
        folder = cache_folder(engine_cache, sha256_of(path), options, _versions(provider))
        options = provider_options(provider, manifest, index, folder)
    also = [(NAMES[other], provider_options(other, manifest, index, None)) for other in others if other == "cuda"]
    failures: tuple[type[Exception], ...] = (RuntimeError, ImportError, OSError, *_refusals())
    try:
        session, name = _start(path, provider, options, also, manifest.precision == "fp8")
    except failures as error:
        raise ProviderUnavailable(_sentence(path, provider, _reason(provider, _first_line(error)))) from error
    if name not in session.get_providers():
        why = _reason(provider, f"it went to {session.get_providers()[0]} without a word")
        raise ProviderUnavailable(_sentence(path, provider, why))
    astray = unassigned_ops(session, name)
    if astray and not others:
        raise ProviderUnavailable(
            _sentence(path, provider, f"it does not take {_list(astray)}; this is a matter of the graph")
        )
    left = f", {_list(astray)} elsewhere" if astray else ""
    return GpuSession(session, limit_to_profile(provider, manifest), f"ONNX Runtime, {name}{left}")


def unavailable_reason(provider: str) -> str:
    """What keeps a provider from running here, as far as can be seen before it is tried; "" if nothing does."""
    import onnxruntime as ort

    there = ort.get_available_providers()
    if NAMES[provider] not in there and not (provider == "tensorrt-rtx" and importlib.util.find_spec(PLUGIN)):
        return f"ONNX Runtime {ort.__version__} as it is installed does not have it; {INSTALL[provider]}"
    if torch.version.cuda and not torch.cuda.is_available():
        return "there is no NVIDIA GPU here, or no driver for it; run this on a machine with one"
    return ""


def unassigned_ops(session: Any, name: str) -> Counter[str]:
    """Costly operators of a graph that run elsewhere than on a provider, by how many there are."""
    ask = getattr(session, "get_provider_graph_assignment_info", None)  # builds with TensorRT-RTX inside lack it
    parts = ask() if ask else []
    return Counter(
        node.op_type for part in parts if part.ep_name != name for node in part.get_nodes() if node.op_type in COSTLY
    )


def _start(
    path: Path, provider: str, options: dict[str, str], also: list[tuple[str, dict[str, str]]], fp8: bool
) -> tuple[Any, str]:
    """A session, and the name under which ONNX Runtime knows the provider."""
    import onnxruntime as ort

    settings = _options(torch.get_num_threads(), fp8)
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if provider == "tensorrt":
        with suppress(ImportError):  # it loads its libraries, which lie where no loader looks
            importlib.import_module("tensorrt")
    with _silent():
        if provider != "tensorrt-rtx" or NAMES[provider] in ort.get_available_providers():
            providers = [(NAMES[provider], options), *also]
            return ort.InferenceSession(str(path), settings, providers=providers, enable_fallback=0), NAMES[provider]
        name = _register_plugin()
        index = int(options.pop("device_id"))
        device = [one for one in ort.get_ep_devices() if one.ep_name == name][index : index + 1]
        if not device:
            raise RuntimeError(f"it sees no GPU {index}")
        settings.add_provider_for_devices(device, options)
        return ort.InferenceSession(str(path), settings, enable_fallback=0), name


@cache
def _register_plugin() -> str:
    """Make TensorRT-RTX known to ONNX Runtime, once; the provider's name."""
    import onnxruntime as ort

    plugin = importlib.import_module(PLUGIN)
    name = str(plugin.get_ep_name())
    ort.register_execution_provider_library(name, plugin.get_library_path())
    return name


@contextmanager
def _silent() -> Iterator[None]:
    """ONNX Runtime prints a failure before it reports it; the report is enough."""
    import onnxruntime as ort

    ort.set_default_logger_severity(4)
    try:
        yield
    finally:
        ort.set_default_logger_severity(2)


def _options(threads: int, fp8: bool) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    # Processors with AVX2 and no VNNI add int8 products in 16 bits and clip them, twice the error, unless told not to.
    options.add_session_config_entry("session.x64quantprecision", "1")
    if fp8:  # ONNX Runtime would fuse fp8's Q/DQ into products that it has for int8 only
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return options


def _refusals() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises; they have no common ancestor but Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as c

    return (
        c.Fail,
        c.EPFail,
        c.InvalidArgument,
        c.InvalidGraph,
        c.InvalidProtobuf,
        c.NotImplemented,
        c.RuntimeException,
    )


def _reason(provider: str, said: str) -> str:
    """Why a provider did not start: a shared library that is missing, if that is it, else what was said.

    Asked only after ONNX Runtime has tried: loaded before, a provider would not find its host.
    """
    import onnxruntime as ort

    name = {"cuda": "cuda", "tensorrt": "tensorrt", "tensorrt-rtx": "nv_tensorrt_rtx"}[provider]
    file = f"onnxruntime_providers_{name}.dll" if sys.platform == "win32" else f"libonnxruntime_providers_{name}.so"
    library = Path(ort.__file__).parent / "capi" / file
    if library.exists():
        try:
            ctypes.CDLL(str(library))
        except OSError as error:
            lacking = str(error).partition(":")[0]
            return f"{lacking} can't be loaded; {install_hint(lacking)}"
    return said.replace(";", ",")


def _sentence(path: Path, provider: str, why: str) -> str:
    what, _, way_out = why.partition("; ")
    ways = f"{way_out}, or add --fallback" if way_out else "leave out --provider, or add --fallback"
    return f"{path} can't run on ONNX Runtime's {provider} provider: {what}; {ways}"


def _versions(provider: str) -> tuple[str, ...]:
    """Engines are of one version of what builds them."""
    import onnxruntime as ort

    names = {"tensorrt": "tensorrt", "tensorrt-rtx": PLUGIN}
    with suppress(ImportError):
        return provider, ort.__version__, str(getattr(importlib.import_module(names[provider]), "__version__", ""))
    return provider, ort.__version__


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _list(counted: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counted.most_common())
