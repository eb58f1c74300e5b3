"""Range of the samples of N channels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gtsa_kit.config import ChannelsConfig

Floats = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class ChannelRange:
    """Range of the samples of N channels."""

    low: Floats
    """Smallest samples (N, 1, 1)."""
    high: Floats
    """Largest samples (N, 1, 1)."""
    colors: bool
    """True if the three channels are red, green and blue."""

    @classmethod
    def of(cls, channels: ChannelsConfig) -> "ChannelRange":
        """Return the range that a run has measured."""
        assert channels.low is not None, "measured before views are made"
        assert channels.high is not None, "measured before views are made"
        return cls.between(channels.low, channels.high, bool(channels.colors))

    @classmethod
    def between(cls, low: Sequence[float], high: Sequence[float], colors: bool) -> "ChannelRange":
        """Return the range between the smallest and the largest samples of each channel."""
        lowest, highest = (np.asarray(values, np.float32)[:, None, None] for values in (low, high))
        return cls(lowest, highest, colors and len(low) == 3)
