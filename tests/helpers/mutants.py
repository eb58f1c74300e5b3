"""Mutated image files for fuzzing: every file format, random changes, reproducible by seed."""

import struct
from collections.abc import Iterator

import numpy as np
from PIL import Image

from helpers.image_samples import encoded, png_by_hand, scene, tiff_by_hand


def valid_files() -> list[bytes]:
    """Return small valid files: every file format with the modes and compressions that decoders implement."""
    rgb = scene(30, 44)
    image = Image.fromarray(rgb)
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [Image.fromarray(np.roll(scene(20, 24), i, 1)) for i in range(3)]
    files = [
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
        files.append(encoded(rgb, "TIFF", compression=compression))
    files.append(encoded(image.convert("1"), "TIFF", compression="group4"))
    return files


def mutated_files(seed: int, count: int) -> Iterator[bytes]:
    """Yield `count` files of `valid_files`, each with one to three random changes."""
    return mutated(valid_files(), seed, count)


def mutated(valid: list[bytes], seed: int, count: int) -> Iterator[bytes]:
    """Yield `count` files, each a valid one with one to three random changes."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        content = bytearray(valid[i % len(valid)])
        for _ in range(int(rng.integers(1, 4))):
            content = CHANGES[int(rng.integers(len(CHANGES)))](content, rng, valid)
        yield bytes(content)


def flip_bits(content: bytearray, rng: np.random.Generator, valid: list[bytes]) -> bytearray:
    """Flip bits anywhere."""
    for _ in range(int(rng.integers(1, 12))):
        if content:
            content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
    return content


def replace_header_bytes(content: bytearray, rng: np.random.Generator, valid: list[bytes]) -> bytearray:
    """Replace bytes near the beginning, where sizes are stored."""
    for _ in range(int(rng.integers(1, 5))):
        if content:
            content[int(rng.integers(min(len(content), 80)))] = int(rng.integers(256))
    return content


def truncate(content: bytearray, rng: np.random.Generator, valid: list[bytes]) -> bytearray:
    """Cut the end off."""
    return content[: int(rng.integers(len(content) + 1))]


def delete_piece(content: bytearray, rng: np.random.Generator, valid: list[bytes]) -> bytearray:
    """Delete a piece of the middle."""
    start = int(rng.integers(len(content) + 1))
    del content[start : start + int(rng.integers(1, 64))]
    return content


def repeat_piece(content: bytearray, rng: np.random.Generator, valid: list[bytes]) -> bytearray:
    """Repeat a piece of the middle."""
    start = int(rng.integers(len(content) + 1))
    return content[:start] + content[start : start + int(rng.integers(1, 200))] * 5 + content[start:]


def write_boundary_value(content: bytearray, rng: np.random.Generator, valid: list[bytes]) -> bytearray:
    """Write a boundary value for counters and sizes, in either byte order."""
    value = int(rng.choice([0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]))
    packed = struct.pack(">I" if rng.random() < 0.5 else "<I", value)
    if len(content) > 8:
        start = int(rng.integers(min(len(content) - 4, 200)))
        content[start : start + 4] = packed
    return content


def splice(content: bytearray, rng: np.random.Generator, valid: list[bytes]) -> bytearray:
    """Append the end of another file."""
    other = valid[int(rng.integers(len(valid)))]
    return content[: int(rng.integers(len(content) + 1))] + other[int(rng.integers(len(other))) :]


def append_noise(content: bytearray, rng: np.random.Generator, valid: list[bytes]) -> bytearray:
    """Replace all but the beginning by random bytes."""
    return content[: int(rng.integers(4, 64))] + rng.bytes(int(rng.integers(400)))


CHANGES = (
    flip_bits,
    flip_bits,
    replace_header_bytes,
    truncate,
    delete_piece,
    repeat_piece,
    write_boundary_value,
    write_boundary_value,
    splice,
    append_noise,
)
