"""DICOM by pydicom: real values by the file's rescale, bright is more, padding is no data, a frame at a time."""

import io
from typing import IO, Any

import numpy as np

from gtsa_kit.data.channels.image import ChannelHeader, ChannelImage, ChannelLayout, Window, make_image, sample_type
from gtsa_kit.data.image_io import MAX_FILE_BYTES
from gtsa_kit.extras import hint_at_extra

MAGIC, MAGIC_AT = b"DICM", 128
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_DEFLATED, _META_BYTES = b"1.2.840.10008.1.2.1.99", 4096  # a transfer syntax, and where it stands
_MONOCHROME = ("MONOCHROME1", "MONOCHROME2")


def read_header(file: IO[bytes]) -> ChannelHeader:
    """Return the shape of the images in a file.

    Raises:
        ValueError: The file is no DICOM, or holds no image.
    """
    dataset = _opened(file)
    height, width, samples = int(dataset.Rows), int(dataset.Columns), int(dataset.get("SamplesPerPixel", 1))
    frames = int(dataset.get("NumberOfFrames", 1) or 1)
    photometric = str(dataset.get("PhotometricInterpretation", "MONOCHROME2"))
    if photometric in _MONOCHROME:
        return ChannelHeader(ChannelLayout(1, "float32"), height, width, frames)
    if photometric == "PALETTE COLOR":
        bits = int(dataset.RedPaletteColorLookupTableDescriptor[2])
        return ChannelHeader(ChannelLayout(3, "uint8" if bits == 8 else "uint16", True), height, width, frames)
    dtype = sample_type(np.dtype(f"uint{int(dataset.BitsAllocated)}"))
    return ChannelHeader(ChannelLayout(samples, dtype, samples == 3), height, width, frames)


def read_image(
    file: IO[bytes], frame: int = 0, window: Window | None = None, apply_window: bool = False
) -> ChannelImage:
    """Read a frame.

    Gray images are float32 in the units of the file's rescale or modality table (such as Hounsfield units). Where the
    smallest value is white (MONOCHROME1) they are inverted within the range of the stored bits.

    Args:
        file: Open file.
        frame: Number of the frame.
        window: Window in pixels; None for the whole frame.
        apply_window: Apply the display window (VOI) that the file states, if it states one.

    Raises:
        ValueError: As for `read_header`, or the pixels are damaged or of a compression without a decoder.
    """
    dicom_pixels = _library()
    dataset = _opened(file)
    header = read_header(file)
    if not 0 <= frame < header.frames:
        raise ValueError(f"frame {frame} of {header.frames}")
    stored = dicom_pixels.pixel_array(dataset, index=frame)
    valid = None
    if str(dataset.get("PhotometricInterpretation", "MONOCHROME2")) in _MONOCHROME:
        valid = _valid(dataset, stored)
        values = _real_values(dataset, stored, apply_window).astype(np.float32)[..., None]
    elif dataset.PhotometricInterpretation == "PALETTE COLOR":
        values = dicom_pixels.apply_color_lut(stored, dataset)
    else:
        values = stored if stored.ndim == 3 else stored[..., None]
    if window is not None:
        area = slice(window.y0, window.y1), slice(window.x0, window.x1)
        values, valid = values[area], None if valid is None else valid[area]
    return make_image(values, header.layout.colors, valid)


def _library() -> Any:
    """Return the module of pydicom that decodes pixels; its types don't name what it exports."""
    from pydicom import pixels

    return pixels


def _opened(file: IO[bytes]) -> Any:
    with hint_at_extra("DICOM files"):
        import pydicom
    from pydicom.errors import InvalidDicomError

    if file.seek(0, io.SEEK_END) > MAX_FILE_BYTES:
        raise ValueError(f"a DICOM file of more than {MAX_FILE_BYTES // 2**30} GiB; split it")
    file.seek(0)
    content = file.read()
    if _DEFLATED in content[:_META_BYTES]:  # pydicom would inflate it without a limit
        raise ValueError("a DICOM file that is deflated as a whole, which is not read; store it uncompressed")
    try:
        dataset = pydicom.dcmread(io.BytesIO(content))
    except InvalidDicomError as error:
        raise ValueError("no DICOM file, or damaged beyond recognition") from error
    if not any(name in dataset for name in _PIXELS) or "Rows" not in dataset or "Columns" not in dataset:
        raise ValueError("a DICOM file without pixels, such as a report or a plan")
    return dataset


def _real_values(dataset: Any, stored: np.ndarray, apply_window: bool) -> np.ndarray:
    """Return the values of a gray frame (H, W) in the units of the file, bright is more."""
    dicom_pixels = _library()
    values: np.ndarray = dicom_pixels.apply_modality_lut(stored, dataset)
    if apply_window and ("WindowCenter" in dataset or "VOILUTSequence" in dataset):
        values = dicom_pixels.apply_voi_lut(values, dataset)
    if dataset.get("PhotometricInterpretation") == "MONOCHROME1":
        bits, is_signed = int(dataset.BitsStored), bool(dataset.PixelRepresentation)
        ends = np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if is_signed else [0, 2**bits - 1], np.float64)
        slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
        values = (ends * slope + intercept).sum() - values
    return values


def _valid(dataset: Any, stored: np.ndarray) -> np.ndarray | None:
    """Return where a frame holds data, (H, W) bool, by the padding value or range of the file; None without one."""
    if "PixelPaddingValue" not in dataset:
        return None
    first = int(dataset.PixelPaddingValue)
    last = int(dataset.get("PixelPaddingRangeLimit", first))
    return (stored < min(first, last)) | (stored > max(first, last))
