"""What `gtsa verify` does for each kind of file, and what it shows of it. The command imports this when it runs."""

import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gtsa_kit.cli.support.common import fail, require
from gtsa_kit.cli.support.export_steps import counting
from gtsa_kit.cli.support.parity_table import parity_table, verdict
from gtsa_kit.cli.support.progress import Steps
from gtsa_kit.export.manifest import Manifest, ParityReport, read_manifest
from gtsa_kit.export.parity import check_parity
from gtsa_kit.export.parity_images import load_parity_images
from gtsa_kit.export.runtime.engine_header import FOREIGN_GRAPH
from gtsa_kit.export.runtime.load import load
from gtsa_kit.export.runtime.runner import Runner
from gtsa_kit.export.source import Source, find_reference, open_source
from gtsa_kit.export.tensorrt.check import CheckReport, check_engine

AGAIN = "export it again, or see what changed since"


def verify_artifact(
    file: Path, runner: Runner, against: Path | None, images: Path | None, as_json: bool, shown: Console
) -> None:
    """The gate, again; exits with 1 if it does not hold."""
    source = _reference(file, runner.manifest, against, shown)
    parity_set = load_parity_images(require(images) if images else source.images)
    with Steps(shown) as steps:
        report = check_parity(source.encoder, runner, parity_set, counting(steps))
    if as_json:
        print(report.model_dump_json(indent=2))
    else:
        shown.print(parity_table(report))
    if not report.passed:
        fail(f"{verdict(file, report)}; {AGAIN}", 1)
    shown.print(f"{file}: parity holds with {source.path}", soft_wrap=True)


def verify_engine(
    file: Path, against: Path | None, images: Path | None, device: str, as_json: bool, shown: Console
) -> None:
    """What can be checked of an engine without a GPU, then the gate on one if it is here; exits with 1 if not good."""
    manifest = read_manifest(file)
    foreign = manifest.architecture.get("name") == FOREIGN_GRAPH
    source = None if foreign else _reference(file, manifest, against, shown)
    parity_set = load_parity_images(require(images) if images else source.images if source else None)
    with Steps(shown) as steps:
        found = check_engine(file, manifest, source, parity_set, counting(steps, "parity of the graph"))
    report = None
    if not found.not_checked and source and device != "cpu":
        with Steps(shown) as steps:
            runner = load(file, device)
            report = check_parity(source.encoder, runner, parity_set, counting(steps, "parity of the engine"))
    if as_json:
        print(json.dumps(_as_data(found, report), indent=2))
    else:
        _show(found, report, foreign, shown)
    if wrong := [f"{check.name}: {check.message}" for check in found.checks if not check.passed]:
        fail(f"{file} is not what it should be: {wrong[0]}", 1)
    for of, parity in ((f"the graph of {file}", found.parity), (str(file), report)):
        if parity and not parity.passed:
            fail(f"{verdict(Path(of), parity)}; {AGAIN}", 1)
    shown.print(f"{file}: {found.not_checked or 'holds, and so does its graph'}", soft_wrap=True)


def _reference(file: Path, manifest: Manifest, against: Path | None, shown: Console) -> Source:
    """The float32 encoder to compare with.

    Raises:
        ValueError: It is nowhere to be found.
    """
    source = open_source(require(against)) if against else find_reference(file, manifest)
    if source is None:
        raise ValueError(f"the weights that {file} came from are not beside it; name them with --against")
    if source.sha256 != manifest.source_sha256:
        shown.print(f"{source.path} holds other weights than {file} was made from, as their hashes say", soft_wrap=True)
    return source


def _as_data(found: CheckReport, report: ParityReport | None) -> dict[str, object]:
    return {
        "passed": found.passed and (report is None or report.passed),
        "checks": [asdict(check) for check in found.checks],
        "graph_parity": found.parity.model_dump(mode="json") if found.parity else None,
        "engine_parity": report.model_dump(mode="json") if report else None,
        "not_checked": found.not_checked,
    }


def _show(found: CheckReport, report: ParityReport | None, foreign: bool, shown: Console) -> None:
    table = Table(title="what can be checked without a GPU", title_justify="left", box=None, show_header=False)
    for _ in range(3):
        table.add_column(overflow="fold")
    for check in found.checks:
        table.add_row("ok" if check.passed else "FAILED", check.name, check.message)
    shown.print(table)
    if foreign:
        shown.print("its graph is another tool's: there is no float32 encoder to compare it with")
    if found.parity:
        shown.print("the graph:")
        shown.print(parity_table(found.parity))
    if report:
        shown.print("the engine:")
        shown.print(parity_table(report))
