"""Task-score gate of `gtsa verify --score`. The command imports this when it runs."""

from pathlib import Path

from rich.console import Console

from gtsa_kit.cli.support.score_steps import fail_if_lower, open_score_gate
from gtsa_kit.cli.support.task_options import ScoreOptions
from gtsa_kit.cli.support.verify_steps import ReferenceOptions, open_reference_weights
from gtsa_kit.export.formats.content import open_manifest
from gtsa_kit.export.manifest import graph_path
from gtsa_kit.export.runtime.load import load, pick_device
from gtsa_kit.export.runtime.runner import Runner
from gtsa_kit.export.runtime.tensorrt_runner import EngineRunner
from gtsa_kit.export.runtime.tensorrt_variant import cannot_run


def score_again(
    file: Path, runner: Runner, reference: ReferenceOptions, scoring: ScoreOptions, console: Console
) -> None:
    """Score a file and its float32 model on labeled images; exit with 1 if the file loses more than it may."""
    gate = open_score_gate(open_reference_weights(file, runner.manifest, reference, console), scoring, console)
    assert gate is not None
    fail_if_lower(file, gate(runner))


def score_engine_again(
    file: Path, reference: ReferenceOptions, scoring: ScoreOptions, device: str, console: Console
) -> None:
    """Score an engine as `score_again` does; without a GPU for it, its graph.

    Raises:
        ValueError: It can't run here, and its graph is not beside it; or it has no task.
    """
    manifest, graph = open_manifest(file).manifest, graph_path(file)
    if manifest.task is None or manifest.engine is None:
        raise ValueError(f"{file} has no task to score; omit --score")
    reason = "--device cpu" if device == "cpu" else cannot_run(manifest.engine).removeprefix("not run: ")
    if not reason:
        score_again(file, EngineRunner(file, manifest, pick_device(device)), reference, scoring, console)
    elif graph.exists():
        note = f"{file} is not run ({reason}); its graph, {graph.name}, is scored in ONNX Runtime"
        console.print(note, soft_wrap=True)
        score_again(graph, load(graph, "cpu"), reference, scoring, console)
    else:
        raise ValueError(f"{file} can't be scored here ({reason}), and its graph is not beside it; score it on its GPU")
