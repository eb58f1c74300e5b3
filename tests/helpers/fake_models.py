"""Models with known features, and images for them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from gtsa_kit.evaluation.models import Model, random_runner
from gtsa_kit.export import Runner
from gtsa_kit.models.architecture import ARCHITECTURES
from gtsa_kit.models.preprocessing import MEAN, STD


class FakeRunner(Runner):
    """Runner whose tokens are a function of the mean colors of the patches.

    `tokens` maps (3, h, w) mean colors, 0 to 255, to (D, h, w) tokens. The embedding is their mean.
    """

    provider = "fake"

    def __init__(self, tokens: Callable[[np.ndarray], np.ndarray], patch: int = 16) -> None:
        plain = ARCHITECTURES["vit_test"]
        architecture = replace(plain, timm_kwargs={**plain.timm_kwargs, "patch_size": patch})
        self.manifest = random_runner(architecture, 0, "cpu").manifest
        self.tokens = tokens
        self.inputs: list[np.ndarray] = []

    def _run(self, images: np.ndarray) -> Sequence[np.ndarray]:
        self.inputs.extend(images)
        b, _, height, width = images.shape
        pixels = 255 * (images * np.array(STD)[:, None, None] + np.array(MEAN)[:, None, None])
        p = self.manifest.patch
        patches = pixels.reshape(b, 3, height // p, p, width // p, p).mean(axis=(3, 5))
        maps = np.stack([self.tokens(one) for one in patches]).astype(np.float32)
        return [maps.mean(axis=(2, 3)), maps]


def fake_model(tokens: Callable[[np.ndarray], np.ndarray], name: str = "fake", patch: int = 16) -> Model:
    return Model(name, FakeRunner(tokens, patch), None)


def color_tokens(patches: np.ndarray) -> np.ndarray:
    return patches


def constant_tokens(patches: np.ndarray) -> np.ndarray:
    return np.ones_like(patches)


def write_gradient(path: Path, width: int = 240, height: int = 180) -> Path:
    """Write an image whose red grows to the right and whose green grows downwards: each color encodes its position."""
    y, x = np.mgrid[:height, :width]
    channels = [255 * x / (width - 1), 255 * y / (height - 1), np.full((height, width), 200.0)]
    Image.fromarray(np.stack(channels, -1).round().astype(np.uint8)).save(path)
    return path


def write_noise(path: Path, seed: int, width: int = 90, height: int = 70) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return path


def write_edge_cases(folder: Path) -> list[Path]:
    """Write images of 1 x 1, 40 x 1 and 10 x 10 pixels, an empty file and a truncated one."""
    sizes = {"pixel.png": (1, 1), "line.png": (40, 1), "ten.png": (10, 10)}
    for seed, (name, (width, height)) in enumerate(sizes.items()):
        write_noise(folder / name, seed, width, height)
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "truncated.png").write_bytes((folder / "ten.png").read_bytes()[:60])
    return [folder / name for name in (*sizes, "empty.jpg", "truncated.png")]
