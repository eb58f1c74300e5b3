"""What NVIDIA Triton is told of a model: the content of `config.pbtxt`, out of a manifest."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

from gtsa_kit import __version__
from gtsa_kit.export.manifest import Manifest, TensorSpec
from gtsa_kit.export.spec import INPUT, Range
from gtsa_kit.export.triton.pbtxt import EnumValue, Message

Kind = Literal["auto", "gpu", "cpu"]
MOST: Final = 16
"""Images of a batch where the graph sets no limit."""
USUAL: Final = 8
MARK: Final = "gtsa_kit"
"""The parameter that says who wrote a configuration."""
TYPES: Final = {
    "float32": "TYPE_FP32",
    "float16": "TYPE_FP16",
    "bfloat16": "TYPE_BF16",
    "uint8": "TYPE_UINT8",
    "int8": "TYPE_INT8",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
}
BACKENDS: Final = {"onnx": ("onnxruntime_onnx", "onnxruntime"), "trt": ("tensorrt_plan", "tensorrt")}
"""Platform and backend, by format of the artifact."""
NORMALIZED: Final = "normalized"
"""What the preprocessing hands to the encoder."""


@dataclass(frozen=True)
class ServingOptions:
    """How a model is to be served."""

    name: str = "encoder"
    instances: int = 1
    """On each device."""
    kind: Kind = "auto"
    max_batch: int | None = None
    """Images that requests are joined to at most; 0 leaves batches as they come; None leaves it to the graph."""
    queue_delay_ms: float = 1.0
    """That a request waits for others at most."""

    def __post_init__(self) -> None:
        """Refuse what Triton would."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", self.name):
            raise ValueError(
                f"--name names a folder and a model, of letters, digits, '_', '-' and '.', got {self.name!r}"
            )
        if self.kind not in get_args(Kind) or self.instances < 1:
            raise ValueError(f"--instances takes N, gpu:N or cpu:N with N from 1, got {self.kind}:{self.instances}")
        if self.max_batch is not None and self.max_batch < 0:
            raise ValueError(f"--max-batch takes 0 or more, got {self.max_batch}")
        if not 0 <= self.queue_delay_ms < 60_000:
            raise ValueError(f"--queue-delay-ms takes 0 to 60000, got {self.queue_delay_ms}")


def check_serving(form: str, precision: str, batch: Range, serving: ServingOptions) -> None:
    """Raise `ValueError` unless an artifact can be served as is asked.

    Args:
        form: "onnx" or "trt".
        precision: Of the artifact.
        batch: That it takes.
        serving: What is asked.
    """
    max_batch_size(batch, serving.max_batch)
    if form == "onnx" and precision == "fp8":
        raise ValueError(
            "ONNX Runtime computes with fp8 only if it is told so, and Triton's is not; take another --precision, or "
            "serve an engine: gtsa export --format trt"
        )
    if serving.kind == "cpu" and _needs_gpu(form, precision):
        what = "an engine" if form == "trt" else f"ONNX Runtime in {precision}"
        raise ValueError(f"{what} runs on a GPU; take --instances gpu:{serving.instances}")


def max_batch_size(allowed: Range, wanted: int | None) -> int:
    """Images that Triton may join requests to; 0 where the graph does not take every batch from 1 on.

    Raises:
        ValueError: More is wanted than the graph takes.
    """
    if allowed.fixed or allowed.min > 1:
        if wanted:
            takes = allowed.min if allowed.fixed else f"{allowed.min} or more"
            raise ValueError(
                f"requests can't be joined: the graph takes batches of {takes}; export it with --batch 1:{wanted}, or "
                "leave out --max-batch"
            )
        return 0
    if wanted is None:
        return MOST if allowed.max is None else allowed.max
    if allowed.max is not None and wanted > allowed.max:
        raise ValueError(
            f"--max-batch {wanted} is above {allowed.max}, the largest batch of the graph; export it with "
            f"--batch 1:{wanted}"
        )
    return wanted


def encoder_config(manifest: Manifest, serving: ServingOptions, name: str) -> Message:
    """Of the encoder itself."""
    if _needs_gpu(manifest.format, manifest.precision):
        serving = replace(serving, kind="gpu")
    platform, backend = BACKENDS[manifest.format]
    return _model(manifest, serving, name, {"platform": platform, "backend": backend}, manifest.outputs)


def preprocess_config(manifest: Manifest, serving: ServingOptions, name: str) -> Message:
    """Of the graph that makes bytes into what the encoder takes.

    Args:
        manifest: Of that graph, see `triton.byte_manifest`.
        serving: As the encoder is served.
        name: Of the model.
    """
    platform, backend = BACKENDS["onnx"]
    at_once = replace(serving, queue_delay_ms=0)  # requests wait for others at the encoder, which gains from it
    return _model(manifest, at_once, name, {"platform": platform, "backend": backend}, manifest.outputs)


