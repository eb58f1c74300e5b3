"""Response formats: arrays and their metadata as npz, safetensors, JSON or Arrow."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

MEDIA_TYPES: Final = {
    "npz": "application/x-npz",
    "safetensors": "application/vnd.safetensors",
    "json": "application/json",
    "arrow": "application/vnd.apache.arrow.stream",
}
"""Media type of each response format."""
METADATA_KEY: Final = "metadata"
"""Name of the metadata: an entry of an npz, and a key of the file metadata of safetensors and Arrow."""


@dataclass(frozen=True)
class ImageResult:
    """Arrays of one image by name with their metadata, or the error of an image that failed."""

    metadata: dict[str, Any]
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """True if the metadata holds an error in place of arrays."""
        return "error" in self.metadata


def encode_response(
    response_format: str, metadata: Mapping[str, Any], results: Sequence[ImageResult], multiple: bool
) -> bytes:
    """Return the body of a response.

    Args:
        response_format: One of `MEDIA_TYPES`.
        metadata: Metadata common to all images.
        results: Results in the order of the request.
        multiple: True if the request could hold several images. Then the names of arrays begin with the index of the
            image and a dot, and the metadata has a list `items`.
    """
    merged = (
        {**metadata, "items": [result.metadata for result in results]}
        if multiple
        else {**metadata, **results[0].metadata}
    )
    if response_format == "json":
        return _encode_json(merged, results, multiple)
    if response_format == "arrow":
        return _encode_arrow(merged, results)
    arrays = {
        f"{i}.{name}" if multiple else name: values
        for i, result in enumerate(results)
        for name, values in result.arrays.items()
    }
    return _encode_npz(merged, arrays) if response_format == "npz" else _encode_safetensors(merged, arrays)


def _encode_npz(metadata: dict[str, Any], arrays: dict[str, np.ndarray]) -> bytes:
    """Return an uncompressed npz: features compress badly, and compression takes longer than the model."""
    buffer = io.BytesIO()
    np.savez(buffer, **{METADATA_KEY: np.array(json.dumps(metadata))}, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _encode_safetensors(metadata: dict[str, Any], arrays: dict[str, np.ndarray]) -> bytes:
    from safetensors.numpy import save

    contiguous = {name: np.ascontiguousarray(values) for name, values in arrays.items()}
    return bytes(save(contiguous, metadata={METADATA_KEY: json.dumps(metadata)}))


def _encode_json(metadata: dict[str, Any], results: Sequence[ImageResult], multiple: bool) -> bytes:
    lists = [{name: values.tolist() for name, values in result.arrays.items()} for result in results]
    items = [{**result.metadata, **arrays} for result, arrays in zip(results, lists, strict=True)]
    body = {**metadata, "items": items} if multiple else {**metadata, **lists[0]}
    return json.dumps(body, allow_nan=False).encode()


def _encode_arrow(metadata: dict[str, Any], results: Sequence[ImageResult]) -> bytes:
    """Return a stream of one record batch with one row per image.

    Arrays are fixed-shape tensors, null for images that failed.
    """
    import pyarrow as pa

    first = next(result for result in results if not result.failed)
    columns, fields = [], []
    for name, template in first.arrays.items():
        values = [None if result.failed else result.arrays[name] for result in results]
        storage = _fixed_size_lists(values, template)
        tensor_type = pa.fixed_shape_tensor(storage.type.value_type, template.shape)
        columns.append(pa.ExtensionArray.from_storage(tensor_type, storage))
        fields.append(pa.field(name, tensor_type))
    schema = pa.schema(fields, metadata={METADATA_KEY: json.dumps(metadata)})
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
    return sink.getvalue()


def _fixed_size_lists(values: Sequence[np.ndarray | None], template: np.ndarray) -> Any:
    import pyarrow as pa

    flat = np.concatenate([np.zeros(template.size, template.dtype) if v is None else v.ravel() for v in values])
    missing = pa.array([v is None for v in values])
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), template.size, mask=missing)
