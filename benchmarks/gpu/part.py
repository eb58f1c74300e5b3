"""Process of one part of the GPU checks: python -m gpu.part NAME --rows FILE --work FOLDER ... (started by run.py)."""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CLASSES, IMAGES_PER_CLASS = 4, 8


@dataclass(frozen=True)
class Context:
    """Inputs of a part, and where its rows go."""

    device: str
    """"cuda" or "cpu"."""
    tiny: bool
    """True for small models and few steps."""
    images: Path
    """Class folders of images."""
    work: Path
    """Folder of this part, for files that it makes."""
    rows: Path

    def add(self, what: str, value: Any = "", unit: str = "", **more: Any) -> None:
        """Write one row at once: `aim`, `note`, and `ok`, whose value False fails the part."""
        row = {"what": what, "value": value, "unit": unit, **more}
        with self.rows.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row, default=str) + "\n")

    def lacks(self, modules: Iterable[str], purpose: str) -> bool:
        """Return whether a module is missing, and write that down."""
        missing = [name for name in modules if find_spec(name) is None]
        if missing:
            self.add("lacks", note=f"{', '.join(missing)} not installed: {purpose}")
        return bool(missing)

    def run(self, script: str, arguments: Sequence[object]) -> dict[str, Any]:
        """Run a script of benchmarks/ and return what it wrote with --json.

        Raises:
            RuntimeError: The script failed; the message is the last line that it printed.
        """
        result = self.work / f"{Path(script).stem}.json"
        command = [sys.executable, str(ROOT / "benchmarks" / script), *map(str, arguments), "--json", str(result)]
        child = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        print(child.stdout, flush=True)
        if child.returncode != 0:
            raise RuntimeError(f"{script}: {child.stdout.strip().splitlines()[-1]}")
        content: dict[str, Any] = json.loads(result.read_text())
        return content


def make_images(folder: Path) -> Path:
    """Make class folders of JPEG files: gratings whose angle is the class, with random phase and color."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:240, 0:320] / 24.0
    for label in range(CLASSES):
        angle = np.pi * label / CLASSES
        (folder / f"angle{label}").mkdir(parents=True, exist_ok=True)
        for index in range(IMAGES_PER_CLASS):
            wave = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) + rng.uniform(0, 6.3))
            pixels = 127 + wave[..., None] * rng.uniform(30, 90, 3) + rng.normal(0, 12, (*wave.shape, 3))
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            image.save(folder / f"angle{label}" / f"{index}.jpg", quality=90)
    return folder


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--device", required=True)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--images", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rows", type=Path, required=True)
    options = parser.parse_args()
    work = options.work / options.name
    work.mkdir(parents=True, exist_ok=True)
    images = options.images or make_images(options.work / "images")
    context = Context(options.device, options.tiny, images, work, options.rows)
    if context.lacks(["torch"], "nothing runs without it"):
        return
    if context.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            context.add("lacks", note="no CUDA device; --device cpu --tiny tests this command without one")
            return
    part = import_module(f"gpu.parts.{options.name}")
    if not context.lacks(part.NEEDS, part.__doc__.splitlines()[0]):
        part.run(context)


if __name__ == "__main__":
    main()
