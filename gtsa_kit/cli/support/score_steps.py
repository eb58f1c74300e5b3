"""Task-score gate of `gtsa export` and `gtsa verify`: a file and the float32 model on the same labeled images."""

from pathlib import Path

from rich.console import Console

from gtsa_kit.cli.support.common import fail, require
from gtsa_kit.cli.support.parity_table import score_text
from gtsa_kit.cli.support.progress import Steps
from gtsa_kit.cli.support.task_options import ScoreOptions
from gtsa_kit.export import Runner
from gtsa_kit.export.manifest import Manifest
from gtsa_kit.export.manifest_records import TaskScoreRecord
from gtsa_kit.export.pipeline import record_task_score
from gtsa_kit.export.runtime.load import load
from gtsa_kit.export.source import Source
from gtsa_kit.export.spec import Range
from gtsa_kit.progress import ProgressCallback
from gtsa_kit.tasks.score import compare_scores, score
from gtsa_kit.tasks.score_gate import read_images_for, score_model


class ScoreGate:
    """Scores of files that were exported from one float32 model, which is scored once for the sizes that they take."""

    def __init__(self, source: Source, data: Path, max_drop: float, console: Console) -> None:
        """Read the labeled images.

        Raises:
            ValueError: The model is no fine-tuned one, or the images can't be read.
        """
        self.source, self.max_drop, self.console = source, max_drop, console
        with Steps(console) as steps:
            self.images = read_images_for(source, data, _on_progress(steps))
        self.own: dict[tuple[Range, Range], float] = {}
        """Score of the float32 model, by the heights and widths that it is given, those of the file."""

    def __call__(self, runner: Runner) -> TaskScoreRecord:
        """Score a file, and print both scores."""
        height, width = sizes = runner.manifest.range_of("height"), runner.manifest.range_of("width")
        with Steps(self.console) as steps:
            if sizes not in self.own:
                progress = _on_progress(steps, " the float32 model")
                self.own[sizes] = score_model(self.source, self.images, height, width, progress)
            value = score(runner, self.images, _on_progress(steps, " the file"))
        record = compare_scores(self.own[sizes], value, self.images, self.max_drop)
        self.console.print(f"task score {score_text(record)}", soft_wrap=True)
        return record


def open_score_gate(source: Source | None, options: ScoreOptions, console: Console) -> ScoreGate | None:
    """Return the gate that --score requests, or None.

    Raises:
        ValueError: The model is no fine-tuned one or its weights were not found, or the images can't be read.
    """
    if options.score is None:
        return None
    data = require(options.score)
    if source is None:
        raise ValueError(
            "the weights that the file was exported from, to score beside it, were not found; add --against"
        )
    return ScoreGate(source, data, options.max_drop, console)


def score_file(path: Path, manifest: Manifest, gate: ScoreGate | None) -> Manifest:
    """Score a file on the CPU, and write the result into its manifest; nothing happens without a gate."""
    return record_task_score(path, manifest, gate(load(path, "cpu"))) if gate else manifest


def fail_if_lower(path: Path, record: TaskScoreRecord | None) -> None:
    """Exit with 1 if a file lost more than it may."""
    if record and not record.passed:
        fail(score_failure(path, record), 1)


def score_failure(path: Path, record: TaskScoreRecord) -> str:
    """Return the reason why a file failed the gate, and what to do."""
    return (
        f"{path} loses {record.drop:.2f} points of {record.metric} on {record.data}, more than {record.max_drop:g}; "
        "choose a higher --precision, or keep layers with --keep-float"
    )


def _on_progress(steps: Steps, what: str = "") -> ProgressCallback:
    def on_progress(stage: str, done: int, total: int) -> None:
        if done == 1:
            steps.begin(stage + what, total)
        steps.update(done)

    return on_progress
