"""Progress of an evaluation, and what it had to leave out."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from gtsa_kit.cli.support.common import require
from gtsa_kit.cli.support.progress import Steps, make_console
from gtsa_kit.data.image_files import find_images
from gtsa_kit.evaluation.models import Model, open_models
from gtsa_kit.evaluation.scenes import spread
from gtsa_kit.evaluation.support.report import Report
from gtsa_kit.progress import ProgressCallback


@contextmanager
def progress_bar() -> Iterator[ProgressCallback]:
    """A bar on standard error while the block runs, one kind of work after the other."""
    with Steps(make_console()) as steps:

        def tell(what: str, done: int, total: int) -> None:
            if what != steps.stage:
                steps.begin(what, total, unit="")
            steps.update(done, f"{steps.rate:.1f} a second")

        yield tell


def warn(report: Report) -> None:
    """Say how many files an evaluation went without, and whether models saw inputs of different sizes."""
    skipped = report.settings["skipped"]
    if skipped:
        first = skipped[0]
        make_console().print(
            f"{len(skipped)} files left out, first {first['path']}: {first['reason']}; the report lists them",
            markup=False,
            soft_wrap=True,
        )
    inputs = {str(row.get("input") or row.get("inputs")): row["model"] for row in report.rows}
    if len(inputs) > 1:
        seen = ", ".join(f"{model} {size}" for size, model in inputs.items())
        make_console().print(f"the models took different (height, width): {seen}", markup=False, soft_wrap=True)


def measured(
    images: Path,
    count: int,
    models: list[Path] | None,
    random: list[str] | None,
    device: str,
    work: Callable[[Sequence[Model], Sequence[Path], ProgressCallback], Report],
) -> Report:
    """Open what the command line names, and let `work` report on these models and some of the images."""
    paths = spread(find_images(require(images)).paths, count)
    opened = open_models(models or [], random or [], device=device)
    with progress_bar() as tell:
        return work(opened, paths, tell)
