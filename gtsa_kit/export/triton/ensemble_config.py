"""Configurations of ensembles of NVIDIA Triton, and of the heads in them."""

from collections.abc import Mapping, Sequence

from gtsa_kit.export.manifest import Manifest
from gtsa_kit.export.manifest_records import TensorSpec
from gtsa_kit.export.triton.config import (
    ServingOptions,
    file_config,
    max_batch_size,
    tensor_entry,
    written_by,
)
from gtsa_kit.export.triton.pbtxt import Message

Step = tuple[str, Mapping[str, str], Mapping[str, str]]
"""Name of a model, and the tensors of the ensemble by the names of its inputs and of its outputs."""


def ensemble_config(
    name: str, max_batch: int, images: TensorSpec, outputs: Sequence[TensorSpec], steps: Sequence[Step]
) -> Message:
    """Return the configuration of an ensemble.

    Args:
        name: Name of the ensemble.
        max_batch: Maximum batch size of dynamic batching; 0 where requests are not batched.
        images: Input of the ensemble.
        outputs: Outputs of the ensemble.
        steps: Models in the order in which they run.
    """
    return {
        "name": name,
        "platform": "ensemble",
        "max_batch_size": max_batch,
        "input": [tensor_entry(images, max_batch)],
        "output": [tensor_entry(spec, max_batch) for spec in outputs],
        "ensemble_scheduling": {"step": [_step(*step) for step in steps]},
        "parameters": written_by(),
    }


def head_config(head: Manifest, encoder: Manifest, serving: ServingOptions, name: str) -> Message:
    """Return the configuration of a head in an ensemble.

    Args:
        head: Manifest of the head.
        encoder: Manifest of its encoder, whose batches the head gets.
        serving: Settings of the ensemble.
        name: Name of the model.
    """
    max_batch = max_batch_size(encoder.range_of("batch"), serving.max_batch)
    batching = {"dynamic_batching": {"max_queue_delay_microseconds": 0}} if max_batch > 1 else {}
    return file_config(head, serving, name, max_batch, batching)


def _step(model: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> Message:
    """Return a step of the ensemble; the maps go from the model's tensor names to those of the ensemble."""
    return {
        "model_name": model,
        "model_version": -1,  # the newest
        "input_map": [{"key": name, "value": value} for name, value in inputs.items()],
        "output_map": [{"key": name, "value": value} for name, value in outputs.items()],
    }
