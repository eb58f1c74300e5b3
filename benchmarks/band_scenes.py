"""Make scenes of 13 bands of 16 bits from photos, for benchmarks of models of channels.

Each band is a mixture of the three colors with its own curve, scale and noise, the same in every scene, as reflectance
is. So the scenes have the structure of photos, and bands that differ.

Run: .venv/bin/python benchmarks/band_scenes.py PHOTOS SCENES [--count 24] [--side 264] [--bands 13]
"""

import argparse
from pathlib import Path

import numpy as np
import tifffile

from gtsa_kit.data.image_files import sample_images


def scene(pixels: np.ndarray, bands: int, seed: int) -> np.ndarray:
    """Return bands (bands, H, W) uint16 of colors (H, W, 3) uint8."""
    kinds, noise = np.random.default_rng(0), np.random.default_rng(seed)
    mixture = kinds.dirichlet([0.5] * 3, bands)
    curve, scale, offset = (
        kinds.uniform(0.6, 1.6, bands),
        kinds.uniform(800, 8000, bands),
        kinds.uniform(100, 900, bands),
    )
    shares = (pixels / 255 @ mixture.T) ** curve
    values = offset + scale * shares + 0.01 * scale * noise.standard_normal(shares.shape)
    return np.moveaxis(values.clip(0, 65535).round().astype(np.uint16), -1, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("scenes", type=Path)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--side", type=int, default=264)
    parser.add_argument("--bands", type=int, default=13)
    arguments = parser.parse_args()
    arguments.scenes.mkdir(parents=True, exist_ok=True)
    images, _ = sample_images(arguments.photos, arguments.count)
    for number, image in enumerate(images):
        pixels = np.asarray(image.resize((arguments.side, arguments.side)))
        values = scene(pixels, arguments.bands, number)
        tifffile.imwrite(arguments.scenes / f"{number}.tif", values, photometric="minisblack", compression="zlib")


if __name__ == "__main__":
    main()
