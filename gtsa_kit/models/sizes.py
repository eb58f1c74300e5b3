"""Sizes of the encoder's input: both sides are multiples of the patch size."""

from typing import Any

from PIL import Image


def nearest_side(pixels: float, patch: int) -> int:
    """Return the positive multiple of the patch size that is nearest to a length in pixels."""
    return max(1, round(pixels / patch)) * patch


def check_sides(height: int, width: int, patch: int) -> None:
    """Check the size of an input, of which the encoder would cut the rest that fills no patch.

    Raises:
        ValueError: A side is no positive multiple of the patch size; the message names the nearest ones.
    """
    for name, side in (("height", height), ("width", width)):
        if side < patch or side % patch:
            below = side // patch * patch
            nearest = f"{below} or {below + patch}" if below else str(patch)
            raise ValueError(f"{name} must be a multiple of {patch}, got {side}; the nearest is {nearest}")


def check_image(image: Any, size: Any) -> tuple[int, int]:
    """Check an image and the (height, width) to resize it to, and return the size.

    Raises:
        ValueError: The image is no RGB image of Pillow, or the size is no pair of positive whole numbers.
    """
    if not isinstance(image, Image.Image):
        hint = "open a file with gtsa_kit.open_image, or make one from RGB uint8 with PIL.Image.fromarray"
        raise ValueError(f"image must be a PIL image, got {type(image).__name__}; {hint}")
    if image.mode != "RGB":
        hint = "convert it with image.convert('RGB'), or open the file with gtsa_kit.open_image"
        raise ValueError(f"image must have the mode RGB, got {image.mode}; {hint}")
    return check_size(size)


def check_size(size: Any) -> tuple[int, int]:
    """Return a (height, width) to resize an image to.

    Raises:
        ValueError: It is no pair of positive whole numbers.
    """
    if not isinstance(size, tuple | list) or len(size) != 2 or any(int(side) != side or side < 1 for side in size):
        raise ValueError(f"size must be (height, width) in pixels, got {size!r}")
    return int(size[0]), int(size[1])