def ensemble_config(manifest: Manifest, encoder: Manifest, serving: ServingOptions, steps: tuple[str, str]) -> Message:
    """Of the two in a row, which takes bytes and gives features.

    Args:
        manifest: Of the preprocessing.
        encoder: Of the encoder.
        serving: How they are served; its name is the ensemble's.
        steps: Names of the models, preprocessing and encoder.
    """
    most = max_batch_size(encoder.range_of("batch"), serving.max_batch)
    same = {spec.name: spec.name for spec in encoder.outputs}
    return {
        "name": serving.name,
        "platform": "ensemble",
        "max_batch_size": most,
        "input": [_tensor(manifest.inputs[0], most)],
        "output": [_tensor(spec, most) for spec in encoder.outputs],
        "ensemble_scheduling": {
            "step": [
                _step(steps[0], {INPUT: INPUT}, {NORMALIZED: NORMALIZED}),
                _step(steps[1], {encoder.inputs[0].name: NORMALIZED}, same),
            ]
        },
        "parameters": _mark(),
    }


def optimal_size(manifest: Manifest) -> tuple[int, int]:
    """Height and width of most images: those that an engine is best at, else those of training, or nearest to them."""
    if manifest.engine and manifest.engine.profile:
        usual = dict(zip(manifest.input_layout, manifest.engine.profile[1], strict=True))
        return usual["height"], usual["width"]
    base = int(manifest.preprocessing["size"])
    return manifest.range_of("height").clamp(base), manifest.range_of("width").clamp(base)


def _needs_gpu(form: str, precision: str) -> bool:
    return form == "trt" or precision == "bf16"


def _model(
    manifest: Manifest, serving: ServingOptions, name: str, backend: Message, outputs: tuple[TensorSpec, ...]
) -> Message:
    most = max_batch_size(manifest.range_of("batch"), serving.max_batch)
    kind = {"auto": "KIND_AUTO", "gpu": "KIND_GPU", "cpu": "KIND_CPU"}[serving.kind]
    return {
        "name": name,
        **backend,
        "max_batch_size": most,
        "input": [_tensor(spec, most) for spec in manifest.inputs],
        "output": [_tensor(spec, most) for spec in outputs],
        "version_policy": {"latest": {"num_versions": 1}},
        "instance_group": [{"count": serving.instances, "kind": EnumValue(kind)}],
        **_batching(manifest, most, serving.queue_delay_ms),
        "model_warmup": list(_warmups(manifest, most)),
        "parameters": _mark(),
    }


def _batching(manifest: Manifest, most: int, delay_ms: float) -> Message:
    if most < 2:
        return {}
    preferred = sorted({min(_usual_batch(manifest), most), most})
    return {
        "dynamic_batching": {
            "preferred_batch_size": preferred,
            "max_queue_delay_microseconds": round(1000 * delay_ms),
        }
    }


def _usual_batch(manifest: Manifest) -> int:
    if manifest.engine and manifest.engine.profile:
        return manifest.engine.profile[1][0]
    return manifest.range_of("batch").clamp(USUAL)


def _warmups(manifest: Manifest, most: int) -> Iterator[Message]:
    """Requests before the first: one image, and a full batch. Triton repeats the image as often as the batch says."""
    height, width = optimal_size(manifest)
    lengths: dict[str, int] = {
        "batch": manifest.range_of("batch").clamp(1),
        "3": 3,
        "height": height,
        "width": width,
    }
    spec = manifest.inputs[0]
    shape = [lengths[axis] for axis in manifest.input_layout]
    for batch in sorted({1, most or 1}):
        zeros = {"data_type": EnumValue(TYPES[spec.dtype]), "dims": shape[1:] if most else shape, "zero_data": True}
        yield {
            "name": f"{batch if most else lengths['batch']} x {height} x {width}",
            "batch_size": batch,
            "inputs": [{"key": spec.name, "value": zeros}],
        }


def _tensor(spec: TensorSpec, most: int) -> Message:
    """Dimensions without the batch where Triton makes batches; -1 is any length."""
    dims = [length if isinstance(length, int) else -1 for length in spec.shape]
    return {"name": spec.name, "data_type": EnumValue(TYPES[spec.dtype]), "dims": dims[1:] if most else dims}


def _step(model: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> Message:
    """Keys are the model's own names, values those within the ensemble; the newest version."""
    return {
        "model_name": model,
        "model_version": -1,
        "input_map": [{"key": name, "value": value} for name, value in inputs.items()],
        "output_map": [{"key": name, "value": value} for name, value in outputs.items()],
    }


def _mark() -> list[Message]:
    return [{"key": MARK, "value": {"string_value": __version__}}]
