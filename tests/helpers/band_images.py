"""Small labeled images of several bands of 16 bits, written by tifffile and numpy."""

from pathlib import Path

import numpy as np

BANDS = 5
BAND_LEVELS = np.random.default_rng(7).integers(300, 9000, (3, BANDS))
"""Level of each band in each of three classes."""
NODATA = 0


def band_blocks(rng: np.random.Generator, size: tuple[int, int] = (64, 80)) -> tuple[np.ndarray, np.ndarray]:
    """Return samples (H, W, BANDS) uint16 of blocks aligned with the patches, and their class numbers (H, W) uint8."""
    blocks = rng.integers(0, 3, (size[0] // 16, size[1] // 16))
    blocks.flat[:3] = 0, 1, 2
    mask = np.kron(blocks, np.ones((16, 16), int)).astype(np.uint8)
    return (BAND_LEVELS[mask] + rng.integers(0, 200, (*size, BANDS))).astype(np.uint16), mask


def write_bands(path: Path, samples: np.ndarray, nodata: bool = False) -> None:
    """Write samples (H, W, N) as a TIFF of planes; with `nodata`, its tag says that `NODATA` is none."""
    import tifffile

    tags = [(42113, "s", 0, str(NODATA), True)] if nodata else []
    bands = np.moveaxis(samples, -1, 0)
    tifffile.imwrite(path, bands, photometric="minisblack", planarconfig="separate", compression="zlib", extratags=tags)


def write_labeled_bands(folder: Path, train: int = 8, val: int = 3) -> Path:
    """Write images with masks: of every second one a corner holds no data; every third mask is a GeoTIFF."""
    import tifffile
    from PIL import Image

    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        images, masks = folder / split / "images", folder / split / "masks"
        images.mkdir(parents=True)
        masks.mkdir()
        for index in range(count):
            samples, mask = band_blocks(rng)
            if index == 1:
                np.save(images / f"{index}.npy", samples)
            else:
                samples[:16, :24] = samples[:16, :24] if index % 2 else NODATA
                write_bands(images / f"{index}.tif", samples, nodata=True)
            if index % 3:
                Image.fromarray(mask).save(masks / f"{index}.png")
            else:
                mask[-16:, :8] = 99
                tags = [(42113, "s", 0, "99", True)]
                tifffile.imwrite(masks / f"{index}.tif", mask, photometric="minisblack", extratags=tags)
    return folder


def write_band_encoder(folder: Path, bands: int = BANDS, dtype: str = "uint16") -> Path:
    """Write a run of random weights for bands; timm's initial biases and positions are too regular to reveal errors."""
    import torch

    from gtsa_kit.models.architecture import ARCHITECTURES
    from gtsa_kit.models.encoder_spec import EncoderSpec
    from gtsa_kit.models.preprocessing import Preprocessing, Samples
    from gtsa_kit.models.weights import save_encoder

    mean, std = (4000.0,) * bands, (2500.0,) * bands
    samples = Samples(dtype, (1.0,) * bands, (9500.0,) * bands, colors=False)
    preprocessing = Preprocessing(size=64, mean=mean, std=std, samples=samples)
    spec = EncoderSpec(ARCHITECTURES["vit_test"].with_channels(bands), preprocessing)
    torch.manual_seed(0)
    weights = spec.build().vit.state_dict()
    varied = {n: t + torch.randn_like(t) * (0.3 if t.ndim < 2 else 0.02) for n, t in weights.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_encoder(folder, varied, spec, {})
    return folder
