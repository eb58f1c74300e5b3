"""Reading and writing ONNX files, and the manifest inside them.

The onnx package is imported when a file is opened: reading other artifacts needs none of it.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from gtsa_kit.export.formats.onnx_graph import external_files
from gtsa_kit.export.manifest import METADATA_KEY, Manifest
from gtsa_kit.files import atomic_write

if TYPE_CHECKING:
    from onnx import ModelProto


def read_model(path: Path, with_weights: bool = True) -> "ModelProto":
    """Parse an ONNX file.

    Args:
        path: The file.
        with_weights: Whether to load weights that lie in files beside it.

    Raises:
        ValueError: The file can't be read or parsed, or weights that lie beside it are missing.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path, load_external_data=False)
        if with_weights:
            _check_weight_files(path, model)
            onnx.load_external_data_for_model(model, str(path.parent))
        return model
    except (OSError, DecodeError, onnx.checker.ValidationError) as error:
        raise ValueError(
            f"{path} is not a readable ONNX file, or only a part of one ({error}); export it or copy it again"
        ) from error


def _check_weight_files(path: Path, model: "ModelProto") -> None:
    missing = [name for name in external_files(model) if not (path.parent / name).is_file()]
    if missing:
        raise ValueError(f"the weights of {path} are in {missing[0]}, which is missing; copy it beside the file")


def write_model(model: "ModelProto", path: Path) -> None:
    """Write a model with its weights into one file, atomically."""
    with atomic_write(path) as file:
        file.write(model.SerializeToString())


def metadata_value(model: "ModelProto", key: str) -> str | None:
    """Return the entry of a model's `metadata_props` under a key, or None."""
    return next((entry.value for entry in model.metadata_props if entry.key == key), None)


def embed_manifest(path: Path, manifest: Manifest) -> None:
    """Store a manifest in the file's `metadata_props`, in place of an earlier one; the graph does not change.

    The location of the source weights is omitted: it names folders of this machine, and the file is handed on.
    """
    source = manifest.source.model_copy(update={"path": "", "relative": ""})
    model = read_model(path)
    others = [entry for entry in model.metadata_props if entry.key != METADATA_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(others)
    model.metadata_props.add(key=METADATA_KEY, value=manifest.model_copy(update={"source": source}).model_dump_json())
    write_model(model, path)
