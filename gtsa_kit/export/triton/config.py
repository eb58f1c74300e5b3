"""Configuration of a model for NVIDIA Triton: the content of `config.pbtxt`, derived from a manifest."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

from gtsa_kit.export.layout import CHANNELS
from gtsa_kit.export.manifest import Manifest
from gtsa_kit.export.manifest_records import TensorSpec
from gtsa_kit.export.spec import Range
from gtsa_kit.export.triton.pbtxt import EnumValue, Message
from gtsa_kit.version import __version__

InstanceKind = Literal["auto", "gpu", "cpu"]
DEFAULT_MAX_BATCH: Final = 16
"""Maximum batch size where the graph sets none."""
PREFERRED_BATCH: Final = 8
"""Batch size that Triton prefers where an engine's profile has no optimal one."""
WRITER_KEY: Final = "gtsa_kit"
"""Parameter of a configuration that marks it as written by gtsa-kit."""
TYPES: Final = {
    "float32": "TYPE_FP32",
    "float16": "TYPE_FP16",
    "bfloat16": "TYPE_BF16",
    "uint8": "TYPE_UINT8",
    "uint16": "TYPE_UINT16",
    "int8": "TYPE_INT8",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
}
"""Triton's data types by dtype."""
BACKENDS: Final = {"onnx": ("onnxruntime_onnx", "onnxruntime"), "trt": ("tensorrt_plan", "tensorrt")}
"""Platform and backend by format of the artifact."""
NORMALIZED: Final = "normalized"
"""Name of the tensor that the preprocessing passes to the encoder."""


@dataclass(frozen=True)
class ServingOptions:
    """Settings of a served model."""

    name: str = "encoder"
    instances: int = 1
    """Copies of the model on each device."""
    kind: InstanceKind = "auto"
    """Device of the instances; "auto" leaves the choice to the server."""
    max_batch: int | None = None
    """Maximum batch size of dynamic batching; 0 disables it; None takes the maximum of the graph."""
    queue_delay_ms: float = 1.0
    """Maximum time that a request waits for others, in milliseconds."""

    def __post_init__(self) -> None:
        """Raise `ValueError` for settings that Triton would reject."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", self.name):
            raise ValueError(
                f"--name is the name of a folder and a model: letters, digits, '_', '-' and '.', got {self.name!r}"
            )
        if self.kind not in get_args(InstanceKind) or self.instances < 1:
            raise ValueError(f"--instances takes N, gpu:N or cpu:N with N from 1, got {self.kind}:{self.instances}")
        if self.max_batch is not None and self.max_batch < 0:
            raise ValueError(f"--max-batch takes 0 or more, got {self.max_batch}")
        if not 0 <= self.queue_delay_ms < 60_000:
            raise ValueError(f"--queue-delay-ms takes 0 or more and less than 60000, got {self.queue_delay_ms}")


def check_serving(file_format: str, precision: str, batch: Range, serving: ServingOptions) -> None:
    """Raise `ValueError` unless an artifact can be served with the settings.

    Args:
        file_format: "onnx" or "trt".
        precision: Precision of the artifact.
        batch: Batch sizes that the artifact accepts.
        serving: Requested settings.
    """
    max_batch_size(batch, serving.max_batch)
    if file_format == "onnx" and precision == "fp8":
        raise ValueError(
            "ONNX Runtime computes with fp8 only with a session option that Triton does not set; use another "
            "--precision, or serve an engine: gtsa export --format trt"
        )
    if serving.kind == "cpu" and _needs_gpu(file_format, precision):
        artifact = "an engine" if file_format == "trt" else f"ONNX Runtime in {precision}"
        raise ValueError(f"{artifact} runs on a GPU; use --instances gpu:{serving.instances}")


def max_batch_size(allowed: Range, requested: int | None) -> int:
    """Return the maximum batch size of dynamic batching; 0 where the graph does not accept every batch from 1.

    Raises:
        ValueError: `requested` is more than the graph accepts.
    """
    if allowed.fixed or allowed.min > 1:
        if requested:
            sizes = allowed.min if allowed.fixed else f"{allowed.min} or more"
            raise ValueError(
                f"requests can't be batched: the graph takes batches of {sizes}; export it with --batch 1:{requested}, "
                "or omit --max-batch"
            )
        return 0
    if requested is None:
        return DEFAULT_MAX_BATCH if allowed.max is None else allowed.max
    if allowed.max is not None and requested > allowed.max:
        raise ValueError(
            f"--max-batch {requested} is above {allowed.max}, the maximum batch of the graph; export it with "
            f"--batch 1:{requested}"
        )
    return requested


def encoder_config(manifest: Manifest, serving: ServingOptions, name: str) -> Message:
    """Return the configuration of the encoder."""
    if _needs_gpu(manifest.format, manifest.precision):
        serving = replace(serving, kind="gpu")
    return _model_config(manifest, serving, name)


def preprocess_config(manifest: Manifest, serving: ServingOptions, name: str) -> Message:
    """Return the configuration of the graph that normalizes samples.

    Args:
        manifest: Manifest of that graph (`models.preprocess_manifest`).
        serving: Settings of the encoder.
        name: Name of the model.
    """
    serving = replace(serving, queue_delay_ms=0)  # requests wait at the encoder, where a larger batch saves time
    return _model_config(manifest, serving, name)


def optimal_size(manifest: Manifest) -> tuple[int, int]:
    """Return the (height, width) of the engine's optimal shape, else the allowed size nearest to that of training."""
    if manifest.engine and manifest.engine.profile:
        optimal = dict(zip(manifest.input_axes, manifest.engine.profile[1], strict=True))
        return optimal["height"], optimal["width"]
    base = int(manifest.preprocessing["size"])
    return manifest.range_of("height").clamp(base), manifest.range_of("width").clamp(base)


