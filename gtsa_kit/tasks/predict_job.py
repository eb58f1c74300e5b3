"""Predictions for a folder of images, in a job that can be interrupted at any time and resumed."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from gtsa_kit.data.entries import Entry, Source
from gtsa_kit.data.sources import open_source
from gtsa_kit.embedding.folder import INPUT_INDEX, JOB, check_out
from gtsa_kit.embedding.input_index import InputIndex, describe_changes, open_input_index, write_input_index
from gtsa_kit.embedding.locations import absolute_location, record_location
from gtsa_kit.embedding.progress import JobProgress, JobSummary, UnreadableFileError
from gtsa_kit.embedding.rows import FailedImage
from gtsa_kit.embedding.run import check_unchanged
from gtsa_kit.files import write_json, write_text
from gtsa_kit.folder_lock import folder_lock
from gtsa_kit.tasks.predict_images import CHUNK, PredictPlan, load_entry, predict_items, predict_tiled, read_pixels
from gtsa_kit.tasks.predict_plan import PredictOptions, job_record, plan_prediction
from gtsa_kit.tasks.predict_rows import ResultFiles, describe_labels, table_header
from gtsa_kit.tasks.predict_store import LABELS, PredictedRow, PredictionWriter
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
    opened = open_source(where)
    predictor = predictor or open_predictor(path, options.load)
    plan = plan_prediction(predictor, options)
    out.mkdir(parents=True, exist_ok=True)
    with folder_lock(out):
        inputs = _create_or_resume(out, opened, where, path, lambda x: job_record(predictor, plan, options, x))
        write_text(
            out / LABELS,
            json.dumps(describe_labels(predictor.task, predictor.labels), indent=2, ensure_ascii=False) + "\n",
        )
        header = table_header(predictor.task, predictor.labels)
        with closing(PredictionWriter(out, header, options.rle)) as writer:
            begin, total = writer.journal.next_index, inputs.count
            if writer.journal.complete:
                return JobSummary(out, writer.rows, writer.errors, total, 0)
            on_progress(JobProgress(begin, total, writer.errors))
            finish = ResultFiles(
                out, opened, predictor.labels, inputs.repeated_names(), options.overlay, options.rle, options.max_pixels
            )
            items = enumerate(inputs.read(begin, total), start=begin)
            for done, result in enumerate(_results(items, opened, predictor, plan, finish), start=begin + 1):
                writer.add(result)
                on_progress(JobProgress(done, total, writer.errors))
                if options.fail_on_unreadable and isinstance(result, FailedImage):
                    raise UnreadableFileError(result.path, result.reason)
                if plan.tiling or done % CHUNK == 0:
                    writer.commit()
            writer.commit(complete=True)
        return JobSummary(out, writer.rows, writer.errors, total, total - begin)


def _results(
    items: Iterator[tuple[int, Entry]], source: Source, predictor: Predictor, plan: PredictPlan, finish: ResultFiles
) -> Iterator[PredictedRow | FailedImage]:
    if plan.tiling is not None:
        return predict_tiled(items, read_pixels(source, plan), predictor, plan, finish)
    return predict_items(items, load_entry(source, plan), predictor, plan, finish)


def _create_or_resume(
    out: Path, source: Source, where: str, model: Path, record: Callable[[InputIndex], dict[str, Any]]
) -> InputIndex:
    """Write the input index and job.json of a new job, or compare them with those of the job to resume.

    Raises:
        ValueError: The model, an option or an image has changed.
    """
    if not (out / JOB).exists():
        inputs = write_input_index(source, out / INPUT_INDEX)
        locations = {"source": record_location(where, out), "model_path": record_location(str(model), out)}
        write_json(out / JOB, record(inputs) | locations)
        return inputs
    now = write_input_index(source, out / ".input_index.new.sqlite")
    try:
        old = json.loads((out / JOB).read_text(encoding="utf-8"))
        check_unchanged(old, json.loads(json.dumps(record(now))), out)
        if old["inputs"]["sha256"] != now.digest:
            changes = describe_changes(out / INPUT_INDEX, now.path)
            raise ValueError(
                f"the images of {where} have changed since {out} was started: {changes}; choose another folder"
            )
    finally:
        now.path.unlink(missing_ok=True)
    return open_input_index(out / INPUT_INDEX)
