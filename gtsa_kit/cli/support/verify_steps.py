"""Steps and output of `gtsa verify`. The command imports this when it runs."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gtsa_kit.cli.support.common import fail, require
from gtsa_kit.cli.support.export_steps import progress_callback
from gtsa_kit.cli.support.opening import print_note
from gtsa_kit.cli.support.parity_table import failure_message, parity_table
from gtsa_kit.cli.support.progress import Steps
from gtsa_kit.export.folder_report import FolderReport
from gtsa_kit.export.formats.content import CHANGED, EDITED, open_manifest
from gtsa_kit.export.manifest import Manifest, graph_path
from gtsa_kit.export.open_options import ImportOptions
from gtsa_kit.export.parity import check_parity
from gtsa_kit.export.parity_images import ParityImages, load_parity_images
from gtsa_kit.export.parity_report import ParityReport
from gtsa_kit.export.reference import missing_reference, open_reference
from gtsa_kit.export.runtime.engine_header import THIRD_PARTY_GRAPH
from gtsa_kit.export.runtime.load import load, pick_device
from gtsa_kit.export.runtime.runner import Runner
from gtsa_kit.export.runtime.tensorrt_runner import EngineRunner
from gtsa_kit.export.self_check import Check, self_check
from gtsa_kit.export.source import Source
from gtsa_kit.export.spec import SUFFIX
from gtsa_kit.export.tensorrt.check import CheckReport, check_engine

FAILURE_HINT = "export it again, or look for what has changed since the export"


@dataclass(frozen=True)
class ReferenceOptions:
    """Weights to compare with, and how they are opened."""

    against: Path | None
    """Value of --against; None looks for the weights beside the file."""
    import_options: ImportOptions


@dataclass(frozen=True)
class Verification:
    """Results of `gtsa verify`."""

    checks: CheckReport
    engine: ParityReport | None
    """Parity of an engine on a GPU; None for other files, and where it was not run."""
    reference: Path | None = None
    """Weights that a file was compared with; None where they were not found."""


def verify_artifact(
    file: Path, runner: Runner, reference: ReferenceOptions, images: Path | None, as_json: bool, console: Console
) -> None:
    """Run the parity gate and print its report; exit with 1 if it fails.

    Without the weights that the file was exported from, check what needs none, and say what was not compared.
    """
    result = examine_file(file, runner, reference, images, console)
    report = result.checks.parity
    if report is None:
        _print_result(file, result, False, as_json, console)
        return
    if as_json:
        print(report.model_dump_json(indent=2))
    else:
        console.print(parity_table(report))
    if not report.passed:
        fail(f"{failure_message(file, report)}; {FAILURE_HINT}", 1)
    console.print(f"{file} passed the parity gate, compared with {result.reference}", soft_wrap=True)


def examine_file(
    file: Path, runner: Runner, reference: ReferenceOptions, images: Path | None, console: Console
) -> Verification:
    """Run the parity gate on an opened file or, without the weights, the checks that need none."""
    source = open_reference_weights(file, runner.manifest, reference, console)
    folder = require(images) if images else source.images if source else None
    parity_set = load_parity_images(folder, runner.preprocessing)
    if source is None:
        return Verification(_check_without_reference(file, runner, parity_set, console), None)
    if problem := open_manifest(file).problem:
        console.print(f"{file} has no parity report: {problem}; it is compared now", soft_wrap=True)
    with Steps(console) as steps:
        report = check_parity(source.model, runner, parity_set, progress_callback(steps))
    return Verification(CheckReport((), report, ""), None, source.path)


def verify_engine(
    file: Path, reference: ReferenceOptions, images: Path | None, device: str, as_json: bool, console: Console
) -> None:
    """Check an engine without a GPU, then run the parity gate on a GPU if there is one; exit with 1 on a failure."""
    third_party = open_manifest(file).manifest.architecture.get("name") == THIRD_PARTY_GRAPH
    _print_result(file, examine_engine(file, reference, images, device, console), third_party, as_json, console)


def examine_engine(
    file: Path, reference: ReferenceOptions, images: Path | None, device: str, console: Console
) -> Verification:
    """Check an engine without a GPU, then run the parity gate on a GPU if there is one."""
    manifest = open_manifest(file).manifest
    third_party = manifest.architecture.get("name") == THIRD_PARTY_GRAPH
    source = None if third_party else open_reference_weights(file, manifest, reference, console)
    folder = require(images) if images else source.images if source else None
    parity_set = load_parity_images(folder, source.encoder.preprocessing if source else None)
    with Steps(console) as steps:
        checks = check_engine(file, manifest, source, parity_set, progress_callback(steps, "parity of the graph"))
    report = None
    if not checks.not_checked and source and device != "cpu":
        with Steps(console) as steps:
            runner = EngineRunner(file, manifest, pick_device(device))
            report = check_parity(source.model, runner, parity_set, progress_callback(steps, "parity of the engine"))
    if source is None and not third_party:
        checks = _add_self_checks(file, manifest, checks, parity_set, console)
    return Verification(checks, report)


def _print_result(file: Path, result: Verification, third_party: bool, as_json: bool, console: Console) -> None:
    """Print checks and reports; exit with 1 if one failed."""
    if as_json:
        print(json.dumps(as_data(result), indent=2))
    else:
        _print_checks(result, third_party, console)
    fail_unless_passed(file, result)
    passed = result.checks.not_checked or "the engine and its graph passed the parity gate"
    console.print(f"{file}: {passed}", soft_wrap=True)


def _check_without_reference(file: Path, runner: Runner, images: ParityImages, console: Console) -> CheckReport:
    problem = open_manifest(file).problem
    content = Check("content", True, "the file is the one that its report describes")
    if problem:
        failed = problem in (CHANGED, EDITED)
        content = Check("content", not failed, problem if failed else f"not checked: {problem}")
    with Steps(console) as steps:
        checks = self_check(runner, images, progress_callback(steps, "checks"))
    return CheckReport((content, *checks), None, not_compared(file, runner.manifest))


def _add_self_checks(
    file: Path, manifest: Manifest, checks: CheckReport, images: ParityImages, console: Console
) -> CheckReport:
    """Add the checks of an engine's graph that need no weights, and say what was not compared."""
    more: tuple[Check, ...] = ()
    if (graph := graph_path(file)).exists():
        with Steps(console) as steps:
            more = self_check(load(graph, "cpu"), images, progress_callback(steps, "checks of the graph"))
    missing = "; ".join(filter(None, (not_compared(file, manifest), checks.not_checked)))
    return replace(checks, checks=(*checks.checks, *more), not_checked=missing)


