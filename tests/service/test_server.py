"""Versions of uvicorn that the server supports."""

import tomllib

import pytest
import uvicorn
from helpers.paths import ROOT

from gtsa_kit.service.server import UVICORN_VERSIONS, check_uvicorn_version


def test_pyproject_names_the_supported_versions_of_uvicorn() -> None:
    (low, high) = (".".join(map(str, version)) for version in UVICORN_VERSIONS)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert f"uvicorn>={low},<{high}" in extras["serve"]


def test_the_installed_uvicorn_is_supported() -> None:
    check_uvicorn_version(uvicorn.__version__)


@pytest.mark.parametrize("version", ["0.34.0", "0.53.9", "0.55.0", "0.100.1", "1.0.0"])
def test_other_versions_of_uvicorn_are_rejected_with_a_hint(version: str) -> None:
    with pytest.raises(RuntimeError, match=r"uvicorn .* is not supported; pip install 'uvicorn>="):
        check_uvicorn_version(version)
