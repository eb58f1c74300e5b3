"""Tiny encoders for images of other channels than 8-bit RGB, and files for them by independent writers."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gtsa_kit.models.architecture import ARCHITECTURES
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.encoder_spec import EncoderSpec
from gtsa_kit.models.preprocessing import Preprocessing, Samples
from gtsa_kit.models.weights import save_encoder

BANDS = 5


def channel_spec(count: int = BANDS, dtype: str = "uint16", size: int = 64) -> EncoderSpec:
    """Return an encoder for samples of `bands`, each channel with another mean and spread."""
    scale = 1 / 255 if dtype == "uint8" else 1.0
    ramp = tuple(float(20 + 15 * i) for i in range(count))
    mean, std = (tuple(scale * part * value for value in ramp) for part in (2.0, 0.5))
    low, high = (0.0,) * count, tuple(4 * value for value in ramp)
    samples = Samples(dtype, low, high, clip=False, colors=False)
    preprocessing = Preprocessing(size, mean=mean, std=std, samples=samples)
    return EncoderSpec(ARCHITECTURES["vit_test"].with_channels(count), preprocessing)


def save_channel_encoder(folder: Path, count: int = BANDS, dtype: str = "uint16") -> Path:
    """Save an encoder with random weights and return its file."""
    torch.manual_seed(0)
    spec = channel_spec(count, dtype)
    encoder: Encoder = spec.build()
    with torch.no_grad():
        for parameter in encoder.vit.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.08)
    folder.mkdir(parents=True, exist_ok=True)
    return save_encoder(folder, encoder.vit.state_dict(), spec, {})


def bands(seed: int = 0, count: int = BANDS, dtype: str = "uint16", height: int = 36, width: int = 50) -> np.ndarray:
    """Return smooth samples (H, W, count), most of them in the range of the encoder."""
    rng = np.random.default_rng(seed)
    ramp = 20 + 15 * np.arange(count)
    y, x = np.mgrid[:height, :width]
    waves = np.sin(x[..., None] * rng.random(count) / 3 + y[..., None] * rng.random(count) / 4 + 6 * rng.random(count))
    return (ramp * (2 + waves)).astype(dtype)


def valid_files() -> list[bytes]:
    """Return small valid files for the default encoder: containers, layouts and compressions."""
    planes = np.moveaxis(bands(1), -1, 0)
    return [
        tiff(bands(0), compression="zlib", predictor=True),
        tiff(planes, planarconfig="separate", tile=(16, 16), compression="lzw"),
        tiff(planes, planarconfig=None),
        tiff(bands(2), tile=(16, 16), extratags=[(274, "H", 1, 6, True), (42113, "s", 0, "0", True)]),
        npy(bands(4)),
        npy(np.moveaxis(bands(5), -1, 0)),
    ]


def npy(values: np.ndarray) -> bytes:
    """Return the file that numpy writes."""
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=True)
    return buffer.getvalue()


def tiff(values: np.ndarray, **options: Any) -> bytes:
    """Return the file that tifffile writes of (H, W, N) or (H, W)."""
    import tifffile

    buffer = io.BytesIO()
    planar = {"planarconfig": "contig"} if values.ndim == 3 else {}
    tifffile.imwrite(buffer, values, **{"photometric": "minisblack", **planar, **options})
    return buffer.getvalue()


def dicom(stored: np.ndarray | None, **elements: Any) -> bytes:
    """Return the file that pydicom writes of a frame (H, W), frames (F, H, W) or colors (H, W, 3)."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3"
    if stored is not None:
        is_color = stored.shape[-1] == 3
        dataset.Rows, dataset.Columns = stored.shape[:2] if is_color else stored.shape[-2:]
        dataset.SamplesPerPixel, bits = 3 if is_color else 1, 8 * stored.itemsize
        dataset.PhotometricInterpretation = "RGB" if is_color else "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
        dataset.PixelRepresentation = int(stored.dtype.kind == "i")
        if is_color:
            dataset.PlanarConfiguration = 0
        elif stored.ndim == 3:
            dataset.NumberOfFrames = len(stored)
        dataset.PixelData = stored.tobytes()
        dataset["PixelData"].VR = "OW" if bits == 16 else "OB"
    for name, value in elements.items():
        setattr(dataset, name, value)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
