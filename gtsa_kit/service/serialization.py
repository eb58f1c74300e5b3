"""Arrays and an account of them to the bytes of an answer: npz, safetensors, JSON, Arrow."""

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
ABOUT: Final = "about"
"""Name of the account: an entry of an npz and of JSON, a key of the metadata of the others."""


@dataclass(frozen=True)
class Item:
    """One image of an answer: arrays by name, and facts; or the error in their place."""

    about: dict[str, Any]
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether there is an error in place of arrays."""
        return "error" in self.about


def encode(form: str, about: Mapping[str, Any], items: Sequence[Item], many: bool) -> bytes:
    """The body of an answer.

    Args:
        form: One of `MEDIA_TYPES`.
        about: Facts common to all items.
        items: In the order of the request.
        many: Whether the request could hold several: then names of arrays begin with the item's index and a dot, and
            the account has a list of items.
    """
    whole = {**about, "items": [item.about for item in items]} if many else {**about, **items[0].about}
    if form == "json":
        return _json(whole, items, many)
    if form == "arrow":
        return _arrow(whole, items)
    arrays = {
        f"{i}.{name}" if many else name: values for i, item in enumerate(items) for name, values in item.arrays.items()
    }
    return _npz(whole, arrays) if form == "npz" else _safetensors(whole, arrays)


def _npz(about: dict[str, Any], arrays: dict[str, np.ndarray]) -> bytes:
    """Stored, not compressed: features hardly shrink, and compressing them takes longer than the model."""
    buffer = io.BytesIO()
    np.savez(buffer, **{ABOUT: np.array(json.dumps(about))}, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _safetensors(about: dict[str, Any], arrays: dict[str, np.ndarray]) -> bytes:
    from safetensors.numpy import save

    contiguous = {name: np.ascontiguousarray(values) for name, values in arrays.items()}
    return bytes(save(contiguous, metadata={ABOUT: json.dumps(about)}))


def _json(about: dict[str, Any], items: Sequence[Item], many: bool) -> bytes:
    lists = [{name: values.tolist() for name, values in item.arrays.items()} for item in items]
    body = {**about, "items": [{**item.about, **own} for item, own in zip(items, lists, strict=True)]}
    return json.dumps(body if many else {**about, **lists[0]}, allow_nan=False).encode()


def _arrow(about: dict[str, Any], items: Sequence[Item]) -> bytes:
    """A stream of one record batch, a row an image; arrays are fixed-shape tensors, null where the image failed."""
    import pyarrow as pa

    first = next(item for item in items if not item.failed)
    columns, fields = [], []
    for name, like in first.arrays.items():
        values = [None if item.failed else item.arrays[name] for item in items]
        storage = _fixed_lists(values, like)
        kind = pa.fixed_shape_tensor(storage.type.value_type, like.shape)
        columns.append(pa.ExtensionArray.from_storage(kind, storage))
        fields.append(pa.field(name, kind))
    schema = pa.schema(fields, metadata={ABOUT: json.dumps(about)})
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
    return sink.getvalue()


def _fixed_lists(values: Sequence[np.ndarray | None], like: np.ndarray) -> Any:
    import pyarrow as pa

    flat = np.concatenate([np.zeros(like.size, like.dtype) if v is None else v.ravel() for v in values])
    missing = pa.array([v is None for v in values])
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), like.size, mask=missing)
