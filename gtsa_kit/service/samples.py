"""Sample images of the page."""

import io
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from PIL import Image

from gtsa_kit.data.image_files import find_images, iter_readable
from gtsa_kit.data.image_io import MAX_PIXELS, ImageError, read_file
from gtsa_kit.models.pictures import read_picture
from gtsa_kit.models.preprocessing import Preprocessing

MAX_SAMPLES: Final = 8
"""Maximum number of sample images."""
MAX_SIDE: Final = 1024
"""Length of the longer side of a sample, pixels."""
SAMPLES_OF_PACKAGES: Final = (
    # Two views each of a building and of a tower, and single scenes (MIT license).
    (
        "mvtbdata",
        "images",
        "building2-1.png building2-2.png eiffel-1.png eiffel-2.png notre-dame.png road.png church.jpg "
        "flowers1.png".split(),
    ),
    ("matplotlib", "mpl-data/sample_data", ["grace_hopper.jpg"]),
)
"""Package, folder in it, and names of sample images; the packages are not imported."""


@dataclass(frozen=True)
class Sample:
    """Picture of an image and its name."""

    name: str
    content: bytes
    """JPEG of the upright picture."""
    file: bytes = b""
    """Content of the file; empty for a model of 8-bit RGB, which takes the picture."""


def load_samples(
    folder: Path | None,
    preprocessing: Preprocessing | None = None,
    display_channels: tuple[int, ...] = (),
    max_bytes: int = MAX_PIXELS,
) -> tuple[Sample, ...]:
    """Load up to `MAX_SAMPLES` images, evenly spaced over the sorted files of a folder.

    Without a folder, the images of the package mvtb-data are used, else the one of matplotlib, else none; for a model
    of other channels than RGB none.

    Args:
        folder: Folder of images, or None.
        preprocessing: Preprocessing of the model; None for 8-bit RGB.
        display_channels: Channels that pictures show.
        max_bytes: Larger files of other channels than RGB are passed over, as they stay in memory.
    """
    preprocessing = preprocessing or Preprocessing()
    if folder is None:
        paths = find_installed_samples() if preprocessing.is_rgb else []
    else:
        paths = find_images(folder, channels=not preprocessing.is_rgb).paths
    evenly_spaced = paths[:: max(1, len(paths) // MAX_SAMPLES)]
    samples: list[Sample] = []
    for path, image, file in _open(evenly_spaced, preprocessing, display_channels, max_bytes):
        image.thumbnail((MAX_SIDE, MAX_SIDE))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=90)
        samples.append(Sample(path.stem, buffer.getvalue(), file))
        if len(samples) == MAX_SAMPLES:
            break
    return tuple(samples)


def _open(
    paths: list[Path], preprocessing: Preprocessing, display_channels: tuple[int, ...], max_bytes: int
) -> Iterator[tuple[Path, Image.Image, bytes]]:
    """Yield path, picture and content of the files that can be read; no content for 8-bit RGB."""
    if preprocessing.is_rgb:
        yield from ((path, image, b"") for path, image in iter_readable(paths))
        return
    for path in paths:
        with suppress(ImageError):
            if path.stat().st_size <= max_bytes:
                content = read_file(path)
                yield path, read_picture(content, path.name, preprocessing, display_channels), content


def find_installed_samples() -> list[Path]:
    """Return the paths of sample images in installed packages, none if there is no such package."""
    for package, folder, names in SAMPLES_OF_PACKAGES:
        spec = find_spec(package)
        for location in (spec.submodule_search_locations or []) if spec else []:
            if paths := [path for name in names if (path := Path(location, folder, name)).exists()]:
                return paths
    return []
