"""Facts about a file, read without a runtime: artifacts and runs of gtsa-kit, and ONNX files of any tool."""

import json
import math
import re
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gtsa_kit.export.folder_report import FolderReport, read_folder_report
from gtsa_kit.export.formats.content import ArtifactManifest, open_manifest, without_report
from gtsa_kit.export.formats.onnx_file import metadata_value, read_model
from gtsa_kit.export.formats.onnx_graph import OnnxGraphInfo, read_graph_info
from gtsa_kit.export.manifest import METADATA_KEY, Manifest, manifest_path, parse_manifest
from gtsa_kit.export.open_options import ImportOptions
from gtsa_kit.export.runtime.engine_header import EngineHeader, read_header
from gtsa_kit.export.source_facts import check_no_import_options, takes_import_options
from gtsa_kit.export.spec import SUFFIX
from gtsa_kit.files import sha256_of
from gtsa_kit.models.architecture import Architecture
from gtsa_kit.models.checkpoint_import.shard_index import sha256_of_weights
from gtsa_kit.models.run_folder import ENCODER, EXPORT_FILE, MODEL, find_run_weights, is_run, is_task_run

if TYPE_CHECKING:
    import onnx

WEIGHTS: Final = "encoder.safetensors"
FILES_HINT: Final = "name an exported file, a run folder, weights, or any .onnx"
DAMAGE_HINT: Final = "export it or copy it again"
DTYPES: Final = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Names of dtypes by those of safetensors."""


@dataclass(frozen=True)
class FileInfo:
    """Facts about a file; those that do not apply are None or empty."""

    path: Path
    kind: str
    """Kind of file, for display."""
    size: int
    """Size in bytes, with the files that belong to it."""
    manifest: Manifest | None = None
    report_problem: str = ""
    """Reason why the manifest has no parity report though the file came with one; "" if there is none."""
    graph: OnnxGraphInfo | None = None
    """Facts about the graph of an ONNX file."""
    header: EngineHeader | None = None
    """Header of a TensorRT engine."""
    encoder: Mapping[str, Any] = field(default_factory=dict)
    """Content of a run's encoder.json, with the `sha256` and the `parameters` of its weights."""
    folder: FolderReport | None = None
    """Report of a folder for another framework or for Triton, without a parity report that is not of its files."""
    note: str = ""
    """Summary of weights of another tool; for a run, which checkpoint they come from, or whether one is newer; a remark
    about a manifest that was not used."""


def inspect_file(path: Path, import_options: ImportOptions | None = None) -> FileInfo:
    """Read the facts about a file, a run folder, or weights of another tool.

    Args:
        path: File or folder.
        import_options: Facts that weights of another tool do not contain.

    Raises:
        ValueError: The path does not exist, or the file is empty, truncated or of an unknown kind, or states a fact of
            the import options itself.
    """
    if not path.exists():
        raise ValueError(f"{path} does not exist; {FILES_HINT}")
    if not path.is_dir() and path.stat().st_size == 0:
        raise ValueError(f"{path} is empty; {DAMAGE_HINT}")
    given = import_options or ImportOptions()
    if (path / EXPORT_FILE).is_file():
        return _inspect_exported_folder(path)
    if is_task_run(path):
        check_no_import_options(path, given)
        return _inspect_weights(path / MODEL if path.is_dir() else path, path, "fine-tuned model of gtsa-kit")
    if takes_import_options(path):
        return _inspect_opened(path, given)
    if is_run(path):
        return _inspect_run(path, given)
    check_no_import_options(path, given)
    if path.suffix == ".safetensors":
        return _inspect_weights(path, path, "gtsa-kit weights")
    if path.suffix == SUFFIX["onnx"]:
        return _inspect_onnx(path)
    if path.suffix == SUFFIX["trt"]:
        return _inspect_engine(path)
    opened = open_manifest(path)
    manifest = opened.manifest
    files = [path]
    if path.suffix == SUFFIX["openvino"]:
        files.append(_openvino_weights(path))
    elif path.suffix in (SUFFIX["torchscript"], SUFFIX["pt2"]) and not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not a complete {manifest.format} file; {DAMAGE_HINT}")
    size = sum(file.stat().st_size for file in files)
    return FileInfo(path, f"gtsa-kit {manifest.format}", size, manifest, opened.problem)


def _inspect_run(folder: Path, given: ImportOptions) -> FileInfo:
    file, branch, note = find_run_weights(folder, given.branch)
    if branch is not None:
        return _inspect_opened(folder, given)
    check_no_import_options(folder, given.stated_by_runs)
    info = replace(_inspect_weights(file, folder, "gtsa-kit run"), note=note)
    own = Architecture.from_dict(info.encoder["architecture"]).with_embedding(given.embedding)
    return replace(info, encoder={**info.encoder, "architecture": own.to_dict()})


