"""Virtual environments of the peers, with the packages that benchmarks/peers/NAME.txt pins by hash.

torch and what it needs take 5 GB, so they are installed once, in an environment of their own that the others read.
"""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

PINS = Path(__file__).parents[1] / "peers"
SHARED = "torch"
"""The environment whose packages all others see."""


class PeerError(Exception):
    """A peer can't be installed or can't do the job; the message is the reason that it gave."""


def environment_python(name: str, folder: Path, pins: Path = PINS) -> Path:
    """Return the Python of a peer's environment, which is made if it is missing, or if its pins or its place changed.

    Args:
        name: Name of the pins, without ".txt".
        folder: Folder of all environments.
        pins: Folder of the pins.

    Raises:
        PeerError: The packages can't be installed.
    """
    environment, requirements = folder / name, pins / f"{name}.txt"
    stamp, python = environment / "installed", environment / "bin" / "python"
    made = f"{hashlib.sha256(requirements.read_bytes()).hexdigest()} in {environment.absolute()}"  # its paths are fixed
    if stamp.exists() and stamp.read_text() == made:
        return python
    shutil.rmtree(environment, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    if name != SHARED:
        shared = site_packages(environment_python(SHARED, folder, pins))
        (site_packages(python) / "shared.pth").write_text(f"{shared}\n")
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-compile", "--no-deps", "--require-hashes"]
    result = subprocess.run([*install, "--requirement", str(requirements)], capture_output=True, text=True)
    if result.returncode:
        raise PeerError(f"not installed: {last_line(result.stderr)}")
    stamp.write_text(made)
    return python


def site_packages(python: Path) -> Path:
    """Return the folder of an environment's packages."""
    return next((python.parents[1] / "lib").glob("python*")) / "site-packages"


def pinned_version(name: str, package: str, pins: Path = PINS) -> str:
    """Return the version of a package in the pins of a peer."""
    for line in (pins / f"{name}.txt").read_text().splitlines():
        pinned, _, version = line.removesuffix("\\").partition("==")
        if pinned.lower().replace("_", "-") == package:
            return version.strip()
    raise ValueError(f"{name}.txt has no {package}; add its version")


def last_line(text: str) -> str:
    """Return the last line that says something, cut to the width of a table: the reason of a failed command."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and "WARNING" not in line]
    errors = [line for line in lines if "Error" in line or "ERROR" in line]
    return ((errors or lines or ["no message"])[-1])[:160]
