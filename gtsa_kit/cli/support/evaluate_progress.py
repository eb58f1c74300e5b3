"""Progress of an evaluation, and what it had to leave out."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from gtsa_kit.cli.support.common import require
from gtsa_kit.cli.support.progress import Steps, console
from gtsa_kit.data.image_files import find_images
from gtsa_kit.evaluation.models import Model, open_models
from gtsa_kit.evaluation.scenes import spread
from gtsa_kit.evaluation.support.report import Report
from gtsa_kit.progress import Tell


@contextmanager
def telling() -> Iterator[Tell]:
    """A bar on standard error while the block runs, one kind of work after the other."""
    with Steps(console()) as steps:

        def tell(what: str, done: int, total: int) -> None:
            if what != steps.what:
                steps.begin(what, total, unit="")
            steps.update(done, f"{steps.rate:.1f} a second")

        yield tell


def warn(report: Report) -> None:
    """Say how many files an evaluation went without, and whether models saw inputs of different sizes."""
    left_out = report.settings["left_out"]
    if left_out:
        first = left_out[0]
        console().print(
            f"{len(left_out)} files left out, first {first['path']}: {first['reason']}; the report lists them",
            markup=False,
            soft_wrap=True,
        )
    inputs = {str(row.get("input") or row.get("inputs")): row["model"] for row in report.rows}
    if len(inputs) > 1:
        seen = ", ".join(f"{model} {size}" for size, model in inputs.items())
        console().print(f"the models took different (height, width): {seen}", markup=False, soft_wrap=True)


def measured(
    images: Path,
    count: int,
    models: list[Path] | None,
    random: list[str] | None,
    device: str,
    work: Callable[[Sequence[Model], Sequence[Path], Tell], Report],
) -> Report:
    """Open what the command line names, and let `work` report on these models and some of the photographs."""
    paths = spread(find_images(require(images)).paths, count)
    opened = open_models(models or [], random or [], device=device)
    with telling() as tell:
        return work(opened, paths, tell)
