"""Image files of every kind, broken in every way that comes to mind; without end, the same for the same seed."""

import struct
from collections.abc import Iterator

import numpy as np
from PIL import Image

from helpers.image_samples import encoded, png_by_hand, scene, tiff_by_hand


def seeds() -> list[bytes]:
    """Sound files, small: every kind, and the modes and ways of storing that decoders have code for."""
    rgb = scene(30, 44)
    image = Image.fromarray(rgb)
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [Image.fromarray(np.roll(scene(20, 24), i, 1)) for i in range(3)]
    found = [
        encoded(rgb, "JPEG", quality=80, exif=exif),
        encoded(rgb, "JPEG", progressive=True, optimize=True),
        encoded(image.convert("CMYK"), "JPEG"),
        encoded(image.convert("L"), "JPEG", restart_marker_blocks=2),
        encoded(rgb, "PNG"),
        encoded(image.quantize(16), "PNG", bits=4),
        encoded(image.convert("RGBA"), "PNG"),
        encoded(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        png_by_hand(rgb.astype(np.uint16) * 257),
        encoded(rgb, "WEBP", quality=70, exif=exif),
        encoded(image.convert("RGBA"), "WEBP", lossless=True),
        encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        encoded(rgb, "BMP"),
        encoded(image.quantize(8), "BMP"),
        encoded(image.quantize(32), "GIF"),
        encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        tiff_by_hand(rgb.astype(np.uint16) * 257, ">", 5),
    ]
    for compression in ("raw", "tiff_lzw", "tiff_deflate", "jpeg", "packbits"):
        found.append(encoded(rgb, "TIFF", compression=compression))
    found.append(encoded(image.convert("1"), "TIFF", compression="group4"))
    return found


def mutants(seed: int, count: int) -> Iterator[bytes]:
    """`count` files, each a sound one with a few changes."""
    rng = np.random.default_rng(seed)
    sound = seeds()
    for i in range(count):
        content = bytearray(sound[i % len(sound)])
        for _ in range(int(rng.integers(1, 4))):
            content = CHANGES[int(rng.integers(len(CHANGES)))](content, rng, sound)
        yield bytes(content)


def flip(content: bytearray, rng: np.random.Generator, sound: list[bytes]) -> bytearray:
    """Bits, anywhere."""
    for _ in range(int(rng.integers(1, 12))):
        if content:
            content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
    return content


def flip_header(content: bytearray, rng: np.random.Generator, sound: list[bytes]) -> bytearray:
    """Bytes near the beginning, where sizes are."""
    for _ in range(int(rng.integers(1, 5))):
        if content:
            content[int(rng.integers(min(len(content), 80)))] = int(rng.integers(256))
    return content


def cut(content: bytearray, rng: np.random.Generator, sound: list[bytes]) -> bytearray:
    """Off the end."""
    return content[: int(rng.integers(len(content) + 1))]


def drop(content: bytearray, rng: np.random.Generator, sound: list[bytes]) -> bytearray:
    """A piece of the middle."""
    start = int(rng.integers(len(content) + 1))
    del content[start : start + int(rng.integers(1, 64))]
    return content


def repeat(content: bytearray, rng: np.random.Generator, sound: list[bytes]) -> bytearray:
    """A piece of the middle, several times."""
    start = int(rng.integers(len(content) + 1))
    return content[:start] + content[start : start + int(rng.integers(1, 200))] * 5 + content[start:]


def number(content: bytearray, rng: np.random.Generator, sound: list[bytes]) -> bytearray:
    """A number that counters and sizes don't like, in either order of bytes."""
    value = int(rng.choice([0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]))
    packed = struct.pack(">I" if rng.random() < 0.5 else "<I", value)
    if len(content) > 8:
        start = int(rng.integers(min(len(content) - 4, 200)))
        content[start : start + 4] = packed
    return content


def splice(content: bytearray, rng: np.random.Generator, sound: list[bytes]) -> bytearray:
    """The end of another file."""
    other = sound[int(rng.integers(len(sound)))]
    return content[: int(rng.integers(len(content) + 1))] + other[int(rng.integers(len(other))) :]


def noise(content: bytearray, rng: np.random.Generator, sound: list[bytes]) -> bytearray:
    """Random bytes after a sound beginning."""
    return content[: int(rng.integers(4, 64))] + rng.bytes(int(rng.integers(400)))


CHANGES = (flip, flip, flip_header, cut, drop, repeat, number, number, splice, noise)
