"""Digest of what an ONNX model computes: its graph and its weights, whatever the order and the metadata of the file."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

SKIPPED: Final = {
    "ModelProto": {
        *("ir_version", "producer_name", "producer_version", "domain", "model_version", "training_info"),
        *("doc_string", "metadata_props"),
    },
    "GraphProto": {"name", "doc_string", "value_info", "metadata_props"},
    "NodeProto": {"name", "doc_string", "metadata_props"},
    "FunctionProto": {"doc_string", "value_info", "metadata_props"},
    "ValueInfoProto": {"doc_string", "metadata_props"},
    "AttributeProto": {"doc_string"},
}
"""Fields by message that have no influence on results."""
UNORDERED: Final = {
    "ModelProto": {"opset_import", "functions"},
    "GraphProto": {"node", "initializer", "sparse_initializer", "quantization_annotation"},
    "NodeProto": {"attribute"},
    "FunctionProto": {"node", "opset_import", "attribute", "attribute_proto"},
}
"""Repeated fields by message whose order has no influence: nodes are connected by the names of their tensors."""


def model_digest(model: "ModelProto") -> str:
    """Return the SHA-256 of graph, weights, functions and opsets as hex digits.

    It does not change when a tool writes the same model in another order, moves weights into a file beside it, or
    changes names of nodes, descriptions and metadata.

    Args:
        model: Model with its external data loaded.
    """
    return _message_digest(model).hex()


def _message_digest(message: Any) -> bytes:
    kind = message.DESCRIPTOR.name
    if kind == "TensorProto":
        return _tensor_digest(message)
    return _join(part for field, value in message.ListFields() for part in _field_parts(kind, field, value))


def _field_parts(kind: str, field: Any, value: Any) -> Iterator[bytes]:
    if field.name in SKIPPED.get(kind, ()) or (field.name == "domain" and value in ("", "ai.onnx")):
        return
    single = isinstance(value, bool | int | float | str | bytes) or hasattr(value, "ListFields")
    parts = [_value(item) for item in ([value] if single else value)]
    yield field.name.encode()
    yield _join(sorted(parts) if field.name in UNORDERED.get(kind, ()) else parts)


def _value(value: Any) -> bytes:
    return _message_digest(value) if hasattr(value, "ListFields") else repr(value).encode()


def _tensor_digest(tensor: "TensorProto") -> bytes:
    """Return a digest of name, type, shape and values; the values may be stored in several fields of the message."""
    from onnx import TensorProto, numpy_helper

    strings = tensor.data_type == TensorProto.STRING
    values = _join(tensor.string_data) if strings else numpy_helper.to_array(tensor).tobytes()
    return _join([tensor.name.encode(), repr((tensor.data_type, list(tensor.dims))).encode(), values])


def _join(parts: Iterable[bytes]) -> bytes:
    """Return the SHA-256 of byte strings and their lengths."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()
