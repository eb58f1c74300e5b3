"""Embedding of images into a dataset folder, in a job that can be interrupted at any time and resumed."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from gtsa_kit.data.entries import Entry, Source
from gtsa_kit.data.sources import open_source
from gtsa_kit.embedding.extract import extract_features
from gtsa_kit.embedding.folder import INPUT_INDEX, JOB, check_out
from gtsa_kit.embedding.input_index import (
    InputIndex,
    describe_changes,
    keep_stamps,
    open_input_index,
    write_input_index,
)
from gtsa_kit.embedding.job import EmbeddingJob, plan_job
from gtsa_kit.embedding.locations import absolute_location
from gtsa_kit.embedding.moved import check_moved
from gtsa_kit.embedding.options import EmbedOptions
from gtsa_kit.embedding.progress import JobProgress, JobSummary, UnreadableFileError
from gtsa_kit.embedding.ray_engine import RayTask, extract_on_ray
from gtsa_kit.embedding.rows import FailedImage, FeatureRow
from gtsa_kit.embedding.shards import ShardFill
from gtsa_kit.embedding.store import DatasetWriter
from gtsa_kit.export import Runner, load
from gtsa_kit.files import write_json
from gtsa_kit.folder_lock import folder_lock


def embed_folder(
    source: str | Path,
    model: str | Path,
    out: str | Path,
    options: EmbedOptions | None = None,
    on_progress: Callable[[JobProgress], None] = lambda _: None,
    runner: Runner | None = None,
) -> JobSummary:
    """Embed images into the dataset folder `out`.

    Args:
        source: A folder, glob, list, archive or URL; see `sources.open_source`.
        model: A model that `gtsa_kit.export.load` opens.
        out: A new or empty folder; with `options.resume`, the folder of an earlier call.
        options: By default those of `EmbedOptions()`.
        on_progress: Called after every image.
        runner: The opened model, if the caller has it already.

    Raises:
        ValueError: The options are wrong, or an input has changed since the job began.
        UnreadableFileError: An image is unreadable, with `options.fail_on_unreadable`.
        OSError: The folder can't be written; everything that is committed stays, and the job can be resumed.
    """
    path, out, options = Path(model), Path(out), options or EmbedOptions()
    check_out(out, options.resume)
    where = absolute_location(str(source))
    opened = _open(where, out)
    job = plan_job(where, path, options, runner or load(path, **options.load.arguments()))
    out.mkdir(parents=True, exist_ok=True)
    with folder_lock(out):
        inputs = create_or_resume(job, out, opened)
        first, last = part_range(inputs.count, options.part)
        with closing(DatasetWriter(out, job.dataset_spec, first)) as writer:
            begin = writer.journal.next_index
            if writer.journal.complete:
                return JobSummary(out, writer.rows, writer.errors, last - first, 0)
            on_progress(JobProgress(begin - first, last - first, writer.errors))
            for done, result in enumerate(extract(job, inputs.read(begin, last), opened), start=begin - first + 1):
                writer.add(result)
                on_progress(JobProgress(done, last - first, writer.errors))
                if options.fail_on_unreadable and isinstance(result, FailedImage):
                    raise UnreadableFileError(result.path, result.reason)
            writer.finish(last)
        return JobSummary(out, writer.rows, writer.errors, last - first, last - begin)


def extract(job: EmbeddingJob, entries: Iterator[Entry], source: Source) -> Iterator[FeatureRow | FailedImage]:
    """Extract features in this process or on Ray, in order; no batch spans two shards."""
    if job.options.engine == "ray":
        on_gpu = "cuda" in job.runner.provider.lower()
        task = RayTask(job.source, job.model, job.options.load, job.preprocessor, job.plan, job.limits, on_gpu)
        return extract_on_ray(entries, task, job.options.workers)
    return extract_features(entries, source, job.runner, job.preprocessor, job.plan, ShardFill(job.limits).add)


def _open(where: str, out: Path) -> Source:
    """Open the source; if a job in `out` can't, its images may have moved."""
    try:
        return open_source(where)
    except ValueError as error:
        if not (out / JOB).exists():
            raise
        hint = f"if the images moved, name their new place: gtsa embed NEW_PLACE --resume --out {out}"
        raise ValueError(f"{str(error).partition('; ')[0]}; {hint}") from error


def create_or_resume(job: EmbeddingJob, out: Path, source: Source) -> InputIndex:
    """Write the input index and job.json of a new job, or compare them with those of the job to resume.

    Images that moved keep the stamps that the job began with, so that rows do not depend on the move. `listing` in
    job.json is then the digest of the images with the stamps of their new place.

    Raises:
        ValueError: The model, an option or an input has changed.
    """
    record_file = out / JOB
    if not record_file.exists():
        inputs = write_input_index(source, out / INPUT_INDEX)
        write_json(record_file, job.record(inputs, out))
        return inputs
    inputs = write_input_index(source, out / ".input_index.new.sqlite")
    try:
        old = json.loads(record_file.read_text(encoding="utf-8"))
        new = json.loads(json.dumps(job.record(inputs, out)))
        check_unchanged(old, new, out)
        moved = inputs.digest != old.get("listing", old["inputs"]["sha256"])
        before = open_input_index(out / INPUT_INDEX)
        if moved and new["source"] == old["source"]:
            changes = describe_changes(before.path, inputs.path)
            raise ValueError(
                f"the images of {job.source} have changed since {out} was started: {changes}; "
                "embed them into another folder"
            )
        if moved:
            check_moved(before, inputs, out, source, job.source)
        keep_stamps(before.path, inputs.path)
        os.replace(inputs.path, out / INPUT_INDEX)
        listing = {"listing": inputs.digest} if moved else {}
        write_json(record_file, old | {"source": new["source"], "model": new["model"]} | listing)
    finally:
        inputs.path.unlink(missing_ok=True)
    return open_input_index(out / INPUT_INDEX)


def check_unchanged(old: dict[str, Any], new: dict[str, Any], out: Path) -> None:
    """Raise `ValueError` if the model or an option differs between two records of a job."""
    changed = [name for name in new if new[name] != old.get(name) and name not in ("source", "gtsa_kit", "inputs")]
    if "model" in changed and old["model"]["sha256"] == new["model"]["sha256"]:
        changed.remove("model")  # the same model under another path
    if changed:
        name = changed[0]
        values = f"{name}: {_shorten(old.get(name))} before, {_shorten(new[name])} now"
        raise ValueError(
            f"{out} was started with other settings ({', '.join(changed)} changed). {values}; "
            "use the settings of the first call, or choose another folder"
        )


def part_range(count: int, part: tuple[int, int]) -> tuple[int, int]:
    """Return the inputs [first, last) of the I-th of N parts.

    Args:
        count: Number of inputs of the whole job.
        part: (I, N), counted from 1.

    Raises:
        ValueError: I is not between 1 and N.
    """
    index, parts = part
    if not 1 <= index <= parts:
        raise ValueError(f"--shard I/N counts from 1/N to N/N, got {index}/{parts}")
    return count * (index - 1) // parts, count * index // parts


def _shorten(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) < 120 else text[:117] + "..."
