"""Process of one part of the GPU checks: python -m gpu.part NAME --rows FILE --work FOLDER ... (started by run.py)."""

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from gpu.results import LACKS, NOT_MEASURED

ROOT = Path(__file__).resolve().parents[2]
OWN_MODULES = ("gpu", "gtsa_kit", "helpers")
"""Top-level modules of the checkout: one that is missing is a fault, not a library that the machine lacks."""


@dataclass(frozen=True)
class Context:
    """Inputs of a part, and where its rows go."""

    device: str
    """"cuda" or "cpu"."""
    tiny: bool
    """True for small models and few steps."""
    images: Path
    """Folder of images."""
    labeled: Path
    """Class folders of images."""
    work: Path
    """Folder of this part, for files that it makes."""
    rows: Path
    """File of the rows that this part writes."""
    deadline: float
    """End of the time of this part, by `time.monotonic`; run.py kills it soon after."""

    def add(self, what: str, value: Any = "", unit: str = "", **more: Any) -> None:
        """Write one row at once: `aim`, `note`, and `ok`, whose value False fails the part."""
        row = {"what": what, "value": value, "unit": unit, **more}
        with self.rows.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row, default=str) + "\n")

    def lacks(self, modules: Iterable[str], purpose: str) -> bool:
        """Return whether a module is missing, and write that down."""
        missing = [name for name in modules if find_spec(name) is None]
        if missing:
            self.add(LACKS, ", ".join(missing), note=purpose)
        return bool(missing)

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    def has_time(self, seconds: float, purpose: str) -> bool:
        """Return whether `seconds` are left; if not, write down what is not measured."""
        enough = self.seconds_left > seconds
        if not enough:
            self.add(NOT_MEASURED, note=purpose)
        return enough

    def run(self, script: str, arguments: Sequence[object]) -> dict[str, Any]:
        """Run a script of benchmarks/ and return what it wrote with --json; for errors see `call`."""
        result = self.work / f"{Path(script).stem}.json"
        call([ROOT / "benchmarks" / script, *arguments, "--json", result])
        content: dict[str, Any] = json.loads(result.read_text())
        return content


def call(arguments: Sequence[object]) -> None:
    """Run Python with the given arguments and print what it prints.

    Raises:
        ModuleNotFoundError: It ended because a module is missing.
        RuntimeError: It failed; the message is the last line that it printed.
    """
    command = [sys.executable, *map(str, arguments)]
    child = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    print(child.stdout, flush=True)
    if child.returncode == 0:
        return
    last = (child.stdout.strip().splitlines() or [f"exit code {child.returncode}"])[-1]
    if missing := re.search(r"ModuleNotFoundError: No module named '([\w.]+)'", last):
        raise ModuleNotFoundError(last, name=missing[1])
    raise RuntimeError(f"{Path(command[1]).name}: {last}")


def make_images(folder: Path, classes: int, per_class: int) -> Path:
    """Make class folders of JPEG files, once: gratings whose angle is the class, with random phase and color."""
    import numpy as np
    from PIL import Image

    if folder.exists():
        return folder
    unfinished = folder.with_name(f"{folder.name}.tmp")
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:240, 0:320] / 24.0
    for label in range(classes):
        angle = np.pi * label / classes
        (unfinished / f"angle{label}").mkdir(parents=True, exist_ok=True)
        for index in range(per_class):
            wave = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) + rng.uniform(0, 6.3))
            pixels = 127 + wave[..., None] * rng.uniform(30, 90, 3) + rng.normal(0, 12, (*wave.shape, 3))
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            image.save(unfinished / f"angle{label}" / f"{index}.jpg", quality=90)
    return unfinished.rename(folder)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line that run.py gives."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--device", required=True)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--images", type=Path)
    parser.add_argument("--labeled", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True, help="time of the part")
    return parser.parse_args()


def make_context(options: argparse.Namespace) -> Context:
    """Return the inputs of a part; images are made where none are given."""
    work = options.work / options.name
    shutil.rmtree(work, ignore_errors=True)  # of an earlier run
    work.mkdir(parents=True)
    deadline = time.monotonic() + options.seconds
    images = options.images or make_images(options.work / "images", 4, 8 if options.tiny else 128)
    labeled = options.labeled or images
    return Context(options.device, options.tiny, images, labeled, work, options.rows, deadline)


def cuda_is_missing(context: Context) -> bool:
    """Return whether there is no CUDA device, and write that down."""
    import torch

    missing = not torch.cuda.is_available()
    if missing:
        context.add(LACKS, "no CUDA device", note="--device cpu --tiny tests this command without one")
    return missing


def run_part(part: ModuleType, context: Context) -> None:
    """Run a part; a module that is missing without being named in its NEEDS is written down as well."""
    purpose = (part.__doc__ or "").splitlines()[0]
    if context.lacks(part.NEEDS, purpose):
        return
    try:
        part.run(context)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in OWN_MODULES:
            raise
        context.add(LACKS, error.name, note=purpose)


def main() -> None:
    """Run one part."""
    options = parse_arguments()
    part = import_module(f"gpu.parts.{options.name}")
    if missing := [name for name in ("torch", "numpy", "PIL") if find_spec(name) is None]:
        row = {"what": LACKS, "value": ", ".join(missing), "note": "nothing runs without it"}
        options.rows.write_text(json.dumps(row) + "\n", encoding="utf-8")
        return
    context = make_context(options)
    if context.device == "cpu" or not cuda_is_missing(context):
        run_part(part, context)


if __name__ == "__main__":
    main()
