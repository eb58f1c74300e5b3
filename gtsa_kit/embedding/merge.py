"""Parts that `--shard I/N` wrote, to the dataset that one run would have written."""

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from gtsa_kit.embedding.dataset import Dataset
from gtsa_kit.embedding.dense import DenseSpec
from gtsa_kit.embedding.job import check_out, locked
from gtsa_kit.embedding.rows import Failure, ShardRule
from gtsa_kit.embedding.store import JOB, Store, StoreSpec, read_journal
from gtsa_kit.files import write_json


def merge_parts(
    out: Path, parts: Sequence[Path], on_progress: Callable[[int, int], None] = lambda *_: None
) -> tuple[int, int]:
    """Write the whole into `out`, a row at a time, and return (rows, errors).

    Args:
        out: New or empty.
        parts: All N of them, in any order.
        on_progress: Told (rows done, rows in all).

    Raises:
        ValueError: A part is missing, unfinished, or of another job.
    """
    check_out(out, resume=False)
    found = sorted(((_record(part), part) for part in parts), key=lambda both: both[0]["part"])
    records, folders = [record for record, _ in found], [part for _, part in found]
    _check(records, folders)
    record = records[0] | {"part": [1, 1]}
    datasets = [Dataset(folder) for folder in folders]
    total, done = sum(len(dataset) for dataset in datasets), 0
    out.mkdir(parents=True, exist_ok=True)
    with locked(out), closing(Store(out, store_spec(record), 0)) as store:
        write_json(out / JOB, record)
        for dataset in datasets:
            for error in dataset.errors():
                store.add(Failure(0, error["path"], error["reason"]))
            for row in dataset:
                store.add(replace(row, place=done))
                done += 1
                on_progress(done, total)
        store.finish(record["listing"]["entries"])
        return store.rows, store.errors


def store_spec(record: dict[str, Any]) -> StoreSpec:
    """What the files are like, out of a job.json."""
    vectors, rule, dense = record["vectors"], ShardRule(**record["shards"]), record["dense"]
    maps = None
    if dense:
        grid = tuple(dense["grid"]) if dense["grid"] else None
        maps = DenseSpec(tuple(dense["outputs"]), dense["dim"], dense["dtype"], rule, grid)
    return StoreSpec(record["manifest"], vectors["dim"], vectors["dtype"], vectors["sha256"], rule, maps)


def _record(part: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads((part / JOB).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{part} is no part of an embedding: it has no {JOB}") from error
    journal = read_journal(part)
    if journal is None or not journal.complete:
        raise ValueError(f"{part} is not finished; run its command again with --resume")
    return record


def _check(records: Sequence[dict[str, Any]], folders: Sequence[Path]) -> None:
    """All the parts of one job, each once."""
    first, several = records[0], records[0]["part"][1]
    for record, folder in zip(records, folders, strict=True):
        ignored = {"part", "source", "gtsa_kit"}
        other = [name for name in first if name not in ignored and record.get(name) != first[name]]
        if other:
            raise ValueError(f"{folder} is of another job than {folders[0]}: {', '.join(other)} differ")
    numbers = [record["part"][0] for record in records]
    if any(record["part"][1] != several for record in records) or numbers != list(range(1, several + 1)):
        said = ", ".join(f"{a}/{b}" for a, b in (record["part"] for record in records))
        raise ValueError(f"these are parts {said}; give all from 1/{several} to {several}/{several}, each once")
