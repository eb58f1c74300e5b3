"""Settings of the views of an image."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gtsa_kit.config.types import Fraction, NonNegative, Positive, Section


class ViewsConfig(Section):
    """Augmentation settings: crops, rotations, flips and colors of the G global and L local views of an image."""

    global_crops: Annotated[int, Field(ge=1)] = 2
    """Global views of an image."""
    local_crops: Annotated[int, Field(ge=0)] = 8
    """Local views of an image."""
    global_size: Positive = 224
    """Side of a global view in pixels."""
    local_size: Positive = 96
    """Side of a local view in pixels."""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    """Antialiased interpolation that resizes the crops. Weights to start from bring their own."""
    global_area: tuple[Fraction, Fraction] = (0.3, 1.0)
    """Range of a global crop's area, as a fraction of the image area."""
    local_area: tuple[Fraction, Fraction] = (0.1, 0.3)
    """Range of a local crop's area, as a fraction of the image area."""
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Range of a crop's width divided by its height."""
    min_overlap: Annotated[float, Field(gt=0.0, le=1.0)] = 0.01
    """Minimum overlap of a local crop with every global crop, as a fraction of the image area."""
    min_global_overlap: Annotated[float, Field(gt=0.0, le=1.0)] = 0.02
    """Minimum overlap of two global crops, as a fraction of the image area."""
    rotate: bool = True
    """True rotates each view by 0, 90, 180 or 270 degrees, sampled uniformly."""
    hflip_p: Fraction = 0.0
    """Probability of a horizontal flip; must be 0 for GTSA, whose region loss does not model flips."""
    jitter_strength: NonNegative = 1.0
    """Factor on the color jitter ranges: brightness 0.8, contrast 0.8, saturation 0.8, hue 0.2."""
    jitter_p: Fraction = 0.8
    """Probability of color jitter."""
    grayscale_p: Fraction = 0.2
    """Probability of a conversion to gray."""
    blur_p: Fraction = 0.2
    """Probability of a Gaussian blur."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Range of the Gaussian blur's standard deviation in pixels of the view."""
    blur_side: Annotated[int, Field(ge=0)] = 0
    """Side of the view in pixels that `blur_sigma` is for: the blur of each view is in proportion to its side. 0 gives
    views of all sizes the same blur in pixels, as published for sizes of 224 and 96."""
    noise_std: NonNegative = 0.0
    """Standard deviation of Gaussian noise on pixels scaled to 0..1. The paper gives no value, so it is off."""

    channel_drop_p: Fraction = 0.0
    """Probability of each channel to be replaced by its mean in a view; one channel is always kept."""

    @model_validator(mode="after")
    def _check_ranges(self) -> "ViewsConfig":
        """Raise `ValueError` for descending ranges, overlaps that no crop reaches, and hue shifts above 0.5."""
        for name in ("global_area", "local_area", "aspect", "blur_sigma"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"views.{name} must be two positive numbers in ascending order; got [{low}, {high}]")
        if max(self.min_overlap, self.min_global_overlap) > self.global_area[0]:
            limit = f"views.global_area[0] = {self.global_area[0]}"
            raise ValueError(f"views.min_overlap and views.min_global_overlap must be at most {limit}")
        if 0.2 * self.jitter_strength > 0.5:
            raise ValueError(
                "views.jitter_strength must be at most 2.5, because hue can shift by half a circle at most"
            )
        return self
