"""Dataset folders in the format of `gtsa embed`, written without it."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gtsa_kit.data.entries import file_stamp
from gtsa_kit.embedding.locations import record_location
from gtsa_kit.export.manifest import Manifest
from gtsa_kit.export.manifest_records import TensorSpec
from gtsa_kit.models.preprocessing import Preprocessing


def manifest(dim: int) -> Manifest:
    """Return the manifest of a model with vectors of length `dim`."""
    tensor = TensorSpec(name="images", dtype="float32", shape=(1, 3, 224, 224))
    model: dict[str, Any] = {"format": "onnx", "precision": "fp32", "target": {}, "source_sha256": "0" * 64}
    preprocessing = Preprocessing().to_dict()
    parts = {
        "architecture": {},
        "dim": dim,
        "preprocessing": preprocessing,
        "inputs": (tensor,),
        "outputs": (),
        "axes": {},
    }
    return Manifest(**model, **parts)


def write_dataset(
    folder: Path,
    vectors: np.ndarray,
    paths: list[str] | None = None,
    pixels: list[tuple[int, int]] | None = None,
    part: int = 1000,
    model_manifest: Manifest | None = None,
    journal: dict[str, Any] | None = None,
    source: Path | None = None,
    **job: Any,
) -> Path:
    """Write vectors (N, D), float16 or float32, with `part` rows in a file, and digests of the files in `source`."""
    (folder / "vectors").mkdir(parents=True)
    dim = vectors.shape[1]
    path_column = paths or [f"sub/p{i}.jpg" for i in range(len(vectors))]
    sides = np.array(pixels or [(40, 30)] * len(vectors), dtype=np.int32).reshape(-1, 2)
    value = pa.from_numpy_dtype(vectors.dtype)
    files = [source / path if source else Path() for path in path_column]
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "" for file in files]
    stamps = [file_stamp(file) if file.is_file() else "" for file in files]
    fields = [(name, pa.string()) for name in ("path", "sha256", "stamp")]
    fields += [("width", pa.int32()), ("height", pa.int32()), ("embedding", pa.list_(value, dim))]
    schema = pa.schema(
        [pa.field(name, kind, nullable=False) for name, kind in fields],
        metadata={"gtsa_kit": (model_manifest or manifest(dim)).model_dump_json()},
    )
    for number, start in enumerate(range(0, max(1, len(vectors)), part)):
        here = slice(start, start + part)
        flat = pa.array(np.ascontiguousarray(vectors[here]).ravel())
        columns = [pa.array(values[here], pa.string()) for values in (path_column, digests, stamps)]
        columns += [pa.array(sides[here, 0]), pa.array(sides[here, 1])]
        columns.append(pa.FixedSizeListArray.from_arrays(flat, dim))
        table = pa.Table.from_arrays(columns, schema=schema)
        pq.write_table(table, folder / "vectors" / f"part-{number:05d}.parquet", row_group_size=300)
    if source:
        job["source"] = record_location(str(source), folder)
    (folder / "job.json").write_text(json.dumps(job))
    if journal:
        (folder / "journal.json").write_text(json.dumps(journal))
    return folder


def unit64(vectors: np.ndarray) -> np.ndarray:
    """Return the vectors divided by their norms, in float64; NaN for rows without a direction."""
    wide = vectors.astype(np.float64)
    with np.errstate(all="ignore"):
        return wide / np.linalg.norm(wide, axis=1, keepdims=True)