def _needs_gpu(file_format: str, precision: str) -> bool:
    return file_format == "trt" or precision == "bf16"


def _model_config(manifest: Manifest, serving: ServingOptions, name: str) -> Message:
    max_batch = max_batch_size(manifest.range_of("batch"), serving.max_batch)
    batching = _dynamic_batching(manifest, max_batch, serving.queue_delay_ms)
    warmups = list(_warmups(manifest, max_batch))
    return file_config(manifest, serving, name, max_batch, batching | {"model_warmup": warmups})


def file_config(manifest: Manifest, serving: ServingOptions, name: str, max_batch: int, batching: Message) -> Message:
    """Return the configuration of a model that is one file.

    Args:
        manifest: Manifest of the file.
        serving: Settings of the repository.
        name: Name of the model.
        max_batch: Largest batch, 1 for none.
        batching: Entries about batches and warm-up.
    """
    platform, backend = BACKENDS[manifest.format]
    return {
        "name": name,
        "platform": platform,
        "backend": backend,
        "max_batch_size": max_batch,
        "input": [tensor_entry(spec, max_batch) for spec in manifest.inputs],
        "output": [tensor_entry(spec, max_batch) for spec in manifest.outputs],
        "version_policy": {"latest": {"num_versions": 1}},
        "instance_group": [instance_group(serving)],
        **batching,
        "parameters": written_by(),
    }


def _dynamic_batching(manifest: Manifest, max_batch: int, delay_ms: float) -> Message:
    if max_batch < 2:
        return {}
    preferred = sorted({min(_optimal_batch(manifest), max_batch), max_batch})
    return {
        "dynamic_batching": {
            "preferred_batch_size": preferred,
            "max_queue_delay_microseconds": round(1000 * delay_ms),
        }
    }


def _optimal_batch(manifest: Manifest) -> int:
    if manifest.engine and manifest.engine.profile:
        return manifest.engine.profile[1][0]
    return manifest.range_of("batch").clamp(PREFERRED_BATCH)


def _warmups(manifest: Manifest, max_batch: int) -> Iterator[Message]:
    """Yield warm-up requests of one image and of a full batch; Triton repeats the image to fill the batch."""
    height, width = optimal_size(manifest)
    lengths: dict[str, int] = {
        "batch": manifest.range_of("batch").clamp(1),
        CHANNELS: manifest.channels,
        "height": height,
        "width": width,
    }
    spec = manifest.inputs[0]
    shape = [lengths[axis] for axis in manifest.input_axes]
    for batch in sorted({1, max_batch or 1}):
        zeros = {
            "data_type": EnumValue(TYPES[spec.dtype]),
            "dims": shape[1:] if max_batch else shape,
            "zero_data": True,
        }
        yield {
            "name": f"{batch if max_batch else lengths['batch']} x {height} x {width}",
            "batch_size": batch,
            "inputs": [{"key": spec.name, "value": zeros}],
        }


def tensor_entry(spec: TensorSpec, max_batch: int) -> Message:
    """Return the tensor entry; `dims` omit the batch where Triton batches requests, and -1 is a dynamic axis."""
    dims = [length if isinstance(length, int) else -1 for length in spec.shape]
    return {"name": spec.name, "data_type": EnumValue(TYPES[spec.dtype]), "dims": dims[1:] if max_batch else dims}


def instance_group(serving: ServingOptions) -> Message:
    """Return the copies of a model on each device."""
    kind = {"auto": "KIND_AUTO", "gpu": "KIND_GPU", "cpu": "KIND_CPU"}[serving.kind]
    return {"count": serving.instances, "kind": EnumValue(kind)}


def written_by() -> list[Message]:
    """Return the parameters that mark a configuration as written by gtsa-kit."""
    return [{"key": WRITER_KEY, "value": {"string_value": __version__}}]
