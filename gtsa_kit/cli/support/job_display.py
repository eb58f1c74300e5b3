"""Display of `gtsa embed` and `gtsa predict`: a progress bar, the result, and exit codes."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from gtsa_kit.cli.support.common import fail
from gtsa_kit.cli.support.progress import Steps
from gtsa_kit.embedding.progress import JobProgress, JobSummary


def run_job(
    job: Callable[[Callable[[JobProgress], None]], JobSummary],
    out: Path,
    stage: str,
    what: str,
    as_json: bool,
    console: Console,
    hints: Callable[[Path], list[str]] = lambda _: [],
) -> None:
    """Run a job with a progress bar; exit with 130 after Ctrl-C, and with 1 if no image could be used.

    Args:
        job: Function from the progress callback to the result.
        out: Folder of the job.
        stage: Name of what is done, for the bar.
        what: What the result holds, such as "rows in features/vectors".
        as_json: Whether to print the result as JSON too.
        console: Console for everything else.
        hints: Function from errors.jsonl to what can be done about the images that could not be used.
    """
    with Steps(console) as steps:

        def on_progress(progress: JobProgress) -> None:
            if steps.stage != stage:
                steps.begin(stage, progress.total, progress.done, unit="images")
            steps.update(progress.done, f"{progress.errors} errors" if progress.errors else "")

        try:
            summary = job(on_progress)
        except KeyboardInterrupt:  # typer would end without a message
            fail(f"interrupted: {out} keeps all that is committed; continue with --resume", 130)
        rate = steps.rate
    if as_json:
        print(json.dumps({**asdict(summary), "out": str(summary.out), "images_per_second": rate}, indent=2))
    errors, before = out / "errors.jsonl", summary.total - summary.processed
    console.print(
        f"{summary.rows} {what}"
        + (f", {summary.errors} files could not be used: {errors}" if summary.errors else "")
        + (f"; {before} of {summary.total} were committed before" if before else "")
        + (f"; {rate:.1f} images/s" if summary.processed else ""),
        soft_wrap=True,
    )
    for hint in hints(errors) if summary.errors else ():
        console.print(hint, soft_wrap=True, markup=False)
    if not summary.rows and summary.errors:
        fail(f"none of the {summary.total} files could be used; the reasons are in {errors}", 1)
