"""Small labeled datasets and run settings for the evaluations."""

from pathlib import Path

import numpy as np
from PIL import Image

from gtsa_kit.config import RunConfig, load_config

CLASS_COLORS = {"blau": (30, 60, 200), "gruen": (40, 180, 60), "rot": (210, 50, 40)}
BLOCK_COLORS = np.array([[210, 40, 40], [40, 180, 60], [30, 60, 220]], np.uint8)


def write_color_image(path: Path, color: tuple[int, int, int], rng: np.random.Generator) -> None:
    """Write an image of one color with grain, of a class that any features separate."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.asarray(color) + rng.integers(-12, 13, (40, 48, 3))
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


def write_color_classes(folder: Path) -> Path:
    """Write twelve images of each of three classes, with names in Unicode."""
    rng = np.random.default_rng(0)
    for name, color in CLASS_COLORS.items():
        for index in range(12):
            write_color_image(folder / name / f"bild ä{index}.png", color, rng)
    return folder


def write_masked_image(root: Path, name: str, rng: np.random.Generator, size: tuple[int, int] = (64, 96)) -> np.ndarray:
    """Write an image of colored blocks, aligned with the patches, and its index mask; return the mask."""
    blocks = rng.integers(0, 3, (size[0] // 16, size[1] // 16))
    blocks.flat[:3] = 0, 1, 2
    mask = np.kron(blocks, np.ones((16, 16), int)).astype(np.uint8)
    pixels = BLOCK_COLORS[mask].astype(int) + rng.integers(-9, 10, (*size, 3))
    for kind in ("images", "masks"):
        (root / kind / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / "images" / f"{name}.png")
    Image.fromarray(mask).save(root / "masks" / f"{name}.png")
    return mask


def write_blocks(folder: Path) -> Path:
    """Write ten training and four validation images with masks."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 10), ("val", 4)):
        for index in range(count):
            write_masked_image(folder / split, f"ä{index}", rng)
    return folder


def quick_config(images: Path, tiny: dict[str, object], **settings: object) -> RunConfig:
    """Return the settings of a run of three steps."""
    return load_config("quick", None, {**tiny, "data": str(images), "train.steps": 3, **settings})
