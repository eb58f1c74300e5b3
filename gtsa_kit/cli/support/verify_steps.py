"""Steps and output of `gtsa verify`. The command imports this when it runs."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gtsa_kit.cli.support.common import fail, require
from gtsa_kit.cli.support.export_steps import progress_callback
from gtsa_kit.cli.support.opening import open_encoder
from gtsa_kit.cli.support.parity_table import failure_message, parity_table
from gtsa_kit.cli.support.progress import Steps
from gtsa_kit.export.manifest import Manifest, ParityReport, read_manifest
from gtsa_kit.export.open_options import ImportOptions
from gtsa_kit.export.parity import check_parity
from gtsa_kit.export.parity_images import load_parity_images
from gtsa_kit.export.runtime.engine_header import THIRD_PARTY_GRAPH
from gtsa_kit.export.runtime.load import load
from gtsa_kit.export.runtime.runner import Runner
from gtsa_kit.export.source import Source, find_reference
from gtsa_kit.export.tensorrt.check import CheckReport, check_engine

FAILURE_HINT = "export it again, or look for what has changed since the export"


@dataclass(frozen=True)
class ReferenceOptions:
    """Weights to compare with, and how they are opened."""

    against: Path | None
    """Value of --against; None looks for the weights beside the file."""
    import_options: ImportOptions


def verify_artifact(
    file: Path, runner: Runner, reference: ReferenceOptions, images: Path | None, as_json: bool, console: Console
) -> None:
    """Run the parity gate and print its report; exit with 1 if it fails."""
    source = _open_reference(file, runner.manifest, reference, console)
    parity_set = load_parity_images(require(images) if images else source.images)
    with Steps(console) as steps:
        report = check_parity(source.encoder, runner, parity_set, progress_callback(steps))
    if as_json:
        print(report.model_dump_json(indent=2))
    else:
        console.print(parity_table(report))
    if not report.passed:
        fail(f"{failure_message(file, report)}; {FAILURE_HINT}", 1)
    console.print(f"{file} passed the parity gate, compared with {source.path}", soft_wrap=True)


def verify_engine(
    file: Path, reference: ReferenceOptions, images: Path | None, device: str, as_json: bool, console: Console
) -> None:
    """Check an engine without a GPU, then run the parity gate on a GPU if there is one; exit with 1 on a failure."""
    manifest = read_manifest(file)
    third_party = manifest.architecture.get("name") == THIRD_PARTY_GRAPH
    source = None if third_party else _open_reference(file, manifest, reference, console)
    parity_set = load_parity_images(require(images) if images else source.images if source else None)
    with Steps(console) as steps:
        checks = check_engine(file, manifest, source, parity_set, progress_callback(steps, "parity of the graph"))
    report = None
    if not checks.not_checked and source and device != "cpu":
        with Steps(console) as steps:
            runner = load(file, device)
            report = check_parity(source.encoder, runner, parity_set, progress_callback(steps, "parity of the engine"))
    if as_json:
        print(json.dumps(_as_data(checks, report), indent=2))
    else:
        _print_checks(checks, report, third_party, console)
    _fail_unless_passed(file, checks, report)
    console.print(f"{file}: {checks.not_checked or 'the engine and its graph passed the parity gate'}", soft_wrap=True)


def _fail_unless_passed(file: Path, checks: CheckReport, report: ParityReport | None) -> None:
    if failed := [f"{check.name}: {check.message}" for check in checks.checks if not check.passed]:
        fail(f"{file} failed a check: {failed[0]}", 1)
    for name, parity in ((f"the graph of {file}", checks.parity), (str(file), report)):
        if parity and not parity.passed:
            fail(f"{failure_message(Path(name), parity)}; {FAILURE_HINT}", 1)


def _open_reference(file: Path, manifest: Manifest, reference: ReferenceOptions, console: Console) -> Source:
    """Open the float32 encoder to compare with.

    Raises:
        ValueError: The weights are neither given nor beside the file.
    """
    if reference.against:
        source: Source | None = open_encoder(require(reference.against), reference.import_options, console)
    else:
        source = find_reference(file, manifest)
    if source is None:
        raise ValueError(f"the weights that {file} was exported from are not beside it; name them with --against")
    if source.sha256 != manifest.source_sha256:
        console.print(
            f"warning: {file} was exported from other weights than {source.path}: their sha256 differs", soft_wrap=True
        )
    return source


def _as_data(checks: CheckReport, report: ParityReport | None) -> dict[str, object]:
    """Return the results for JSON."""
    return {
        "passed": checks.passed and (report is None or report.passed),
        "checks": [asdict(check) for check in checks.checks],
        "graph_parity": checks.parity.model_dump(mode="json") if checks.parity else None,
        "engine_parity": report.model_dump(mode="json") if report else None,
        "not_checked": checks.not_checked,
    }


def _print_checks(checks: CheckReport, report: ParityReport | None, third_party: bool, console: Console) -> None:
    table = Table(title="checks without a GPU", title_justify="left", box=None, show_header=False)
    for _ in range(3):
        table.add_column(overflow="fold")
    for check in checks.checks:
        table.add_row("passed" if check.passed else "FAILED", check.name, check.message)
    console.print(table)
    if third_party:
        console.print("the graph is another tool's: there is no float32 encoder to compare it with")
    if checks.parity:
        console.print("the graph:")
        console.print(parity_table(checks.parity))
    if report:
        console.print("the engine:")
        console.print(parity_table(report))
