"""What a file says of itself, without a runtime: artifacts of ours, runs, and ONNX files of anybody's."""

import json
import math
import re
import zipfile
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gtsa_kit.export.formats.onnx_graph import OnnxGraphInfo, read_graph_info
from gtsa_kit.export.manifest import METADATA_KEY, Manifest, manifest_path, parse_manifest, read_manifest
from gtsa_kit.export.runtime.engine_header import EngineHeader, read_header
from gtsa_kit.export.spec import SUFFIX
from gtsa_kit.files import sha256_of

if TYPE_CHECKING:
    import onnx

WEIGHTS = "encoder.safetensors"
HINT = "name an exported file, a run folder, its encoder.safetensors, or any .onnx"
AGAIN = "export it or copy it again"
TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class FileInfo:
    """What is known of a file; what does not apply is None or empty."""

    path: Path
    kind: str
    size: int
    """Bytes, with the files that belong to it."""
    manifest: Manifest | None = None
    graph: OnnxGraphInfo | None = None
    header: EngineHeader | None = None
    """Of a TensorRT engine."""
    encoder: Mapping[str, Any] = field(default_factory=dict)
    """encoder.json of a run, and the sha256 and the `parameters` of its weights."""


def inspect_file(path: Path) -> FileInfo:
    """Look at a file.

    Raises:
        ValueError: Nothing there, empty, truncated, or not something that is known here.
    """
    if not path.exists():
        raise ValueError(f"{path} does not exist; {HINT}")
    if path.is_dir():
        return _run(path)
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty; {AGAIN}")
    if path.suffix == ".safetensors":
        return _weights(path, path, "gtsa-kit weights")
    if path.suffix == SUFFIX["onnx"]:
        return _onnx(path)
    if path.suffix == SUFFIX["trt"]:
        return _engine(path)
    if path.suffix not in SUFFIX.values():
        raise ValueError(f"{path} is not a file that is known here; {HINT}")
    manifest = read_manifest(path)
    files = [path]
    if path.suffix == SUFFIX["openvino"]:
        files.append(_openvino_weights(path))
    elif path.suffix in (SUFFIX["torchscript"], SUFFIX["pt2"]) and not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not a whole {manifest.format} file; {AGAIN}")
    return FileInfo(path, f"gtsa-kit {manifest.format}", sum(file.stat().st_size for file in files), manifest)


def _run(folder: Path) -> FileInfo:
    weights = folder / WEIGHTS
    if weights.exists():
        return _weights(weights, folder, "gtsa-kit run")
    if (folder / "checkpoints").exists():
        raise ValueError(f"{folder} is a run that has not ended yet; finish it with gtsa train --resume --out {folder}")
    raise ValueError(f"{folder} is not a run folder: it holds no {WEIGHTS}; {HINT}")


def _weights(path: Path, named: Path, kind: str) -> FileInfo:
    """Weights of a run: the file says names and shapes, encoder.json beside it all the rest."""
    import safetensors

    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            parts = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}); {AGAIN}") from error
    parameters: Counter[str] = Counter()
    for part in parts:
        parameters[TYPES.get(part.get_dtype(), part.get_dtype())] += math.prod(part.get_shape())
    about = path.with_suffix(".json")
    try:
        said = json.loads(about.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} has no {about.name} that says what it is; gtsa export opens weights of others"
        ) from error
    encoder = said | {"sha256": sha256_of(path), "parameters": dict(parameters)}
    return FileInfo(named, kind, path.stat().st_size, encoder=encoder)


def _engine(path: Path) -> FileInfo:
    """An engine of ours has a manifest beside it; of any, the head says what runs it."""
    header = read_header(path)
    manifest = read_manifest(path) if manifest_path(path).exists() else None
    kind = "gtsa-kit trt" if manifest else "TensorRT engine without a manifest"
    return FileInfo(path, kind, path.stat().st_size, manifest, header=header)


def _openvino_weights(path: Path) -> Path:
    """The .bin beside an .xml, which says how long it is."""
    weights = path.with_suffix(".bin")
    text = path.read_bytes()
    places = re.findall(rb'offset="(\d+)"[^>]* size="(\d+)"', text)
    if not places or not text.rstrip().endswith(b"</net>"):
        raise ValueError(f"{path} is not a whole OpenVINO file; {AGAIN}")
    if not weights.exists():
        raise ValueError(f"{path} has no weights beside it ({weights.name}); copy both, or export it again")
    if weights.stat().st_size < max(int(offset) + int(size) for offset, size in places):
        raise ValueError(f"{weights} is shorter than {path.name} says; {AGAIN}")
    return weights


def _onnx(path: Path) -> FileInfo:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path, load_external_data=False)
    except (OSError, DecodeError) as error:
        raise ValueError(f"{path} is not a readable ONNX file, or only a part of one; {AGAIN}") from error
    if not model.ir_version or not model.graph.node:
        raise ValueError(f"{path} is not an ONNX file: it holds no graph; {AGAIN}")
    manifest = _manifest_in(path, model)
    graph = read_graph_info(model, path.parent)
    beside = [path.parent / name for name in graph.external]
    size = sum(file.stat().st_size for file in [path, *beside] if file.exists())
    return FileInfo(path, "gtsa-kit onnx" if manifest else "ONNX of another tool", size, manifest, graph)


def _manifest_in(path: Path, model: "onnx.ModelProto") -> Manifest | None:
    """Of a file of ours: the one beside it, as `load` reads it, else the one inside it."""
    inside = next((entry.value for entry in model.metadata_props if entry.key == METADATA_KEY), None)
    if manifest_path(path).exists() and inside is not None:
        return read_manifest(path)
    if inside is not None:
        return parse_manifest(inside, str(path))
    with suppress(ValueError):  # other tools write <file>.json too
        return read_manifest(path)
    return None