def not_compared(file: Path, manifest: Manifest | FolderReport) -> str:
    """Say that an artifact was not compared, and why."""
    return f"not compared with the float32 encoder: {missing_reference(file, manifest)}"


def fail_unless_passed(file: Path, result: Verification) -> None:
    """Exit with 1 and name the first check that failed."""
    if failed := [f"{check.name}: {check.message}" for check in result.checks.checks if not check.passed]:
        fail(f"{file} failed a check: {failed[0]}", 1)
    graph = f"the graph of {file}" if file.suffix == SUFFIX["trt"] else str(file)
    for name, parity in ((graph, result.checks.parity), (str(file), result.engine)):
        if parity and not parity.passed:
            fail(f"{failure_message(Path(name), parity)}; {FAILURE_HINT}", 1)


def open_reference_weights(
    file: Path, manifest: Manifest | FolderReport, reference: ReferenceOptions, console: Console
) -> Source | None:
    """Open the float32 encoder to compare with; None if its weights are neither given nor where the manifest says."""
    against = require(reference.against) if reference.against else None
    source = open_reference(file, manifest, against, reference.import_options)
    if source and against:
        print_note(against, source.note, console)
    if source and source.sha256 != manifest.source_sha256:
        console.print(
            f"warning: {file} was exported from other weights than {source.path}: their sha256 differs", soft_wrap=True
        )
    return source


def as_data(result: Verification) -> dict[str, object]:
    """Return the results for JSON."""
    checks, engine = result.checks, result.engine
    return {
        "passed": checks.passed and (engine is None or engine.passed),
        "checks": [asdict(check) for check in checks.checks],
        "graph_parity": checks.parity.model_dump(mode="json") if checks.parity else None,
        "engine_parity": engine.model_dump(mode="json") if engine else None,
        "not_checked": checks.not_checked,
    }


def checks_table(checks: CheckReport) -> Table:
    """Build a table with a row for each check."""
    table = Table(title="checks", title_justify="left", box=None, show_header=False)
    for _ in range(3):
        table.add_column(overflow="fold")
    for check in checks.checks:
        table.add_row("passed" if check.passed else "FAILED", check.name, check.message)
    return table


def _print_checks(result: Verification, third_party: bool, console: Console) -> None:
    console.print(checks_table(result.checks))
    if third_party:
        console.print("the graph is another tool's: there is no float32 encoder to compare it with")
    if result.checks.parity:
        console.print("the graph:")
        console.print(parity_table(result.checks.parity))
    if result.engine:
        console.print("the engine:")
        console.print(parity_table(result.engine))
