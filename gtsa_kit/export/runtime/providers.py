"""ONNX Runtime's execution providers: order of fallback, options, and installation hints."""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gtsa_kit.export.manifest import Manifest
from gtsa_kit.export.manifest_records import AxisRange
from gtsa_kit.export.runtime.device import AnyDevice
from gtsa_kit.export.runtime.profile import InputRanges, OptimalShape, Profile, make_profile

PROVIDER_NAMES: Final[Mapping[str, str]] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "tensorrt-rtx": "NvTensorRTRTXExecutionProvider",
}
"""ONNX Runtime's names of the providers."""
FALLBACKS: Final[Mapping[str, tuple[str, ...]]] = {
    "cuda": ("cpu",),
    "tensorrt": ("cuda", "cpu"),
    "tensorrt-rtx": ("cuda", "cpu"),
}
"""Providers to try, in this order, after one that can't run."""
OPTION_PREFIXES: Final = {"tensorrt": "trt", "tensorrt-rtx": "nv"}
"""Prefixes of the options of providers that build engines."""
TENSORRT_RTX_PLUGIN: Final = "onnxruntime_ep_nv_tensorrt_rtx"
"""Module that adds TensorRT-RTX to a build of ONNX Runtime without it."""
PROVIDER_INSTALL: Final = {
    "cuda": "pip install onnxruntime-gpu in place of onnxruntime",
    "tensorrt": "pip install onnxruntime-gpu in place of onnxruntime",
    "tensorrt-rtx": "pip install onnxruntime onnxruntime-ep-nv-tensorrt-rtx in place of onnxruntime-gpu",
}
"""Installation hints by provider."""


class ProviderUnavailable(ValueError):
    """Raised when a provider can't run here; the message holds the reason and, after a semicolon, hints."""


class FallbackWarning(UserWarning):
    """Issued when a slower provider than the requested one runs the graph."""


@dataclass(frozen=True)
class ProviderRequest:
    """Requested provider of ONNX Runtime.

    Raises:
        ValueError: The provider is unknown, or an engine cache is given to a provider that builds no engines.
    """

    provider: str = "auto"
    """Key of `PROVIDER_NAMES`, or "auto": CUDA if there is a GPU that ONNX Runtime can use, else the CPU."""
    engine_cache: Path | None = None
    """Folder for the engines that TensorRT builds; it is created if it is missing."""
    fallback: bool = False
    """Permission for a slower provider to replace one that can't run here."""

    def __post_init__(self) -> None:
        """Check the provider and the engine cache."""
        if self.provider not in ("auto", *PROVIDER_NAMES):
            raise ValueError(f"--provider takes auto, {', '.join(PROVIDER_NAMES)}, got {self.provider!r}")
        if self.engine_cache and self.provider not in OPTION_PREFIXES:
            raise ValueError(
                f"only engines are cached, and --provider {self.provider} builds none; use --provider "
                f"{' or '.join(OPTION_PREFIXES)}, or omit --engine-cache"
            )

    @property
    def is_default(self) -> bool:
        """True if no provider, cache or fallback was requested."""
        return self == ProviderRequest()

    def resolve(self, device: str, target: AnyDevice) -> tuple[str, ...]:
        """Return the providers to try, the fastest first.

        Args:
            device: Requested device: "auto", "cpu", "cuda" or "cuda:N".
            target: Device that `pick_device` returns for it.

        Raises:
            ValueError: The provider does not run on the requested device.
        """
        if self.provider == "auto":
            if target.type != "cuda":
                return ("cpu",)
            return ("cuda", "cpu") if self.fallback or device == "auto" else ("cuda",)
        if device != "auto" and (device == "cpu") != (self.provider == "cpu"):
            raise ValueError(f"--provider {self.provider} does not run on --device {device}; omit one of them")
        return (self.provider, *FALLBACKS.get(self.provider, ())) if self.fallback else (self.provider,)


