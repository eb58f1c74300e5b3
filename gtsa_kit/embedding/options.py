"""Options of a job that embeds images into a dataset folder."""

from dataclasses import dataclass, field
from typing import Literal

from gtsa_kit.data.channels.frames import Frames
from gtsa_kit.data.image_io import MAX_PIXELS
from gtsa_kit.export.open_options import LoadOptions


@dataclass(frozen=True)
class EmbedOptions:
    """Options of `gtsa embed`."""

    dense: bool = False
    """Also write the feature maps."""
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
    frames: Frames = "first"
    """Frames that are embedded of files with several; all of them only for a model of other channels than 8-bit RGB."""
    max_pixels: int = MAX_PIXELS
    """Larger images are rejected before they are decoded."""
    rows_per_shard: int | None = None
    """Rows that are committed together; None chooses by their size."""
    load: LoadOptions = field(default_factory=LoadOptions)
    """Options to open the model with. The maps of its layers are written too, which implies `dense`."""
