"""Masks as GeoTIFFs with the position of their image, where rasterio is installed."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import IO, Any, Final

import numpy as np
from PIL import Image

from gtsa_kit.data.channels.tiff import MAGICS
from gtsa_kit.data.entries import Entry, Source
from gtsa_kit.data.label_map import VOID
from gtsa_kit.data.rgb import DECODER_ERRORS
from gtsa_kit.data.sources import open_entry
from gtsa_kit.models.task_spec import Label
from gtsa_kit.progress import Note
from gtsa_kit.tasks.mask_files import mask_colors, nodata_pixel, written_values

SUFFIXES: Final = (".tif", ".tiff")
"""Suffixes, in lower case, of images that may have a position."""
TILE: Final = 256
"""Side of the tiles of masks; smaller masks are stored in strips."""
_MODEL_TAGS = (33550, 33922, 34264)  # pixel scale, tie points and transformation of GeoTIFF 1.1


@dataclass(frozen=True)
class Position:
    """Position of an image on the ground."""

    size: tuple[int, int]
    """Height and width of the stored image in pixels."""
    crs: Any
    """Coordinate reference system of rasterio; None if the file states none."""
    transform: Any
    """Affine transform from pixels to coordinates."""
    points: tuple[Sequence[Any], Any]
    """Ground control points and their reference system; no points if the transform says it all."""


def has_rasterio() -> bool:
    """Return whether positions can be read and written."""
    return find_spec("rasterio") is not None


def read_position(source: Source, entry: Entry) -> Position | None:
    """Return the position of an image; None if it has none. Without rasterio, a note says that the mask gets none.

    Raises:
        ImageError: The file can't be read any more.
    """
    if not entry.name.lower().endswith(SUFFIXES):
        return None
    with open_entry(source, entry) as file:
        if not file.read(4).startswith(MAGICS):
            return None
        file.seek(0)
        if has_rasterio():
            return _position(file)
        if _is_georeferenced(file):
            warnings.warn(
                "masks of georeferenced images are PNG files without a position, as rasterio is not installed; pip "
                "install 'gtsa-kit[geotiff]'",
                Note,
                stacklevel=2,
            )
    return None


def encode_geotiff(mask: np.ndarray, labels: Sequence[Label], position: Position) -> bytes:
    """Return class numbers (H, W) as a GeoTIFF of the values and colors that `encode_mask` writes.

    Pixels without data have the value that the file states as nodata.
    """
    import rasterio

    nodata = nodata_pixel(labels) if (mask == VOID).any() else None
    height, width = mask.shape
    profile: dict[str, Any] = {"driver": "GTiff", "height": height, "width": width, "count": 1, "dtype": "uint8"}
    profile |= {"crs": position.crs, "transform": position.transform, "nodata": nodata, "photometric": "palette"}
    profile |= {"compress": "deflate", "predictor": 1}
    if min(mask.shape) >= TILE:
        profile |= {"tiled": True, "blockxsize": TILE, "blockysize": TILE}
    with _quiet(), rasterio.MemoryFile() as memory:
        with memory.open(**profile) as dataset:
            colors = {value: (*color, 255) for value, color in enumerate(mask_colors(labels).tolist())}
            dataset.write_colormap(1, colors)
            if position.points[0]:
                dataset.gcps = position.points
            dataset.write(written_values(mask, labels), 1)
        return bytes(memory.read())


def _position(file: IO[bytes]) -> Position | None:
    import rasterio
    from rasterio.errors import RasterioError

    with _quiet(), suppress(RasterioError):
        path = getattr(file, "name", None)  # a file on the disk may be larger than the memory
        opened: Any = rasterio.MemoryFile(file.read()).open if path is None else partial(rasterio.open, path)
        with opened(driver="GTiff") as dataset:
            points = dataset.gcps
            if dataset.transform.is_identity and dataset.crs is None and not points[0]:
                return None
            return Position((dataset.height, dataset.width), dataset.crs, dataset.transform, points)
    return None


def _is_georeferenced(file: IO[bytes]) -> bool:
    """Return whether a TIFF states a position, by its tags; Pillow opens few kinds of channels."""
    try:
        with suppress(ModuleNotFoundError):
            import tifffile

            with tifffile.TiffFile(file) as tiff:
                return any(tag in tiff.pages.first.tags for tag in _MODEL_TAGS)
        with Image.open(file, formats=("TIFF",)) as image:
            tags: Any = image.tag_v2  # type: ignore[attr-defined]
            return any(tag in tags for tag in _MODEL_TAGS)
    except DECODER_ERRORS:  # a kind of TIFF that they do not know
        return False


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the warning of rasterio for images without a position, which are no fault."""
    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield
