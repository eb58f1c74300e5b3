"""Gather the wheels that a machine without a package registry lacks, in folders of at most 60 MiB each.

Run: .venv/bin/python benchmarks/gpu/wheelhouse.py --has has.txt [--python 3.12] [--extras serve,eval,baselines]
     [--out wheelhouse] [--part-mib 60]

`has.txt` is the output of `python3 -m pip list --format=freeze` on that machine; packages that it names in a version
that is new enough are taken as they are there. The others come from constraints.txt, checked by their hashes. On that
machine:

    python3 -m pip install --no-index --no-deps --target site wheelhouse/part-*/*.whl && export PYTHONPATH=site
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from email.parser import Parser
from importlib import metadata
from pathlib import Path
from zipfile import ZipFile

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

ROOT = Path(__file__).resolve().parents[2]
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (17, 24, 26, 27, 28, 31, 34, 35)] + ["manylinux2014_x86_64"]
TESTS = ("pytest", "pytest-timeout", "pytest-xdist")
OWN = {"gtsa-kit", "editables"}
"""The package itself, which runs from its checkout, and what its editable installation adds."""
PROVIDERS = {"onnxruntime-gpu": "onnxruntime", "lightning-fabric": "pytorch-lightning"}
"""Packages whose modules another package holds as well: a build without a GPU, and one that ships a copy."""


def target_environment(python: str) -> dict[str, str]:
    """Return the values of markers on a machine with Linux on x86-64 and a Python version such as "3.12"."""
    environment = {"python_version": python, "python_full_version": f"{python}.0", "implementation_name": "cpython"}
    system = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix"}
    return environment | system | {"platform_python_implementation": "CPython", "extra": ""}


def read_pins(constraints: Path, python: str) -> dict[str, str]:
    """Return version and hashes of every package of a constraints file, by canonical name.

    A package may have several pins, each with a marker; the result has those for the Python version of the machine.
    """
    text = re.sub(r"\s*\\\n\s*", " ", constraints.read_text(encoding="utf-8"))
    environment = target_environment(python)
    pins = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            requirement = Requirement(line.partition(" --hash")[0].strip())
            if requirement.marker is None or requirement.marker.evaluate(environment):
                hashes = line.partition(" --hash")[2]
                pins[canonicalize_name(requirement.name)] = f"{requirement.name}{requirement.specifier} --hash{hashes}"
    return pins


def read_versions(freeze: Path) -> dict[str, str]:
    """Return the versions by canonical name in the output of `pip list --format=freeze`; "" where it has none."""
    lines = [line.strip() for line in freeze.read_text(encoding="utf-8").splitlines() if line.strip()]
    pairs = [re.split(r" *(?:==|@) *", line, maxsplit=1) for line in lines]
    versions = {canonicalize_name(name): "".join(rest) for name, *rest in pairs}
    for name, provider in PROVIDERS.items():
        if provider in versions:
            versions.setdefault(name, versions[provider])
    return versions


def satisfies(has: Mapping[str, str], requirement: Requirement) -> bool:
    """Return whether a machine has a package, in a version that a requirement allows if it is known."""
    name = canonicalize_name(requirement.name)
    if name not in has:
        return False
    try:
        return requirement.specifier.contains(Version(has[name]), prereleases=True)
    except InvalidVersion:
        return True


def missing_packages(
    roots: Iterable[str], has: Mapping[str, str], python: str, requires: Callable[[str], Iterable[str]]
) -> set[str]:
    """Return the canonical names that `roots` need, all levels down, and that a machine does not have.

    Args:
        roots: Requirements, such as "gtsa-kit[serve]".
        has: Versions by canonical name of the packages on that machine, whose own requirements are taken to be met.
        python: Its Python version, such as "3.12"; the machine runs Linux on x86-64.
        requires: Function from a canonical name to the requirements of that package.
    """
    environment = target_environment(python)
    queue = [Requirement(root) for root in roots]
    seen = set()
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        if satisfies(has, requirement) or (name, frozenset(requirement.extras)) in seen:
            continue
        seen.add((name, frozenset(requirement.extras)))
        for child in map(Requirement, requires(name)):
            extras = requirement.extras or {""}
            if child.marker is None or any(child.marker.evaluate({**environment, "extra": e}) for e in extras):
                queue.append(child)
    return {name for name, _ in seen}


class Downloads:
    """Wheels of the pinned versions, downloaded as they are needed."""

    def __init__(self, python: str, folder: Path) -> None:
        """Download for a Python version into an empty folder."""
        self.python, self.folder = python, folder
        self.pins = read_pins(ROOT / "constraints.txt", python)
        self.wheels: dict[str, Path | None] = {}
        """Wheel by canonical name; None if there is none."""

    def requires(self, name: str) -> list[str]:
        """Return the requirements of a package: of gtsa-kit as installed here, of others as their wheels have them.

        On a machine with a GPU, onnxruntime-gpu takes the place of onnxruntime.
        """
        if name in OWN:
            return [re.sub(r"^onnxruntime(?=[<>=])", "onnxruntime-gpu", text) for text in metadata.requires(name) or []]
        if name not in self.wheels:
            self.wheels[name] = download(self.pins[name], self.python, self.folder) if name in self.pins else None
        wheel = self.wheels[name]
        return wheel_requires(wheel) if wheel else []


def wheel_requires(wheel: Path) -> list[str]:
    """Return the requirements of a wheel."""
    with ZipFile(wheel) as archive:
        path = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        message = Parser().parsestr(archive.read(path).decode("utf-8"), headersonly=True)
    return message.get_all("Requires-Dist") or []


def download(pin: str, python: str, folder: Path) -> Path | None:
    """Download the wheel of a pin for Linux on x86-64, or build it where there is none and it is pure Python.

    Args:
        pin: Version and hashes of a package, see `read_pins`.
        python: Python version of the machine.
        folder: Folder for the wheel.

    Returns:
        The wheel; None if there is none.
    """
    with tempfile.TemporaryDirectory() as name:
        requirement, new = Path(name) / "requirement.txt", Path(name) / "wheels"
        requirement.write_text(pin + "\n")
        target = ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}"]
        target += [f"--platform={name}" for name in PLATFORMS]
        common = ["--quiet", "--no-deps", "--require-hashes", "-r", str(requirement)]
        pip = [sys.executable, "-m", "pip"]
        subprocess.run([*pip, "download", *common, *target, "-d", str(new)], capture_output=True, check=False)
        wheels = list(new.glob("*.whl"))
        if not wheels:
            subprocess.run([*pip, "wheel", *common, "-w", str(new)], capture_output=True, check=False)
            wheels = list(new.glob("*-none-any.whl"))
        return Path(shutil.move(wheels[0], folder / wheels[0].name)) if wheels else None


def pack(wheels: Sequence[Path], out: Path, limit: int) -> list[Path]:
    """Move wheels into out/part-1, part-2, ... of at most `limit` bytes each; return those that are larger alone."""
    parts: list[int] = []
    too_large = []
    for wheel in sorted(wheels, key=lambda path: (-path.stat().st_size, path.name)):
        size = wheel.stat().st_size
        if size > limit:
            too_large.append(wheel)
            continue
        index = next((i for i, used in enumerate(parts) if used + size <= limit), len(parts))
        parts += [0] if index == len(parts) else []
        parts[index] += size
        folder = out / f"part-{index + 1}"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.move(wheel, folder / wheel.name)
    return too_large


def main() -> int:
    """Gather the wheels; the exit code is 1 if one is missing or larger than a part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--has", type=Path, help="pip list --format=freeze of the machine; default: it has nothing")
    parser.add_argument("--python", default="3.12", help="its Python version; default 3.12")
    parser.add_argument("--extras", default="serve,eval,baselines", help="extras of gtsa-kit to take along")
    parser.add_argument("--out", type=Path, default=Path("wheelhouse"), help="folder of the parts; emptied first")
    parser.add_argument("--part-mib", type=float, default=60.0, help="size of a part in MiB; default 60")
    options = parser.parse_args()
    has = read_versions(options.has) if options.has else {}
    shutil.rmtree(options.out, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        downloads = Downloads(options.python, Path(folder))
        roots = [f"gtsa-kit[{options.extras}]", *TESTS]
        needed = missing_packages(roots, has, options.python, downloads.requires)
        without = sorted(name for name in needed - OWN if downloads.wheels[name] is None)
        wheels = list(Path(folder).glob("*.whl"))
        size = sum(wheel.stat().st_size for wheel in wheels) / 2**20
        too_large = [wheel.name for wheel in pack(wheels, options.out, int(options.part_mib * 2**20))]
    parts = sorted(path.name for path in options.out.glob("part-*"))
    print(f"{len(wheels)} wheels, {size:.0f} MiB, in {', '.join(parts) or 'no part'} of {options.out}")
    if too_large:
        print(f"larger than a part, so not there: {', '.join(too_large)}; raise --part-mib, or name them in --has")
    if without:
        print(f"no wheel for Python {options.python}: {', '.join(without)}")
    return int(bool(too_large or without))


if __name__ == "__main__":
    sys.exit(main())
