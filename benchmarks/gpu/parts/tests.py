"""Tests marked `gpu`."""

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from gpu.part import ROOT, Context

NEEDS = ("pytest", "pytest_timeout", "filelock", "pydantic")


def run(context: Context) -> None:
    """Run the tests marked `gpu`, and write one row for each."""
    files = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text()]
    report = context.work / "junit.xml"
    options = ["-m", "gpu", "-n", "0", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    options += ["--continue-on-collection-errors"]
    command = [sys.executable, "-m", "pytest", *options, *map(str, files)]
    child = subprocess.run(command, cwd=ROOT, check=False)
    if not report.exists():
        raise RuntimeError(f"pytest ended with exit code {child.returncode} and no report")
    for case in ElementTree.parse(report).iter("testcase"):
        add_test(context, case)


def add_test(context: Context, case: ElementTree.Element) -> None:
    """Write the row of one test: passed, failed with its message, or skipped with its reason."""
    name = f"{Path(case.get('classname', '').replace('.', '/')).name}::{case.get('name')}"
    for kind in ("failure", "error"):
        if (problem := case.find(kind)) is not None:
            text = problem.text or problem.get("message", "")
            if "ModuleNotFoundError" in text or "ImportError" in text:
                context.add("lacks", note=f"{name}: {text.strip().splitlines()[-1]}")
            else:
                context.add(name, ok=False, note=problem.get("message", "")[:300])
            return
    if (skipped := case.find("skipped")) is not None:
        context.add("lacks", note=f"{name}: {skipped.get('message', '')}")
    else:
        context.add(name, ok=True)
