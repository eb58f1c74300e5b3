"""ONNX Runtime sessions: their options, their errors, and starting one on the CPU or with a provider."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from gtsa_kit.export.runtime.providers import PROVIDER_NAMES, TENSORRT_RTX_PLUGIN
from gtsa_kit.hardware import compute_threads


def open_session(model: str | bytes, path: Path, threads: int, fp8: bool = False) -> Any:
    """Open a session on the CPU.

    Args:
        model: Path of the file, or a serialized model.
        path: Path of the file, for the error.
        threads: Number of threads within an operator.
        fp8: Whether the graph is quantized to fp8.

    Raises:
        ValueError: ONNX Runtime can't open the model.
    """
    import onnxruntime as ort

    try:
        return ort.InferenceSession(model, session_options(threads, fp8), providers=[PROVIDER_NAMES["cpu"]])
    except runtime_errors() as error:
        raise ValueError(f"{path} can't be opened by ONNX Runtime: {first_line(error)}") from error


def start_session(
    path: Path, provider: str, options: dict[str, str], others: list[tuple[str, dict[str, str]]], fp8: bool
) -> tuple[Any, str]:
    """Start a session with a GPU provider; ONNX Runtime may assign operators to none but the given providers and CPU.

    Args:
        path: ONNX file.
        provider: Key of `PROVIDER_NAMES`.
        options: Options of the provider.
        others: ONNX Runtime's names of further providers, with their options.
        fp8: Whether the graph is quantized to fp8.

    Returns:
        The session, and ONNX Runtime's name of the provider.

    Raises:
        RuntimeError: TensorRT-RTX finds no such GPU. ONNX Runtime raises `runtime_errors` if the provider can't start.
    """
    import onnxruntime as ort

    settings = session_options(compute_threads(), fp8)
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if provider == "tensorrt":
        with suppress(ImportError):  # the import loads libraries that lie outside of the loader's search path
            importlib.import_module("tensorrt")
    with _silenced_logger():
        if provider != "tensorrt-rtx" or PROVIDER_NAMES[provider] in ort.get_available_providers():
            providers = [(PROVIDER_NAMES[provider], options), *others]
            return ort.InferenceSession(str(path), settings, providers=providers, enable_fallback=0), PROVIDER_NAMES[
                provider
            ]
        name = _register_plugin()
        index = int(options.pop("device_id"))
        device = [ep_device for ep_device in ort.get_ep_devices() if ep_device.ep_name == name][index : index + 1]
        if not device:
            raise RuntimeError(f"it finds no GPU {index}")
        settings.add_provider_for_devices(device, options)
        return ort.InferenceSession(str(path), settings, enable_fallback=0), name


def session_options(threads: int, fp8: bool) -> Any:
    """Return the options of every session."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    # CPUs with AVX2 and without VNNI otherwise add int8 products in 16 bits with saturation, which doubles the error.
    options.add_session_config_entry("session.x64quantprecision", "1")
    if fp8:  # ONNX Runtime would fuse fp8 Q/DQ nodes into operators that it has for int8 only
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return options


def runtime_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that ONNX Runtime raises; they have no common base class but Exception."""
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


def first_line(error: Exception) -> str:
    """Return the first line of an exception's message, or the name of its type if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


@cache
def _register_plugin() -> str:
    """Register TensorRT-RTX with ONNX Runtime, once, and return the provider's name."""
    import onnxruntime as ort

    plugin = importlib.import_module(TENSORRT_RTX_PLUGIN)
    name = str(plugin.get_ep_name())
    ort.register_execution_provider_library(name, plugin.get_library_path())
    return name


@contextmanager
def _silenced_logger() -> Iterator[None]:
    """Silence ONNX Runtime, which prints a failure and raises it too."""
    import onnxruntime as ort

    ort.set_default_logger_severity(4)
    try:
        yield
    finally:
        ort.set_default_logger_severity(2)
