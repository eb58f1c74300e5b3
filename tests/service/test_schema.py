"""The service against its own OpenAPI document: Schemathesis asks for whatever the document allows, and for more."""

import os
import subprocess
import sys
from pathlib import Path

from helpers.running_service import Served

# What the document can't say, that a box lies in the image and that bytes are one, is refused with 422.
LEFT_OUT = "positive_data_acceptance"


def test_answers_are_as_documented_whatever_is_asked(served: Served, tmp_path: Path) -> None:
    here = Path(__file__).parent
    command = [Path(sys.executable).with_name("schemathesis"), "run", f"{served.url}/openapi.json"]
    options = ["--checks=all", f"--exclude-checks={LEFT_OUT}", "--max-examples=5", "--no-color"]
    options += ["--continue-on-failure", "--generation-deterministic"]
    paths = os.pathsep.join([str(here.parent), str(here.parents[1])])
    result = subprocess.run(
        [*map(str, command), *options],
        cwd=tmp_path,
        env={**os.environ, "SCHEMATHESIS_HOOKS": "helpers.schemathesis_hooks", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stdout[-5000:]
    assert "Tested: 7" in result.stdout
    assert served.empties()
