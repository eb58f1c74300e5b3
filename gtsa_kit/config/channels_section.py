"""Settings of the channels of the images."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from gtsa_kit.config.types import Positive, Section


def sample_scale(dtype: str | None) -> float:
    """Return the number that means and standard deviations are multiplied by to give samples: 255 for 8-bit ones."""
    return 255.0 if dtype == "uint8" else 1.0


class ChannelsConfig(Section):
    """Channels of the images: how many, of which type, and their statistics, measured once when a run starts."""

    count: Positive | Literal["rgb", "auto"] = "rgb"
    """Number of channels: rgb reads every image as 8-bit RGB. A number, or auto (that of most images), reads
    all channels at full depth, and leaves out images with another number."""
    dtype: Literal["uint8", "uint16", "float32"] | None = None
    """Type of the samples; null is that of most images. Not for rgb."""
    colors: bool | None = None
    """True if three channels are red, green and blue, which take changes of color; null is what the files say."""
    percentiles: tuple[float, float] | None = None
    """Percentiles of the samples, 0 to 100, that all samples of a channel are clipped to, before mean and standard
    deviation are measured; null clips nothing."""
    scene_window: Annotated[int, Field(ge=64)] | None = None
    """Side in pixels of the part of an image that one sample reads, at random: of a large TIFF or array little else is
    read, so that memory does not depend on the size of a scene. null reads whole images, up to the limit of size."""
    dicom_window: bool = False
    """True applies the display window that a DICOM file states."""
    mean: tuple[float, ...] | None = None
    """Mean of each channel, measured when a run starts: of 8-bit samples divided by 255, of others in their units."""
    std: tuple[float, ...] | None = None
    """Standard deviation of each channel, in the units of `mean`; 1 for a constant channel."""
    low: tuple[float, ...] | None = None
    """Smallest sample of each channel, or its lower percentile, in the units of the file."""
    high: tuple[float, ...] | None = None
    """Largest sample of each channel, or its upper percentile."""

    @property
    def is_rgb(self) -> bool:
        """True if all images are read as 8-bit RGB."""
        return self.count == "rgb"

    @property
    def is_measured(self) -> bool:
        """True if nothing is left to find out from the images."""
        return self.is_rgb or self.mean is not None

    @model_validator(mode="after")
    def _check(self) -> "ChannelsConfig":
        """Raise `ValueError` for percentiles that are no range, and for statistics that are incomplete."""
        if self.percentiles is not None and not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise ValueError(f"channels.percentiles must be two numbers of 0 to 100, ascending; got {self.percentiles}")
        measured: dict[str, Any] = {name: getattr(self, name) for name in ("mean", "std", "low", "high")}
        given = [name for name, value in measured.items() if value is not None]
        if self.is_rgb and (given or self.dtype or self.colors or self.percentiles or self.scene_window):
            raise ValueError(
                "channels.count is rgb, which has no other settings of channels; give it a number, or auto"
            )
        if not given:
            return self
        complete = len(given) == len(measured) and isinstance(self.count, int) and self.dtype
        if not complete or any(len(value) != self.count for value in measured.values()):
            raise ValueError(
                "channels.mean, std, low and high belong together, one number for each of channels.count, with a "
                "dtype; omit them to have them measured"
            )
        if any(value <= 0 for value in measured["std"]):
            raise ValueError("channels.std must be above 0")
        return self
