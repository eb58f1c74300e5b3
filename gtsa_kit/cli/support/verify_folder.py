"""Steps and output of `gtsa verify FOLDER`. The command imports this when it runs."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from gtsa_kit.cli.support.common import require
from gtsa_kit.cli.support.opening import open_runner
from gtsa_kit.cli.support.parity_table import parity_table
from gtsa_kit.cli.support.task_options import ScoreOptions
from gtsa_kit.cli.support.verify_scores import score_again, score_engine_again
from gtsa_kit.cli.support.verify_steps import (
    ReferenceOptions,
    Verification,
    as_data,
    checks_table,
    examine_engine,
    examine_file,
    fail_unless_passed,
    not_compared,
    open_reference_weights,
)
from gtsa_kit.export.folder_check import NO_SERVER, check_content, find_exported_folder, served_file
from gtsa_kit.export.folder_report import FolderReport, read_folder_report
from gtsa_kit.export.formats.content import PLAN, ReportWarning
from gtsa_kit.export.formats.frameworks import check_folder_parity
from gtsa_kit.export.open_options import LoadOptions
from gtsa_kit.export.parity_images import load_parity_images
from gtsa_kit.export.tensorrt.check import CheckReport
from gtsa_kit.models.run_folder import EXPORT_FILE


def verify_folder(
    path: Path,
    reference: ReferenceOptions,
    images: Path | None,
    options: LoadOptions,
    as_json: bool,
    console: Console,
    scoring: ScoreOptions,
) -> None:
    """Check a folder by its digests, and run the parity gate on what it holds; exit with 1 on a failure.

    With labeled images, the file that a model of Triton serves is scored too.

    Raises:
        ValueError: gtsa export did not write the folder, or an option is not for it.
    """
    folder = find_exported_folder(path)
    report = read_folder_report(folder)
    if scoring.score and report.format != "triton":
        raise ValueError(f"{folder} is a checkpoint for {report.format}, which has no task to score; omit --score")
    content = check_content(report, folder)
    file = served_file(report, folder) if content.passed else None
    if not content.passed:
        result = Verification(CheckReport((), None, "not compared: the files are not those of the report"), None)
    elif file is None:
        _refuse_provider(folder, options)
        result = _examine_framework(folder, report, reference, images, console)
    else:
        result = _examine_served(folder, file, reference, images, options, console)
    checks = replace(result.checks, checks=(content, *result.checks.checks))
    _print_result(folder, Verification(checks, result.engine), as_json, console)
    if scoring.score and file:
        _score(file, reference, scoring, options, console)


def _score(
    file: Path, reference: ReferenceOptions, scoring: ScoreOptions, options: LoadOptions, console: Console
) -> None:
    """Score the file that a model of Triton serves."""
    if file.suffix == PLAN:
        score_engine_again(file, reference, scoring, options.device, console)
    else:
        score_again(file, open_runner(file, options.with_facts(), console), reference, scoring, console)


def _examine_framework(
    folder: Path, report: FolderReport, reference: ReferenceOptions, images: Path | None, console: Console
) -> Verification:
    """Load the checkpoint in its framework, and compare it with the encoder if the weights are found."""
    source = open_reference_weights(folder / EXPORT_FILE, report, reference, console)
    if source is None:
        return Verification(CheckReport((), None, not_compared(folder / EXPORT_FILE, report)), None)
    parity_set = load_parity_images(require(images) if images else source.images)
    parity = check_folder_parity(source.encoder, report.format, folder, parity_set)
    return Verification(CheckReport((), parity, ""), None)


def _examine_served(
    folder: Path,
    file: Path,
    reference: ReferenceOptions,
    images: Path | None,
    options: LoadOptions,
    console: Console,
) -> Verification:
    """Examine the file that a model of Triton serves as any exported file is."""
    if file.suffix == PLAN:
        _refuse_provider(file, options)
        result = examine_engine(file, reference, images, options.device, console)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ReportWarning)  # the checks say it
            runner = open_runner(file, options.with_facts(), console)
        result = examine_file(file, runner, reference, images, console)
    missing = "; ".join(filter(None, (result.checks.not_checked, NO_SERVER)))
    return replace(result, checks=replace(result.checks, not_checked=missing))


def _refuse_provider(path: Path, options: LoadOptions) -> None:
    if options.provider_options:
        names = ", ".join(options.provider_options)
        raise ValueError(f"{path} is not run by ONNX Runtime; omit {names}")


def _print_result(folder: Path, result: Verification, as_json: bool, console: Console) -> None:
    checks, engine = result.checks, result.engine
    if as_json:
        print(json.dumps(as_data(result), indent=2))
    else:
        console.print(checks_table(checks))
        for parity in filter(None, (checks.parity, engine)):
            console.print(parity_table(parity))
    fail_unless_passed(folder, result)
    compared = "passed the parity gate" if checks.parity or engine else "passed its checks"
    console.print(f"{folder} {compared}" + (f"; {checks.not_checked}" * bool(checks.not_checked)), soft_wrap=True)
