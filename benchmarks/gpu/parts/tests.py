"""Tests marked `gpu`."""

import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from gpu.part import ROOT, Context
from gpu.results import LACKS

NEEDS = ("pytest", "pytest_timeout", "xdist", "filelock", "pydantic", "timm")
TIMEOUT = 60
"""Seconds of one test, so that one that hangs is named."""


def run(context: Context) -> None:
    """Run the tests marked `gpu`, and write a row for each as soon as it has ended."""
    import pytest

    for name in ("conftest", "helpers.parity_table"):
        import_module(name)  # a module that they lack is said so here; in pytest it is an internal error
    os.chdir(ROOT)
    files = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text()]
    options = ["-m", "gpu", "-n", "0", "-q", "-p", "no:cacheprovider", f"--timeout={TIMEOUT}"]
    options += ["--continue-on-collection-errors", f"--basetemp={context.work / 'pytest'}"]
    recorder = Recorder(context)
    code = pytest.main([*options, *map(str, files)], plugins=[recorder])
    if not recorder.tests:
        raise RuntimeError(f"pytest ended with exit code {int(code)} and ran no test")


class Recorder:
    """Plugin of pytest that writes a row for each test."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.tests = 0

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Write the result of a test: of its call, or of the fixture that failed or skipped it."""
        if report.when == "call" or not report.passed:
            self.add(Path(report.nodeid.partition("::")[0]).stem + "::" + report.nodeid.partition("::")[2], report)

    def pytest_collectreport(self, report: Any) -> None:
        """Write down a file that could not be collected."""
        if not report.passed:
            self.add(Path(report.nodeid).stem, report)

    def add(self, name: str, report: Any) -> None:
        """Write one row: passed, failed with its last line, or what is lacking."""
        self.tests += 1
        if report.passed:
            self.context.add(name, ok=True)
        elif report.skipped:
            self.context.add(LACKS, _skip_reason(report.longrepr), note=name)
        else:
            lines = [line for line in report.longreprtext.splitlines() if line.startswith("E ")] or ["E  no message"]
            missing = next((line for line in lines if "ModuleNotFoundError" in line), None)
            if missing:
                self.context.add(LACKS, missing.split("'")[-2], note=name)
            else:
                self.context.add(name, ok=False, note=lines[0].removeprefix("E").strip()[:300])


def _skip_reason(longrepr: Sequence[Any]) -> str:
    """Return the reason of a skip, whose report is (file, line, "Skipped: reason")."""
    return str(longrepr[2]).removeprefix("Skipped: ")
