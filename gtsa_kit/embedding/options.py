"""Options of a job that embeds images into a dataset folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gtsa_kit.data.image_io import MAX_PIXELS


@dataclass(frozen=True)
class EmbedOptions:
    """Options of `gtsa embed`."""

    dense: bool = False
    """Also write the feature maps."""
    layers: tuple[int, ...] = ()
    """Blocks whose maps are written too; implies `dense`."""
    size: tuple[int, int] | None = None
    """Input (height, width) in pixels; by default the model's."""
    short_side: int | None = None
    """Short side of the input in pixels; the aspect ratio is kept."""
    native: bool = False
    """Keep each image's own size, rounded to multiples of the patch size."""
    dtype: Literal["float16", "float32"] | None = None
    """Data type of vectors and maps; None writes float32 vectors and float16 maps."""
    batch_size: int | None = None
    """Images per call of the model; None chooses by the device."""
    workers: int | None = None
    """Threads that read and decode, or workers of the Ray cluster; None chooses by the machine."""
    fail_on_unreadable: bool = False
    """Stop at the first image that can't be used."""
    resume: bool = False
    """Continue the job in the output folder."""
    engine: Literal["local", "ray"] = "local"
    """Extract in this process, or on a Ray cluster."""
    part: tuple[int, int] = (1, 1)
    """Part of the images to embed: (I, N) is the I-th of N parts, counted from 1."""
    max_pixels: int = MAX_PIXELS
    """Larger images are rejected before they are decoded."""
    rows_per_shard: int | None = None
    """Rows that are committed together; None chooses by their size."""
    device: str = "auto"
    """auto, cpu or cuda."""
    provider: str = "auto"
    """Execution provider of ONNX Runtime."""
    engine_cache: Path | None = None
    """Folder in which the provider caches its engines."""
    fallback: bool = False
    """Use the next provider if the requested one does not work."""

    @property
    def load_options(self) -> dict[str, Any]:
        """Keyword arguments of `gtsa_kit.export.load`."""
        names = ("device", "layers", "provider", "engine_cache", "fallback")
        return {name: getattr(self, name) for name in names}
