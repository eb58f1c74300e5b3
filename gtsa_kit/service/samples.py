"""Sample images of the page."""

import io
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from gtsa_kit.data.image_files import find_images, iter_readable

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
    """Upright image as JPEG bytes, and its name."""

    name: str
    content: bytes


def load_samples(folder: Path | None) -> tuple[Sample, ...]:
    """Load up to `MAX_SAMPLES` images, evenly spaced over the sorted files of a folder.

    Without a folder, the images of the package mvtb-data are used, else the one of matplotlib, else none.
    """
    paths = find_images(folder).paths if folder else find_installed_samples()
    evenly_spaced = paths[:: max(1, len(paths) // MAX_SAMPLES)]
    samples: list[Sample] = []
    for path, image in iter_readable(evenly_spaced):
        image.thumbnail((MAX_SIDE, MAX_SIDE))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=90)
        samples.append(Sample(path.stem, buffer.getvalue()))
        if len(samples) == MAX_SAMPLES:
            break
    return tuple(samples)


def find_installed_samples() -> list[Path]:
    """Return the paths of sample images in installed packages, none if there is no such package."""
    for package, folder, names in SAMPLES_OF_PACKAGES:
        spec = find_spec(package)
        for location in (spec.submodule_search_locations or []) if spec else []:
            if paths := [path for name in names if (path := Path(location, folder, name)).exists()]:
                return paths
    return []
