"""ONNX Runtime sessions on a GPU, with fallback from one provider to the next.

A session whose costly operators ONNX Runtime assigned to another provider by itself counts as a failure.
"""

import ctypes
import importlib
import importlib.util
import sys
import warnings
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gtsa_kit.export.manifest import Manifest
from gtsa_kit.export.runtime.device import AnyDevice, count_gpus
from gtsa_kit.export.runtime.onnx_sessions import first_line, runtime_errors, start_session
from gtsa_kit.export.runtime.providers import (
    OPTION_PREFIXES,
    PROVIDER_INSTALL,
    PROVIDER_NAMES,
    TENSORRT_RTX_PLUGIN,
    FallbackWarning,
    ProviderUnavailable,
    cache_folder,
    install_hint,
    limit_to_profile,
    provider_options,
)
from gtsa_kit.files import sha256_of

COSTLY: Final = frozenset(("Conv", "MatMul", "Gemm", "Softmax", "LayerNormalization", "Gelu"))
"""Operators that take most of the time; small arithmetic on shapes may run on the CPU."""


@dataclass(frozen=True)
class GpuSession:
    """ONNX Runtime session whose costly operators run on a GPU."""

    session: Any
    manifest: Manifest
    """Manifest with the input ranges that the provider accepts."""
    description: str
    """ONNX Runtime, the provider, and the operators that run elsewhere; for display."""


def open_gpu_session(
    path: Path, manifest: Manifest, providers: tuple[str, ...], device: AnyDevice, engine_cache: Path | None
) -> GpuSession | None:
    """Open a session with the first provider that runs here; None if that is the CPU.

    Each provider that does not run here gives a `FallbackWarning`.

    Args:
        path: The ONNX file.
        manifest: Its manifest.
        providers: Providers to try, see `ProviderRequest.resolve`.
        device: The GPU; without an index the first one.
        engine_cache: See `ProviderRequest`.

    Raises:
        ProviderUnavailable: The last provider can't run here.
        ValueError: The engine cache can't be written, or a provider does not support the precision.
    """
    for provider, following in zip(providers, (*providers[1:], None), strict=True):
        if provider == "cpu":
            return None
        try:
            remaining = providers[providers.index(provider) :]
            return _open_provider(path, manifest, remaining, device.index or 0, engine_cache)
        except ProviderUnavailable as error:
            if following is None:
                raise
            reason = str(error).rpartition("; ")[0]
            warnings.warn(f"{reason}; falling back to {following}", FallbackWarning, stacklevel=2)
    raise AssertionError("there is at least one provider")


def _open_provider(
    path: Path, manifest: Manifest, providers: tuple[str, ...], index: int, engine_cache: Path | None
) -> GpuSession:
    """Open a session with the first provider; the others run the operators that it does not support."""
    provider, *others = providers
    if reason := unavailable_reason(provider):
        raise ProviderUnavailable(_error_message(path, provider, reason))
    options = provider_options(provider, manifest, index, None)
    if engine_cache and provider in OPTION_PREFIXES:
        folder = cache_folder(engine_cache, sha256_of(path), options, _versions(provider))
        options = provider_options(provider, manifest, index, folder)
    cuda = [
        (PROVIDER_NAMES[other], provider_options(other, manifest, index, None)) for other in others if other == "cuda"
    ]
    failures: tuple[type[Exception], ...] = (RuntimeError, ImportError, OSError, *runtime_errors())
    try:
        session, name = start_session(path, provider, options, cuda, manifest.precision == "fp8")
    except failures as error:
        reason = _failure_reason(provider, first_line(error))
        raise ProviderUnavailable(_error_message(path, provider, reason)) from error
    if name not in session.get_providers():
        reason = _failure_reason(provider, f"ONNX Runtime used {session.get_providers()[0]} without a message")
        raise ProviderUnavailable(_error_message(path, provider, reason))
    unassigned = unassigned_ops(session, name)
    if unassigned and not others:
        reason = f"it does not support {_list_counts(unassigned)} of this graph"
        raise ProviderUnavailable(_error_message(path, provider, reason))
    elsewhere = f", {_list_counts(unassigned)} elsewhere" if unassigned else ""
    return GpuSession(session, limit_to_profile(provider, manifest), f"ONNX Runtime, {name}{elsewhere}")


def unavailable_reason(provider: str) -> str:
    """Return the reason why a provider can't run here, and a hint; "" if only opening a session can show it."""
    import onnxruntime as ort

    available = ort.get_available_providers()
    if PROVIDER_NAMES[provider] not in available and not (
        provider == "tensorrt-rtx" and importlib.util.find_spec(TENSORRT_RTX_PLUGIN)
    ):
        return f"the installed ONNX Runtime {ort.__version__} does not have it; {PROVIDER_INSTALL[provider]}"
    if not count_gpus():
        return "there is no NVIDIA GPU here, or no driver for it; run this on a machine with one"
    return ""


def unassigned_ops(session: Any, name: str) -> Counter[str]:
    """Count the costly operators of a graph that are not assigned to a provider.

    Args:
        session: The session; it must record the assignment.
        name: ONNX Runtime's name of the provider.
    """
    # Builds of ONNX Runtime with TensorRT-RTX lack this method.
    assignment_info = getattr(session, "get_provider_graph_assignment_info", None)
    subgraphs = assignment_info() if assignment_info else []
    return Counter(
        node.op_type
        for subgraph in subgraphs
        if subgraph.ep_name != name
        for node in subgraph.get_nodes()
        if node.op_type in COSTLY
    )


def _failure_reason(provider: str, message: str) -> str:
    """Return why a provider did not start: a missing shared library, else ONNX Runtime's message.

    The library is loaded only after ONNX Runtime has tried to load it: it needs symbols that ONNX Runtime loads first.
    """
    import onnxruntime as ort

    name = {"cuda": "cuda", "tensorrt": "tensorrt", "tensorrt-rtx": "nv_tensorrt_rtx"}[provider]
    file = f"onnxruntime_providers_{name}.dll" if sys.platform == "win32" else f"libonnxruntime_providers_{name}.so"
    library = Path(ort.__file__).parent / "capi" / file
    if library.exists():
        try:
            ctypes.CDLL(str(library))
        except OSError as error:
            missing = str(error).partition(":")[0]
            return f"{missing} can't be loaded; {install_hint(missing)}"
    return message.replace(";", ",")


def _error_message(path: Path, provider: str, reason: str) -> str:
    """Build the message from a reason, which may hold a hint after a semicolon."""
    reason, _, hint = reason.partition("; ")
    hints = f"{hint}, or add --fallback" if hint else "omit --provider, or add --fallback"
    return f"{path} can't run on ONNX Runtime's {provider} provider: {reason}; {hints}"


def _versions(provider: str) -> tuple[str, ...]:
    """Return the versions that an engine in the cache belongs to."""
    import onnxruntime as ort

    modules = {"tensorrt": "tensorrt", "tensorrt-rtx": TENSORRT_RTX_PLUGIN}
    with suppress(ImportError):
        return provider, ort.__version__, str(getattr(importlib.import_module(modules[provider]), "__version__", ""))
    return provider, ort.__version__


def _list_counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())
