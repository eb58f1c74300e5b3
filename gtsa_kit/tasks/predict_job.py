"""Predictions for a folder of images, in a job that can be interrupted at any time and resumed."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from gtsa_kit.data.entries import Entry, Source
from gtsa_kit.embedding.folder import check_out
from gtsa_kit.embedding.input_index import InputIndex
from gtsa_kit.embedding.locations import absolute_location, record_location
from gtsa_kit.embedding.progress import JobProgress, JobSummary, UnreadableFileError
from gtsa_kit.embedding.ray_engine import run_on_ray
from gtsa_kit.embedding.resume import create_or_resume, open_inputs
from gtsa_kit.embedding.rows import FailedImage
from gtsa_kit.files import shell_word, write_text
from gtsa_kit.folder_lock import folder_lock
from gtsa_kit.tasks.image_ids import match_image_ids, read_image_ids
from gtsa_kit.tasks.predict_images import CHUNK
from gtsa_kit.tasks.predict_plan import PredictOptions, job_record, plan_prediction
from gtsa_kit.tasks.predict_rows import describe_labels, objects_file, table_header
from gtsa_kit.tasks.predict_store import LABELS, PredictedRow, PredictionWriter, sample_rows, write_files
from gtsa_kit.tasks.predict_task import PredictTask
from gtsa_kit.tasks.predictor import Predictor, open_predictor


def predict_folder(
    model: str | Path,
    source: str | Path,
    out: str | Path,
    options: PredictOptions | None = None,
    on_progress: Callable[[JobProgress], None] = lambda _: None,
    predictor: Predictor | None = None,
) -> JobSummary:
    """Write the predictions for images into the folder `out`.

    Args:
        model: A task model that `open_predictor` opens.
        source: A folder, glob, list, archive or URL; see `sources.open_source`.
        out: A new or empty folder; with `options.resume`, the folder of an earlier call.
        options: By default those of `PredictOptions()`.
        on_progress: Called after every image.
        predictor: The opened model, if the caller has it already.

    Raises:
        ValueError: The options are wrong, or an input has changed since the job began.
        UnreadableFileError: An image is unreadable, with `options.fail_on_unreadable`.
        OSError: The folder can't be written; everything that is committed stays, and the job can be resumed.
    """
    path, out, options = Path(model), Path(out), options or PredictOptions()
    check_out(out, options.resume)
    where = absolute_location(str(source))
    opened = open_inputs(where, out, f"gtsa predict {shell_word(model)} NEW_PLACE")
    predictor = predictor or open_predictor(path, options.load)
    plan = plan_prediction(predictor, options)
    out.mkdir(parents=True, exist_ok=True)
    with folder_lock(out):
        job = PredictTask(where, path.absolute(), options, plan, "cuda" in predictor.runner.provider.lower())
        record, channels = partial(_record, job, out, predictor), not predictor.runner.preprocessing.is_rgb
        inputs = create_or_resume(out, opened, where, record, partial(sample_rows, out), channels)
        described = describe_labels(predictor.task, predictor.labels)
        write_text(out / LABELS, json.dumps(described, indent=2, ensure_ascii=False) + "\n")
        header = table_header(predictor.task, predictor.labels)
        with closing(PredictionWriter(out, header, objects_file(predictor.task, options.rle))) as writer:
            begin, total = writer.journal.next_index, inputs.count
            if writer.journal.complete:
                return JobSummary(out, writer.rows, writer.errors, total, 0)
            on_progress(JobProgress(begin, total, writer.errors))
            items = enumerate(inputs.read(begin, total), start=begin)
            job = replace(job, repeated=inputs.repeated_names(), ids=_image_ids(job.options, inputs))
            for done, result in enumerate(_results(items, out, job, opened, predictor), start=begin + 1):
                writer.add(result)
                on_progress(JobProgress(done, total, writer.errors))
                if options.fail_on_unreadable and isinstance(result, FailedImage):
                    raise UnreadableFileError(result.path, result.reason)
                if plan.tiling or done % CHUNK == 0:
                    writer.commit()
            writer.commit(complete=True)
        return JobSummary(out, writer.rows, writer.errors, total, total - begin)


def _results(
    items: Iterator[tuple[int, Entry]], out: Path, job: PredictTask, source: Source, predictor: Predictor
) -> Iterator[PredictedRow | FailedImage]:
    """Write the files of the results, in this process or on Ray, and yield their rows in order."""
    if job.options.engine == "local":
        return job.results(items, source, predictor, partial(write_files, out))
    return (write_files(out, result) for result in run_on_ray(items, job, job.options.workers, CHUNK))


def _image_ids(options: PredictOptions, inputs: InputIndex) -> dict[str, int] | None:
    """Return the ids of the images by name; None if no file says them."""
    if options.ids is None:
        return None
    names = (entry.name for entry in inputs.read(0, inputs.count))
    return match_image_ids(names, read_image_ids(options.ids), str(options.ids))


def _record(job: PredictTask, out: Path, predictor: Predictor, inputs: InputIndex) -> dict[str, Any]:
    """Return the content of job.json."""
    record = job_record(predictor, job.plan, job.options, inputs, _image_ids(job.options, inputs))
    model = record["model"] | record_location(str(job.model), out)
    return record | {"source": record_location(job.source, out), "model": model}
