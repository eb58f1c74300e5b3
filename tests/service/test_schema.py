"""Schemathesis tests the service against its own OpenAPI document."""

import os
import subprocess
import sys
from pathlib import Path

from helpers.running_service import RunningService

# The document can't express that a box lies in the image or that bytes are an image; the service answers 422.
EXCLUDED_CHECK = "positive_data_acceptance"


def test_responses_conform_to_the_openapi_document(heads_service: RunningService, tmp_path: Path) -> None:
    here = Path(__file__).parent
    command = [Path(sys.executable).with_name("schemathesis"), "run", f"{heads_service.url}/openapi.json"]
    options = ["--checks=all", f"--exclude-checks={EXCLUDED_CHECK}", "--max-examples=5", "--no-color"]
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
    assert "Tested: 11" in result.stdout
    assert heads_service.drains()