def _inspect_exported_folder(folder: Path) -> FileInfo:
    """Inspect a folder for another framework or a model of Triton."""
    report = read_folder_report(folder)
    problem = report.problem(folder)
    size = sum((folder / name).stat().st_size for name in report.files if (folder / name).is_file())
    valid = report.model_copy(update={"parity": None}) if problem else report
    return FileInfo(folder, f"{report.format} folder of gtsa-kit", size, report_problem=problem, folder=valid)


def _inspect_opened(path: Path, given: ImportOptions) -> FileInfo:
    """Inspect weights of another tool or a checkpoint of a run: what they hold is known once they fit an encoder."""
    from gtsa_kit.export.source import open_imported
    from gtsa_kit.models.weights import describe_encoder

    imported = open_imported(path, given)
    encoder = describe_encoder(imported.encoder.architecture, imported.encoder.preprocessing)
    count = sum(tensor.numel() for tensor in imported.encoder.vit.state_dict().values())
    encoder |= {"sha256": sha256_of_weights(imported.file), "parameters": {"float32": count}}
    own = imported.origin == "gtsa-kit"
    if not own:
        del encoder["gtsa_kit"]
    finished = (path / ENCODER).exists() or not is_run(path)
    kind = "checkpoint of gtsa-kit" if finished else "unfinished run of gtsa-kit"
    kind = kind if own else f"weights of another tool ({imported.origin})"
    note = imported.run_note if own else imported.note
    return FileInfo(path, kind, imported.file.stat().st_size, encoder=encoder, note=note)


def _inspect_weights(path: Path, requested: Path, kind: str) -> FileInfo:
    """Inspect the weights of a run: dtypes and shapes are in the file, the rest in the encoder.json beside it."""
    import safetensors

    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            tensors = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(f"{path} is not a complete safetensors file ({error}); {DAMAGE_HINT}") from error
    parameters: Counter[str] = Counter()
    for tensor in tensors:
        parameters[DTYPES.get(tensor.get_dtype(), tensor.get_dtype())] += math.prod(tensor.get_shape())
    encoder = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    encoder |= {"sha256": sha256_of(path), "parameters": dict(parameters)}
    return FileInfo(requested, kind, path.stat().st_size, encoder=encoder)


def _inspect_engine(path: Path) -> FileInfo:
    """Inspect an engine: its header and, if gtsa-kit wrote it, the manifest beside it."""
    header = read_header(path)
    if not manifest_path(path).exists():
        return FileInfo(path, "TensorRT engine without a manifest", path.stat().st_size, header=header)
    opened = open_manifest(path)
    return FileInfo(path, "gtsa-kit trt", path.stat().st_size, opened.manifest, opened.problem, header=header)


def _openvino_weights(path: Path) -> Path:
    """Return the .bin file beside an .xml, and check both lengths.

    Raises:
        ValueError: One of the two files is truncated, or the .bin is missing.
    """
    weights = path.with_suffix(".bin")
    text = path.read_bytes()
    constants = re.findall(rb'offset="(\d+)"[^>]* size="(\d+)"', text)
    if not constants or not text.rstrip().endswith(b"</net>"):
        raise ValueError(f"{path} is not a complete OpenVINO file; {DAMAGE_HINT}")
    if not weights.exists():
        raise ValueError(f"{path} has no weights beside it ({weights.name}); copy both, or export it again")
    if weights.stat().st_size < max(int(offset) + int(size) for offset, size in constants):
        raise ValueError(f"{weights} is shorter than {path.name} says; {DAMAGE_HINT}")
    return weights


def _inspect_onnx(path: Path) -> FileInfo:
    model = read_model(path, with_weights=False)
    if not model.ir_version or not model.graph.node:
        raise ValueError(f"{path} is not an ONNX file: it holds no graph; {DAMAGE_HINT}")
    opened = _find_manifest(path, model)
    graph = read_graph_info(model, path.parent)
    external = [path.parent / name for name in graph.external]
    size = sum(file.stat().st_size for file in [path, *external] if file.exists())
    if opened is None:
        return FileInfo(path, "ONNX of another tool", size, graph=graph)
    return FileInfo(path, "gtsa-kit onnx", size, opened.manifest, opened.problem, graph, note=opened.note)


def _find_manifest(path: Path, model: "onnx.ModelProto") -> ArtifactManifest | None:
    """Return the manifest of an ONNX file of gtsa-kit, None for that of another tool."""
    embedded = metadata_value(model, METADATA_KEY)
    try:
        return open_manifest(path)
    except ValueError as error:
        if embedded is None:
            return None  # other tools write <file>.json too
        reason, _, _ = str(error).partition("; ")
        return ArtifactManifest(without_report(parse_manifest(embedded, str(path))), reason)
