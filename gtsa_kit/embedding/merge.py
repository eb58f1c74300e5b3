"""Merging of the parts that `--shard I/N` wrote into the dataset that one run would have written."""

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from gtsa_kit.embedding.dataset import EmbeddingDataset
from gtsa_kit.embedding.folder import JOB, check_out, read_journal
from gtsa_kit.embedding.job import spec_from_record
from gtsa_kit.embedding.locations import known_locations, record_location
from gtsa_kit.embedding.rows import FailedImage
from gtsa_kit.embedding.store import DatasetWriter
from gtsa_kit.files import write_json
from gtsa_kit.folder_lock import folder_lock


def merge_parts(
    out: Path, parts: Sequence[Path], on_progress: Callable[[int, int], None] = lambda *_: None
) -> tuple[int, int]:
    """Copy all parts into `out`, one row at a time, and return the numbers of rows and errors.

    Args:
        out: A new or empty folder.
        parts: Dataset folders of all N parts, in any order.
        on_progress: Called with (rows done, total rows).

    Raises:
        ValueError: A part is missing, unfinished, or belongs to another job.
    """
    check_out(out, resume=False)
    pairs = sorted(((_read_record(part), part) for part in parts), key=lambda pair: pair[0]["part"])
    records, folders = [record for record, _ in pairs], [part for _, part in pairs]
    _check_parts(records, folders)
    record = records[0] | {"part": [1, 1]} | _relocate(records[0], folders[0], out)
    datasets = [EmbeddingDataset(folder) for folder in folders]
    total, done = sum(len(dataset) for dataset in datasets), 0
    out.mkdir(parents=True, exist_ok=True)
    with folder_lock(out), closing(DatasetWriter(out, spec_from_record(record), 0)) as writer:
        write_json(out / JOB, record)
        for dataset in datasets:
            for error in dataset.errors():
                writer.add(FailedImage(error["path"], error["reason"]))
            for row in dataset:
                writer.add(row)
                done += 1
                on_progress(done, total)
        writer.finish(record["inputs"]["entries"])
        return writer.rows, writer.errors


def _read_record(part: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads((part / JOB).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{part} is not a part of an embedding: it has no {JOB}") from error
    journal = read_journal(part)
    if journal is None or not journal.complete:
        raise ValueError(f"{part} is not finished; run its command again with --resume")
    return record


def _relocate(record: dict[str, Any], part: Path, out: Path) -> dict[str, Any]:
    """Return the locations of a part's source and model, relative to another folder."""
    moved = {}
    for name in ("source", "model"):
        locations = known_locations(record[name], part)
        where = next((path for path in locations if Path(path).exists()), locations[0])
        moved[name] = record[name] | record_location(where, out)
    return moved


def _check_parts(records: Sequence[dict[str, Any]], folders: Sequence[Path]) -> None:
    """Raise `ValueError` unless the parts are all parts of one job, each once."""
    first, count = records[0], records[0]["part"][1]
    for record, folder in zip(records, folders, strict=True):
        ignored = {"part", "source", "gtsa_kit", "model", "listing"}
        different = [name for name in first if name not in ignored and record.get(name) != first[name]]
        different += ["model"] if record["model"]["sha256"] != first["model"]["sha256"] else []
        if different:
            raise ValueError(f"{folder} belongs to another job than {folders[0]}: {', '.join(different)} differ")
    indices = [record["part"][0] for record in records]
    if any(record["part"][1] != count for record in records) or indices != list(range(1, count + 1)):
        given = ", ".join(f"{a}/{b}" for a, b in (record["part"] for record in records))
        raise ValueError(f"these are parts {given}; give all from 1/{count} to {count}/{count}, each once")
