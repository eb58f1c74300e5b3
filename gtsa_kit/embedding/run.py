"""Embedding of images into a dataset folder, in a job that can be interrupted at any time and resumed."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from gtsa_kit.data.decode import use_fast_decoder
from gtsa_kit.data.entries import Entry, Source
from gtsa_kit.embedding.extract import extract_features
from gtsa_kit.embedding.folder import check_out
from gtsa_kit.embedding.job import EmbeddingJob, plan_job
from gtsa_kit.embedding.locations import absolute_location
from gtsa_kit.embedding.moved import sample_rows
from gtsa_kit.embedding.options import EmbedOptions
from gtsa_kit.embedding.progress import JobProgress, JobSummary, UnreadableFileError
from gtsa_kit.embedding.ray_engine import ExtractTask, run_on_ray
from gtsa_kit.embedding.resume import create_or_resume, open_inputs
from gtsa_kit.embedding.rows import FailedImage, FeatureRow
from gtsa_kit.embedding.shards import ShardFill
from gtsa_kit.embedding.store import DatasetWriter
from gtsa_kit.export import Runner, load
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
    opened = open_inputs(where, out, "gtsa embed NEW_PLACE")
    job = plan_job(where, path, options, runner or load(path, **options.load.arguments()))
    channels = not job.preprocessor.preprocessing.is_rgb
    out.mkdir(parents=True, exist_ok=True)
    with folder_lock(out):
        inputs = create_or_resume(
            out,
            opened,
            where,
            lambda inputs: job.record(inputs, out),
            lambda: sample_rows(out),
            channels,
            options.frames,
        )
        first, last = part_range(inputs.count, options.part)
        with closing(DatasetWriter(out, job.dataset_spec, first)) as writer:
            begin = writer.journal.next_index
            if writer.journal.complete:
                return JobSummary(out, writer.rows, writer.errors, last - first, 0)
            use_fast_decoder(last - begin)
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
        model = job.model.absolute()
        task = ExtractTask(job.source, model, job.options.load, job.preprocessor, job.plan, job.limits, on_gpu)
        return run_on_ray(entries, task, job.options.workers)
    return extract_features(entries, source, job.runner, job.preprocessor, job.plan, ShardFill(job.limits).add)


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
