"""Models whose features are known, and images to go with them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from gtsa_kit.evaluation.models import Model, random_runner
from gtsa_kit.export import Runner
from gtsa_kit.models.encoder import MEAN, STD


class Fake(Runner):
    """`tokens` makes (D, h, w) of the (3, h, w) mean colors of the patches, 0 to 255; the embedding is their mean."""

    provider = "fake"

    def __init__(self, tokens: Callable[[np.ndarray], np.ndarray]) -> None:
        self.manifest = random_runner("vit_test", 0, "cpu").manifest
        self.tokens = tokens
        self.seen: list[np.ndarray] = []

    def _run(self, images: np.ndarray) -> Sequence[np.ndarray]:
        self.seen.extend(images)
        b, _, height, width = images.shape
        colors = 255 * (images * np.array(STD)[:, None, None] + np.array(MEAN)[:, None, None])
        patches = colors.reshape(b, 3, height // 16, 16, width // 16, 16).mean(axis=(3, 5))
        maps = np.stack([self.tokens(one) for one in patches]).astype(np.float32)
        return [maps.mean(axis=(2, 3)), maps]


def fake(tokens: Callable[[np.ndarray], np.ndarray], name: str = "fake") -> Model:
    return Model(name, Fake(tokens), None)


def colors(patches: np.ndarray) -> np.ndarray:
    return patches


def constant(patches: np.ndarray) -> np.ndarray:
    return np.ones_like(patches)


def ramp(path: Path, width: int = 240, height: int = 180) -> Path:
    """Red says how far to the right, green how far down: the direction of a color names its place."""
    y, x = np.mgrid[:height, :width]
    channels = [255 * x / (width - 1), 255 * y / (height - 1), np.full((height, width), 200.0)]
    Image.fromarray(np.stack(channels, -1).round().astype(np.uint8)).save(path)
    return path


def noise(path: Path, seed: int, width: int = 90, height: int = 70) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return path


def odd_ones(folder: Path) -> list[Path]:
    """Images of one pixel, of a line, of ten by ten, and two that are none."""
    sizes = {"one.png": (1, 1), "line.png": (40, 1), "ten.png": (10, 10)}
    for seed, (name, (width, height)) in enumerate(sizes.items()):
        noise(folder / name, seed, width, height)
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "torn.png").write_bytes((folder / "ten.png").read_bytes()[:60])
    return [folder / name for name in (*sizes, "empty.jpg", "torn.png")]
