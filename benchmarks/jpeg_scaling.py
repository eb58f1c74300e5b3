"""JPEG files decoded at a reduced scale for an embedding, beside the full decoding: error after the resize, and time.

Run: .venv/bin/python benchmarks/jpeg_scaling.py --images FOLDER [--size 224] [--count 200] [--json FILE]

A JPEG decoder can compute an image at 1/2, 1/4 or 1/8 of its size from the DCT coefficients alone (Pillow's `draft`),
which costs less. The smallest scale is used that is not below the input of the model. Both are resized to it by
Pillow's antialiased bicubic filter, as `gtsa embed` does. Its bound for a faster method is 1/255 for every value.
"""

import argparse
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from gtsa_kit.data.image_files import find_images
from gtsa_kit.evaluation.eval_images import evenly_spaced
from gtsa_kit.files import write_json

Row = dict[str, float | int | str]


def main() -> None:
    """Measure, print the table by scale, and write the results."""
    args = parse_arguments()
    files = [path for path in find_images(args.images).paths if path.suffix.lower() in (".jpg", ".jpeg")]
    rows = [row for path in evenly_spaced(files, args.count) if (row := compare(path, args.size))]
    Console().print(as_table(rows))
    if args.json:
        write_json(args.json, {"settings": {key: str(value) for key, value in vars(args).items()}, "rows": rows})


def parse_arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder with JPEG files")
    parser.add_argument("--size", type=int, default=224, help="side of the model's input in pixels")
    parser.add_argument("--count", type=int, default=200, help="number of images")
    parser.add_argument("--json", type=Path, help="file for the results")
    return parser.parse_args()


def compare(path: Path, size: int) -> Row | None:
    """Return errors in levels of 255 and CPU milliseconds of both ways; None for an image that no scale helps."""
    content = path.read_bytes()
    full, full_ms = timed(lambda: decode(content, None))
    scaled, scaled_ms = timed(lambda: decode(content, size))
    if scaled.size == full.size:
        return None
    exact, resize_ms = timed(lambda: resize(full, size))
    fast, scaled_resize_ms = timed(lambda: resize(scaled, size))
    difference = np.abs(np.asarray(exact, np.int16) - np.asarray(fast, np.int16))
    return {
        "file": path.name,
        "scale": round(full.width / scaled.width),
        "max_error": int(difference.max()),
        "mean_error": float(difference.mean()),
        "share_above_1": float((difference > 1).mean()),
        "full_ms": full_ms,
        "scaled_ms": scaled_ms,
        "resize_ms": resize_ms,
        "scaled_resize_ms": scaled_resize_ms,
    }


def decode(content: bytes, size: int | None) -> Image.Image:
    """Decode a JPEG in RGB, at the smallest scale that covers `size` in both directions if it is given."""
    image = Image.open(BytesIO(content))
    if size is not None:
        image.draft("RGB", (size, size))
    return image.convert("RGB")


def resize(image: Image.Image, size: int) -> Image.Image:
    """Resize as the reference of `gtsa embed` does."""
    return image.resize((size, size), Image.Resampling.BICUBIC)


def timed(run: Callable[[], Image.Image]) -> tuple[Image.Image, float]:
    """Return a result and the CPU milliseconds that it took, the lower of two runs."""
    times = []
    for _ in range(2):
        begin = time.process_time()
        result = run()
        times.append(1e3 * (time.process_time() - begin))
    return result, min(times)


def as_table(rows: list[Row]) -> Table:
    """Build the table by scale."""
    title = "JPEG at a reduced scale, beside the full decoding, after the resize"
    heads = ("images", "largest error", "mean error", "values off by more than 1", "within the bound")
    table = Table("scale", *heads, "decode, CPU ms", "resize, CPU ms", title=title, box=None)
    for scale in sorted({int(row["scale"]) for row in rows}):
        own = [row for row in rows if row["scale"] == scale]
        mean = {key: float(np.mean([float(row[key]) for row in own])) for key in own[0] if key != "file"}
        table.add_row(
            *(f"1/{scale}", str(len(own)), f"{max(int(row['max_error']) for row in own)} of 255"),
            *(f"{mean['mean_error']:.2f}", f"{mean['share_above_1']:.1%}"),
            str(sum(int(row["max_error"]) <= 1 for row in own)),
            f"{mean['full_ms']:.1f} to {mean['scaled_ms']:.1f}",
            f"{mean['resize_ms']:.1f} to {mean['scaled_resize_ms']:.1f}",
        )
    return table


if __name__ == "__main__":
    main()
