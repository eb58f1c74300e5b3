"""Gather the wheels that a machine without a package registry lacks, in folders of at most 60 MiB each.

Run: .venv/bin/python benchmarks/gpu/wheelhouse.py --has has.txt [--python 3.12] [--extras serve,eval,baselines]
     [--out wheelhouse] [--part-mib 60]

`has.txt` is the output of `python3 -m pip list --format=freeze` on that machine; packages that it names are taken as
they are there. The others come from constraints.txt, checked by their hashes. On that machine:

    python3 -m pip install --no-index --no-deps --target site wheelhouse/part-*/*.whl && export PYTHONPATH=site
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (17, 24, 26, 27, 28, 31, 34, 35)] + ["manylinux2014_x86_64"]
TESTS = ("pytest", "pytest-timeout", "pytest-xdist")


def read_pins(constraints: Path) -> dict[str, str]:
    """Return the requirement with version and hashes of every package of a constraints file, by canonical name."""
    text = re.sub(r"\\\n\s*", " ", constraints.read_text(encoding="utf-8"))
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return {canonicalize_name(re.split(r"[ =;\[]", line, maxsplit=1)[0]): line for line in lines}


def read_names(freeze: Path) -> set[str]:
    """Return the canonical names of the packages in the output of `pip list --format=freeze`."""
    lines = freeze.read_text(encoding="utf-8").splitlines()
    names = {canonicalize_name(re.split(r"[ =@]", line, maxsplit=1)[0]) for line in lines if line.strip()}
    # Two builds of one module, of which a machine has one.
    return names | {"onnxruntime-gpu"} if "onnxruntime" in names else names


def missing_packages(roots: Iterable[str], has: set[str], python: str) -> set[str]:
    """Return the canonical names that `roots` need, all levels down, and that a machine does not have.

    Args:
        roots: Requirements, such as "gtsa-kit[serve]".
        has: Canonical names of the packages on that machine, whose own requirements are taken to be met.
        python: Its Python version, such as "3.12"; the machine runs Linux on x86-64.
    """
    environment = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    environment |= {"platform_system": "Linux", "platform_machine": "x86_64", "implementation_name": "cpython"}
    needed: set[str] = set()
    queue = [Requirement(root) for root in roots]
    seen = set()
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        if name in has or (name, frozenset(requirement.extras)) in seen:
            continue
        seen.add((name, frozenset(requirement.extras)))
        needed.add(name)
        for text in metadata.requires(name) or []:
            child = Requirement(text)
            extras = requirement.extras or {""}
            if child.marker is None or any(child.marker.evaluate({**environment, "extra": e}) for e in extras):
                queue.append(child)
    return needed


def download(pin: str, python: str, folder: Path) -> bool:
    """Download the wheel of a pin for Linux on x86-64, or build it where there is none and it is pure Python.

    Args:
        pin: Line of the constraints file, whose hashes are checked.
        python: Python version of the machine.
        folder: Folder for the wheel.

    Returns:
        Whether the wheel is there.
    """
    with tempfile.TemporaryDirectory() as name:
        requirement = Path(name) / "requirement.txt"
        # A marker would be evaluated for this machine; `missing_packages` evaluated it for the other one.
        requirement.write_text(re.sub(r" ; .*?(?= --hash)", "", pin) + "\n")
        target = ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}"]
        target += [f"--platform={name}" for name in PLATFORMS]
        common = ["--quiet", "--no-deps", "--require-hashes", "-r", str(requirement)]
        pip = [sys.executable, "-m", "pip"]
        downloaded = subprocess.run(
            [*pip, "download", *common, *target, "-d", str(folder)], capture_output=True, check=False
        )
        if downloaded.returncode == 0:
            return True
        subprocess.run([*pip, "wheel", *common, "-w", name], capture_output=True, check=False)
        built = list(Path(name).glob("*-none-any.whl"))
        for wheel in built:
            shutil.move(wheel, folder / wheel.name)
        return bool(built)


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
    has = read_names(options.has) if options.has else set()
    needed = missing_packages([f"gtsa-kit[{options.extras}]", *TESTS], has, options.python) - {"gtsa-kit"}
    pins = read_pins(ROOT / "constraints.txt")
    shutil.rmtree(options.out, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        without = [name for name in sorted(needed) if not download(pins[name], options.python, Path(folder))]
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