def provider_options(provider: str, manifest: Manifest, index: int, cache: Path | None) -> dict[str, str]:
    """Return the options of a provider for ONNX Runtime.

    Args:
        provider: Provider on a GPU.
        manifest: Manifest of the graph.
        index: Index of the GPU.
        cache: Folder of this graph's engines, see `cache_folder`.

    Raises:
        ValueError: The provider does not support the precision.
    """
    options = {"device_id": str(index)}
    if provider not in OPTION_PREFIXES:
        return options | {"use_tf32": "0"}  # tf32 would round the matrices of a float32 graph to 10 mantissa bits
    prefix = OPTION_PREFIXES[provider]
    if manifest.axes:
        name, profile = manifest.inputs[0].name, manifest_profile(manifest)
        for end, shape in (("min", profile.min), ("opt", profile.opt), ("max", profile.max)):
            options[f"{prefix}_profile_{end}_shapes"] = f"{name}:{'x'.join(map(str, shape))}"
    if provider == "tensorrt":
        return options | _tensorrt_precision_options(manifest.precision) | _tensorrt_cache_options(cache)
    return options | ({"nv_runtime_cache_path": str(cache)} if cache else {})


def _tensorrt_precision_options(precision: str) -> dict[str, str]:
    """Return the options that allow a precision; TensorRT-RTX needs none, since it uses the types of the graph."""
    if precision == "fp8":
        raise ValueError(
            "ONNX Runtime's tensorrt provider has no fp8; build an engine with gtsa export --format trt --precision fp8"
        )
    if precision not in ("fp16", "bf16", "int8"):
        return {}
    layer_norm = {} if precision == "int8" else {"trt_layer_norm_fp32_fallback": "1"}
    return {f"trt_{precision}_enable": "1"} | layer_norm


def _tensorrt_cache_options(cache: Path | None) -> dict[str, str]:
    if cache is None:
        return {}
    return {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(cache),
    }


def manifest_profile(manifest: Manifest) -> Profile:
    """Return the optimization profile of a graph; where the manifest sets no maximum, it has that of engines."""
    batch, height, width = (manifest.range_of(axis) for axis in ("batch", "height", "width"))
    ranges = InputRanges(batch, height, width, manifest.layout, manifest.channels)
    default_side = int(manifest.preprocessing["size"])
    return make_profile(ranges.bounded(OptimalShape(), default_side), OptimalShape(), default_side)


def limit_to_profile(provider: str, manifest: Manifest) -> Manifest:
    """Return the manifest with the ranges of its profile; the runner then rejects other inputs with a clear error."""
    if provider not in OPTION_PREFIXES:
        return manifest
    maxima = dict(zip(manifest.input_axes, manifest_profile(manifest).max, strict=True))
    axes = {
        name: AxisRange(min=allowed.min, max=maxima[name], multiple_of=allowed.multiple_of)
        for name, allowed in manifest.axes.items()
    }
    return manifest.model_copy(update={"axes": axes})


def cache_folder(root: Path, graph_sha256: str, options: Mapping[str, str], versions: tuple[str, ...]) -> Path:
    """Create the folder below `root` for the engines of one graph, and return it.

    ONNX Runtime looks a cached engine up by the names in a graph, which two encoders share. In one folder for both, the
    second encoder would run with the weights of the first.

    Args:
        root: Folder that the user chose.
        graph_sha256: SHA-256 of the ONNX file.
        options: Options of the provider.
        versions: Versions of the libraries that build the engine.

    Raises:
        ValueError: The folder can't be created or written to.
    """
    key = [graph_sha256, *versions, *(f"{name}={value}" for name, value in sorted(options.items()))]
    folder = root / hashlib.sha256("\n".join(key).encode()).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"engines can't be kept in {root}: {error.strerror}; name a writable folder with --engine-cache"
        ) from error
    return folder


def install_hint(library: str) -> str:
    """Return what to install for a shared library that can't be loaded."""
    if match := re.search(r"nv(?:infer|onnxparser)\w*?(?:\.so\.|_)(\d+)", library):
        version = int(match[1])
        return f"install TensorRT {version}, which this ONNX Runtime needs: pip install 'tensorrt=={version}.*'"
    if library.startswith(("libcuda.so", "nvcuda")):
        return "install NVIDIA's driver"
    return "pip install 'onnxruntime-gpu[cuda,cudnn]'"
