"""Statistics of each channel over many images, in one pass with a bounded number of samples in memory."""

from dataclasses import dataclass

import numpy as np

from gtsa_kit.data.channels.image import ChannelImage, ChannelLayout

MAX_KEPT = 2**20
"""Pixels that percentiles are computed from, at most; they are spread evenly over the images and over each of them."""
MIN_PER_IMAGE = 64
"""Pixels of each image that are kept for percentiles, at least."""


@dataclass(frozen=True)
class ChannelStatistics:
    """Statistics of N channels, in the units of the file."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...]
    """Smallest samples, or the lower percentiles."""
    high: tuple[float, ...]
    images: int
    """Number of images that were measured."""


class StatisticsPass:
    """Accumulator of statistics, one image at a time."""

    def __init__(self, layout: ChannelLayout, images: int, percentiles: tuple[float, float] | None = None) -> None:
        """Start a pass.

        Args:
            layout: Layout of all images.
            images: Number of images to come, about.
            percentiles: Percentiles that samples are clipped to; None for no clipping.
        """
        self._percentiles, self._per_image = percentiles, max(MIN_PER_IMAGE, MAX_KEPT // max(images, 1))
        self._images, self._pixels = 0, 0
        self._mean, self._squares = np.zeros(layout.count), np.zeros(layout.count)
        self._low, self._high = np.full(layout.count, np.inf), np.full(layout.count, -np.inf)
        self._kept: list[np.ndarray] = []

    def add(self, image: ChannelImage) -> None:
        """Add the pixels of an image that hold data."""
        pixels = image.pixels.reshape(-1, image.pixels.shape[-1]) if image.valid is None else image.pixels[image.valid]
        self._images += 1
        if self._percentiles is not None:
            self._kept.append(pixels[:: -(-len(pixels) // self._per_image)].copy())
            return
        values = pixels.astype(np.float64)
        count, mean = len(values), values.mean(axis=0)
        total, shift = self._pixels + count, mean - self._mean  # Chan et al.: exact where sums of squares cancel
        self._squares += ((values - mean) ** 2).sum(axis=0) + shift**2 * self._pixels * count / total
        self._mean += shift * count / total
        self._pixels = total
        self._low, self._high = np.minimum(self._low, values.min(axis=0)), np.maximum(self._high, values.max(axis=0))

    def result(self) -> ChannelStatistics:
        """Return the statistics; the standard deviation of a constant channel is 1.

        Raises:
            ValueError: No image was added.
        """
        if not self._images:
            raise ValueError("no image could be measured")
        if self._percentiles is not None:
            kept = np.concatenate(self._kept).astype(np.float64)
            self._low, self._high = np.percentile(kept, self._percentiles, axis=0)
            clipped = kept.clip(self._low, self._high)
            self._mean, deviation = clipped.mean(axis=0), clipped.std(axis=0)
        else:
            deviation = np.sqrt(self._squares / self._pixels)
        deviation = np.where(deviation > 0, deviation, 1.0)
        mean, std, low, high = (tuple(each.tolist()) for each in (self._mean, deviation, self._low, self._high))
        return ChannelStatistics(mean, std, low, high, self._images)
