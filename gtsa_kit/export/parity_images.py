"""Images that parity is measured on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gtsa_kit.data.image_files import sample_images
from gtsa_kit.data.image_io import open_image
from gtsa_kit.models.channel_images import sample_channels
from gtsa_kit.models.preprocessing import InputImage, Preprocessing

MAX_IMAGES: Final = 7
"""Maximum number of images: the largest batch of `spec.PARITY_CASES`, so that no batch repeats an image."""


@dataclass(frozen=True)
class ParityImages:
    """Images to compare outputs on, with their names and a description of where they came from."""

    images: Sequence[InputImage]
    origin: str
    names: list[str]


def load_parity_images(folder: Path | None, preprocessing: Preprocessing | None = None) -> ParityImages:
    """Load up to `MAX_IMAGES` images, evenly spaced over a folder.

    Args:
        folder: Folder of images; None takes overlapping crops of a sample image that matplotlib contains.
        preprocessing: Preprocessing of the model; None for one of 8-bit RGB.

    Raises:
        ValueError: No image in the folder can be read; or the model takes other channels, and there is no folder.
    """
    if preprocessing is not None and not preprocessing.is_rgb:
        return _channel_images(folder, preprocessing)
    if folder is None:
        return _sample_crops()
    images, names = sample_images(folder, MAX_IMAGES)
    return ParityImages(images, f"{len(images)} images of {folder.name}", names)


def _channel_images(folder: Path | None, preprocessing: Preprocessing) -> ParityImages:
    if folder is None:
        raise ValueError(
            f"the model takes {len(preprocessing.mean)} channels, and its training images are not there; name a folder "
            "of such images with --images"
        )
    images, names = sample_channels(folder, MAX_IMAGES, preprocessing)
    return ParityImages(images, f"{len(images)} images of {folder.name}", names)


def _sample_crops() -> ParityImages:
    from matplotlib import cbook

    image = open_image(Path(cbook._get_data_path("sample_data", "grace_hopper.jpg")))
    side = min(image.size) // 2
    corners = [(x * side // 2, y * side // 2) for y in range(3) for x in range(3)][:MAX_IMAGES]
    crops = [image.crop((x, y, x + side, y + side)) for x, y in corners]
    return ParityImages(crops, "crops of matplotlib's sample image", [f"crop at {x}, {y}" for x, y in corners])
