"""Changes of brightness, contrast, blur and noise of views of any number of channels, in float32.

The amounts are relative to the range of each channel, as they are to 0..255 for 8-bit RGB.
"""

from typing import Any

import numpy as np
import torch
from torch import Generator

from gtsa_kit.data.augmentation_params import JITTER_STEPS, ViewColorParams
from gtsa_kit.data.channels.value_range import ChannelRange, Floats
from gtsa_kit.data.color import blur


def augment_channels(view: Floats, params: ViewColorParams, noise_std: float, limits: ChannelRange) -> Floats:
    """Return new (N, S, S) pixels after the steps that apply to these channels; the argument is not changed.

    Values are limited to the range of their channel, as 8-bit ones are to 0..255: bicubic interpolation exceeds it at
    edges. Saturation, hue and gray are changes of color: they apply to red, green and blue alone.
    """
    view = _limited(view, limits)
    for step in params.order:
        view = jitter(view, JITTER_STEPS[step], params.factors[step], limits)
    if params.gray and limits.colors:
        view = _by_torchvision("rgb_to_grayscale", view, limits, num_output_channels=3)
    if params.sigma > 0:
        view = blur(np.ascontiguousarray(view), params.sigma)
    if noise_std > 0:
        noise = torch.randn(view.shape, generator=Generator().manual_seed(params.noise_seed)).numpy()
        view = _limited(view + noise * np.float32(noise_std) * (limits.high - limits.low), limits)
    return view


def drop_channels(view: np.ndarray, probability: float, seed: int) -> np.ndarray:
    """Return (N, S, S) pixels in which channels are replaced by their mean, each with a probability; never all."""
    dropped = torch.rand(len(view), generator=Generator().manual_seed(seed)).numpy()
    chosen = dropped < probability
    chosen[dropped.argmax()] = False
    if not chosen.any():
        return view
    view = view.copy()
    means = view[chosen].mean(axis=(1, 2), keepdims=True)
    view[chosen] = means.round() if view.dtype == np.uint8 else means
    return view


def jitter(view: Floats, step: str, factor: float, limits: ChannelRange) -> Floats:
    """Return (N, S, S) pixels after a change of brightness, contrast, saturation or hue by a factor of torchvision.

    Saturation and hue change red, green and blue alone.
    """
    scale = np.float32(factor)
    if step == "brightness":
        return _limited((view - limits.low) * scale + limits.low, limits)
    if step == "contrast":
        mean = view.mean(axis=(1, 2), keepdims=True, dtype=np.float64).astype(np.float32)
        return _limited((view - mean) * scale + mean, limits)
    if not limits.colors:
        return view
    option = {"hue": "hue_factor", "saturation": "saturation_factor"}[step]
    return _by_torchvision(f"adjust_{step}", view, limits, **{option: factor})


def _by_torchvision(operation: str, view: Floats, limits: ChannelRange, **options: Any) -> Floats:
    """Apply an operation of torchvision to red, green and blue, scaled to 0..1 by one range for all three."""
    from torchvision.transforms.v2 import functional

    low, span = limits.low.min(), limits.high.max() - limits.low.min()
    unit = torch.from_numpy(((view - low) / span).clip(0, 1))
    changed: Floats = getattr(functional, operation)(unit, **options).numpy() * span + low
    return changed.astype(np.float32)


def _limited(view: Floats, limits: ChannelRange) -> Floats:
    return np.clip(view, limits.low, limits.high).astype(np.float32)
