"""Tables and progress of `gtsa export --format trt`."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from gtsa_kit.cli.support.common import fail
from gtsa_kit.cli.support.export_steps import megabytes
from gtsa_kit.cli.support.parity_table import failure_message, parity_table
from gtsa_kit.cli.support.progress import Steps
from gtsa_kit.export.manifest import Manifest
from gtsa_kit.export.runtime.profile import InputRanges
from gtsa_kit.export.tensorrt.build import OnStep
from gtsa_kit.export.tensorrt.engine import log_path
from gtsa_kit.export.tensorrt.lint import LintReport
from gtsa_kit.export.tensorrt.network import EngineBuildError
from gtsa_kit.export.tensorrt.problems import ParseProblem


def build_progress(steps: Steps) -> OnStep:
    """Return a callback that displays the progress of a build."""

    def on_step(phase: str, done: int, total: int) -> None:
        if (steps.stage, steps.total) != ("building", total):
            steps.begin("building", total)
        steps.update(done, phase)

    return on_step


def problem_table(problems: list[ParseProblem]) -> Table:
    """Build a table of all nodes that TensorRT rejects."""
    table = Table(title="rejected by TensorRT", title_justify="left", box=None)
    for name in ("node", "operator", "layer", "reason"):
        table.add_column(name, overflow="fold")
    for problem in problems:
        node = f"{problem.node} in {problem.inside}" if problem.inside else problem.node
        table.add_row(node, problem.operator, problem.layer, problem.message)
    return table


def lint_table(report: LintReport) -> Table:
    """Build a table of the result of a dry run."""
    table = Table(show_header=False, box=None)
    table.add_row("size", f"{report.size / 1e6:.1f} MB, built in {report.seconds:.1f} s")
    table.add_row("GPUs", ", ".join(report.capabilities))
    for name, dtype, shape in report.tensors:
        table.add_row(name, f"{dtype} ({', '.join('any' if length == -1 else str(length) for length in shape)})")
    return table


def print_dry_run(name: str, report: LintReport, console: Console) -> None:
    """Print the result of a dry run; exit with 1 if TensorRT rejects the graph `name`."""
    problems = list(report.problems)
    if problems:
        console.print(problem_table(problems))
        fail(str(EngineBuildError(name, problems)), 1)
    console.print(lint_table(report))
    console.print(f"{name} builds; nothing was kept", soft_wrap=True)


def print_engine(engine: Path, manifest: Manifest, console: Console) -> None:
    """Print the result; exit with 1 if the engine failed its parity gate."""
    record, parity = manifest.engine, manifest.parity
    assert record is not None
    if parity:
        console.print(parity_table(parity))
    result = "FAILED" if parity and not parity.passed else "passed" if parity else record.parity
    table = Table(show_header=False, box=None)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("engine", f"{engine}, {megabytes(engine):.1f} MB in {record.seconds:.1f} s")
    table.add_row("for", f"{record.variant} {record.version}, compute capabilities {', '.join(record.capabilities)}")
    table.add_row("parity of the engine", result)
    table.add_row("other files", f"{engine.name}.json (manifest), {record.graph.file}, {log_path(engine).name}")
    console.print(table)
    if parity and not parity.passed:
        fail(f"{failure_message(engine, parity)}; do not use it, its report is in {engine.name}.json", 1)


def describe_ranges(ranges: InputRanges) -> str:
    """Describe the ranges of the input in words."""
    batch, height, width = (
        str(one.min) if one.fixed else f"{one.min} to {one.max}" for one in (ranges.batch, ranges.height, ranges.width)
    )
    return f"batches of {batch}, height {height}, width {width}"
