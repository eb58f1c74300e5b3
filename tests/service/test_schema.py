"""Schemathesis tests the service against its own OpenAPI document."""

import os
import subprocess
import sys
from pathlib import Path

from helpers.running_service import RunningService, ServiceFactory
from helpers.task_models import save_random_task, task_spec

from gtsa_kit.export.open_options import LoadOptions
from gtsa_kit.tasks.predictor import open_predictor

# The document can't express that a box lies in the image or that bytes are an image; the service answers 422.
EXCLUDED_CHECK = "positive_data_acceptance"


def run_schemathesis(service: RunningService, folder: Path, *more: str) -> str:
    """Test a service; return the report."""
    here = Path(__file__).parent
    command = [Path(sys.executable).with_name("schemathesis"), "run", f"{service.url}/openapi.json"]
    options = ["--checks=all", f"--exclude-checks={EXCLUDED_CHECK}", "--max-examples=5", "--no-color"]
    options += ["--continue-on-failure", "--generation-deterministic", *more]
    paths = os.pathsep.join([str(here.parent), str(here.parents[1])])
    result = subprocess.run(
        [*map(str, command), *options],
        cwd=folder,
        env={**os.environ, "SCHEMATHESIS_HOOKS": "helpers.schemathesis_hooks", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stdout[-5000:]
    assert service.drains()
    return result.stdout


def test_responses_conform_to_the_openapi_document(heads_service: RunningService, tmp_path: Path) -> None:
    assert "Tested: 13" in run_schemathesis(heads_service, tmp_path)


def test_responses_of_a_detector_conform_too(start_service: ServiceFactory, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    save_random_task(tmp_path / "run", task_spec("mask-rcnn"))
    with start_service(open_predictor(tmp_path / "run", LoadOptions("cpu"))) as running:
        assert "Tested: 1" in run_schemathesis(running, tmp_path, "--include-path=/v1/detect")
