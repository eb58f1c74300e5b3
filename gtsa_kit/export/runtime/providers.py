"""ONNX Runtime's execution providers: which to try, what each is told, and what to install where one is missing."""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from gtsa_kit.export.manifest import AxisRange, Manifest
from gtsa_kit.export.runtime.profile import InputRanges, OptimalShape, Profile, make_profile

NAMES: Final[Mapping[str, str]] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "tensorrt-rtx": "NvTensorRTRTXExecutionProvider",
}
FALLBACKS: Final[Mapping[str, tuple[str, ...]]] = {
    "cuda": ("cpu",),
    "tensorrt": ("cuda", "cpu"),
    "tensorrt-rtx": ("cuda", "cpu"),
}
PREFIXES: Final = {"tensorrt": "trt", "tensorrt-rtx": "nv"}
"""Of the options of those that build engines."""
PLUGIN: Final = "onnxruntime_ep_nv_tensorrt_rtx"
"""The module that brings TensorRT-RTX to a build of ONNX Runtime without it."""
INSTALL: Final = {
    "cuda": "pip install onnxruntime-gpu in place of onnxruntime",
    "tensorrt": "pip install onnxruntime-gpu in place of onnxruntime",
    "tensorrt-rtx": "pip install onnxruntime onnxruntime-ep-nv-tensorrt-rtx in place of onnxruntime-gpu",
}


class ProviderUnavailable(ValueError):
    """A provider can't run here; what is missing, and after a semicolon what to do."""


class FallbackWarning(UserWarning):
    """Something slower runs the graph than was asked for."""


@dataclass(frozen=True)
class ProviderRequest:
    """What is to run an ONNX file."""

    provider: str = "auto"
    """A key of `NAMES`, or "auto": CUDA where there is a GPU and ONNX Runtime can use it, else the processor."""
    engine_cache: Path | None = None
    """Folder for the engines that TensorRT builds; it is made if it is missing."""
    fallback: bool = False
    """Whether the next best may take over from what can't run here."""

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if self.provider not in ("auto", *NAMES):
            raise ValueError(f"--provider takes auto, {', '.join(NAMES)}, got {self.provider!r}")
        if self.engine_cache and self.provider not in PREFIXES:
            raise ValueError(
                f"only engines are cached, and --provider {self.provider} builds none; take --provider "
                f"{' or '.join(PREFIXES)}, or leave out --engine-cache"
            )

    @property
    def told(self) -> bool:
        """Whether anything was asked for."""
        return self != ProviderRequest()

    def order(self, device: str, target: torch.device) -> tuple[str, ...]:
        """Providers to try, the best first.

        Args:
            device: As it was asked for.
            target: What `pick_device` made of it.

        Raises:
            ValueError: Device and provider contradict each other.
        """
        if self.provider == "auto":
            if target.type != "cuda":
                return ("cpu",)
            return ("cuda", "cpu") if self.fallback or device == "auto" else ("cuda",)
        if device != "auto" and (device == "cpu") != (self.provider == "cpu"):
            raise ValueError(f"--provider {self.provider} does not run on --device {device}; leave one of them out")
        return (self.provider, *FALLBACKS.get(self.provider, ())) if self.fallback else (self.provider,)


def provider_options(provider: str, manifest: Manifest, index: int, cache: Path | None) -> dict[str, str]:
    """What a provider is told, as ONNX Runtime takes it.

    Args:
        provider: One on a GPU.
        manifest: Of the graph.
        index: Of the GPU.
        cache: Folder of this very graph's engines, see `cache_folder`.

    Raises:
        ValueError: A precision that the provider does not have.
    """
    options = {"device_id": str(index)}
    if provider not in PREFIXES:
        return options | {"use_tf32": "0"}  # it would round the matrices of a float32 graph to 10 bits
    prefix = PREFIXES[provider]
    if manifest.axes:
        name, profile = manifest.inputs[0].name, manifest_profile(manifest)
        for end, shape in (("min", profile.min), ("opt", profile.opt), ("max", profile.max)):
            options[f"{prefix}_profile_{end}_shapes"] = f"{name}:{'x'.join(map(str, shape))}"
    if provider == "tensorrt":
        return options | _precision_of_tensorrt(manifest.precision) | _cache_of_tensorrt(cache)
    return options | ({"nv_runtime_cache_path": str(cache)} if cache else {})


def _precision_of_tensorrt(precision: str) -> dict[str, str]:
    """Unlike TensorRT-RTX, this provider uses a type that is in the graph only where it is allowed."""
    if precision == "fp8":
        raise ValueError(
            "ONNX Runtime's tensorrt provider has no fp8; build an engine with gtsa export --format trt --precision fp8"
        )
    if precision not in ("fp16", "bf16", "int8"):
        return {}
    normed = {} if precision == "int8" else {"trt_layer_norm_fp32_fallback": "1"}
    return {f"trt_{precision}_enable": "1"} | normed


def _cache_of_tensorrt(cache: Path | None) -> dict[str, str]:
    if cache is None:
        return {}
    return {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(cache),
    }


def manifest_profile(manifest: Manifest) -> Profile:
    """Smallest, usual and largest input; where the manifest sets no end, the one that engines have."""
    batch, height, width = (manifest.range_of(axis) for axis in ("batch", "height", "width"))
    ranges = InputRanges(batch, height, width, manifest.inputs[0].dtype == "uint8")
    return make_profile(ranges.bounded(OptimalShape()), OptimalShape(), int(manifest.preprocessing["size"]))


def limit_to_profile(provider: str, manifest: Manifest) -> Manifest:
    """The manifest with the ends of its profile, so that what lies beyond is refused in words."""
    if provider not in PREFIXES:
        return manifest
    largest = dict(zip(manifest.input_layout, manifest_profile(manifest).max, strict=True))
    axes = {
        name: AxisRange(min=allowed.min, max=largest[name], multiple_of=allowed.multiple_of)
        for name, allowed in manifest.axes.items()
    }
    return manifest.model_copy(update={"axes": axes})


def cache_folder(root: Path, graph_sha256: str, options: Mapping[str, str], versions: tuple[str, ...]) -> Path:
    """A folder below `root` for the engines of one graph, made if it is missing.

    ONNX Runtime finds a cached engine by the names in a graph, which two encoders share: of one root alone, the second
    would run with the first one's weights.

    Args:
        root: What the user named.
        graph_sha256: Of the file with the graph.
        options: What the provider is told.
        versions: Of the libraries that build the engine.

    Raises:
        ValueError: It can't be made, or not written to.
    """
    said = [graph_sha256, *versions, *(f"{name}={value}" for name, value in sorted(options.items()))]
    folder = root / hashlib.sha256("\n".join(said).encode()).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"engines can't be kept in {root}: {error.strerror}; name a folder that can be written with --engine-cache"
        ) from error
    return folder


def install_hint(library: str) -> str:
    """What to install for a shared library that can't be loaded."""
    if found := re.search(r"nv(?:infer|onnxparser)\w*?(?:\.so\.|_)(\d+)", library):
        version = int(found[1])
        return (
            f"install TensorRT {version}, the version that this ONNX Runtime wants: pip install 'tensorrt=={version}.*'"
        )
    if library.startswith(("libcuda.so", "nvcuda")):
        return "install NVIDIA's driver"
    return "pip install 'onnxruntime-gpu[cuda,cudnn]'"
