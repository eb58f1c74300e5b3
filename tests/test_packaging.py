"""Files that a user installs: the package with its types and pages, and none of the links in the root."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from helpers.paths import ROOT

import gtsa_kit

EDITABLE = "from hatchling.build import build_editable; import sys; build_editable(sys.argv[1])"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Names in the sdist, the wheel and the wheel of an editable install."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", str(folder)], cwd=ROOT, check=True)
    editable = tmp_path_factory.mktemp("editable")
    subprocess.run([sys.executable, "-c", EDITABLE, str(editable)], cwd=ROOT, check=True)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as sdist:
        names = {"sdist": [name.split("/", 1)[1] for name in sdist.getnames()]}
    for kind, directory in (("wheel", folder), ("editable", editable)):
        with zipfile.ZipFile(next(directory.glob("*.whl"))) as wheel:
            names[kind] = wheel.namelist()
            for name in wheel.namelist():  # a path in a .pth would offer everything that lies beside the package
                if name.endswith(".pth"):
                    assert f"{ROOT}\n" not in wheel.read(name).decode() + "\n"
    return names


@pytest.mark.parametrize("kind", ["sdist", "wheel", "editable"])
def test_links_are_not_installed(built: dict[str, list[str]], kind: str) -> None:
    assert not [name for name in built[kind] if name.split("/")[0] in ("cli", "export")]


@pytest.mark.parametrize("kind", ["sdist", "wheel"])
def test_every_module_is_there(built: dict[str, list[str]], kind: str) -> None:
    """Hatch visits a folder once; if it came by a link in the root, the folder below the package would be missing."""
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "gtsa_kit").rglob("*.py")}
    assert not modules - set(built[kind])


@pytest.mark.parametrize("kind", ["sdist", "wheel"])
def test_types_and_pages_are_installed(built: dict[str, list[str]], kind: str) -> None:
    pages = [str(path.relative_to(ROOT)) for path in (ROOT / "gtsa_kit").rglob("page/*")]
    assert pages
    assert {"gtsa_kit/py.typed", "gtsa_kit/__init__.pyi", *pages} <= set(built[kind])


def test_a_wheel_holds_the_package_alone(built: dict[str, list[str]]) -> None:
    roots = {Path(name).parts[0] for name in built["wheel"]}
    assert {root for root in roots if not root.endswith(".dist-info")} == {"gtsa_kit"}


def test_the_version_is_that_of_the_package(built: dict[str, list[str]]) -> None:
    assert f"gtsa_kit-{gtsa_kit.__version__}.dist-info/METADATA" in built["wheel"]
