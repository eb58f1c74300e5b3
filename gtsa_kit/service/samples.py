"""Images that the page offers to those who have none at hand."""

import io
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from gtsa_kit.data.image_files import find_images, iter_readable

MOST: Final = 8
LONG_SIDE: Final = 1024
# Of mvtb-data (MIT): two views of a building and of a tower, and scenes.
CHOSEN: Final = (
    "building2-1.png building2-2.png eiffel-1.png eiffel-2.png notre-dame.png road.png church.jpg flowers1.png".split()
)


@dataclass(frozen=True)
class Sample:
    """One image, upright, as JPEG."""

    name: str
    content: bytes


def load_samples(folder: Path | None) -> list[Sample]:
    """Some of a folder, evenly spread; without one, of the package mvtb-data or else the one that matplotlib has."""
    paths = find_images(folder).paths if folder else installed()
    spread = paths[:: max(1, len(paths) // MOST)]
    found = []
    for path, image in iter_readable(spread):
        image.thumbnail((LONG_SIDE, LONG_SIDE))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=90)
        found.append(Sample(path.stem, buffer.getvalue()))
        if len(found) == MOST:
            break
    return found


def installed() -> list[Path]:
    """What packages have brought along."""
    package = find_spec("mvtbdata")
    if package is not None and package.submodule_search_locations:
        images = Path(package.submodule_search_locations[0]) / "images"
        found = [path for name in CHOSEN if (path := images / name).exists()]
        if found:
            return found
    from matplotlib import cbook

    return [Path(cbook._get_data_path("sample_data", "grace_hopper.jpg"))]
