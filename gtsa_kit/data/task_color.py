"""Changes of color for fine-tuning: torchvision's for 8-bit RGB, within the range of each channel for others."""

from dataclasses import dataclass
from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from gtsa_kit.data.channel_color import jitter
from gtsa_kit.data.channels.value_range import ChannelRange

_ANY_CHANNELS = "brightness", "contrast"


@dataclass(frozen=True)
class ChannelSamples:
    """Samples of images of other channels than 8-bit RGB, in float32."""

    limits: ChannelRange
    """Range of each channel."""
    scale: float = 1.0
    """Number that means and standard deviations are multiplied by to give samples: 255 for 8-bit ones."""


@dataclass(frozen=True)
class ColorJitter:
    """Random changes of color: each is made with probability `p`, in this order."""

    brightness: float = 0.125
    contrast: float = 0.5
    saturation: float = 0.5
    hue: float = 0.05
    p: float = 0.5

    @classmethod
    def of_strength(cls, strength: float) -> "ColorJitter":
        """Return changes of a strength from 0 to 1, where 0.5 gives the defaults."""
        return cls(0.25 * strength, strength, strength, 0.1 * strength)

    def transforms(self, channels: ChannelSamples | None = None) -> list[v2.Transform]:
        """Return torchvision's transforms, or for other channels than 8-bit RGB changes within the range of each."""
        strengths = {name: getattr(self, name) for name in ("brightness", "contrast", "saturation", "hue")}
        given = {name: strength for name, strength in strengths.items() if strength}
        if channels is None:
            changes: list[v2.Transform] = [v2.ColorJitter(**{name: strength}) for name, strength in given.items()]
        else:
            limits = channels.limits
            kept = {name: strength for name, strength in given.items() if limits.colors or name in _ANY_CHANNELS}
            changes = [ChannelJitter(name, strength, limits) for name, strength in kept.items()]
        return [v2.RandomApply([change], self.p) for change in changes]


class ChannelJitter(v2.Transform):  # type: ignore[misc]
    """Random change of brightness, contrast, saturation or hue of images (N, H, W) float32 of any channels."""

    _transformed_types = (tv_tensors.Image,)

    def __init__(self, step: str, strength: float, limits: ChannelRange) -> None:
        super().__init__()
        self.step, self.limits = step, limits
        self.range = (-strength, strength) if step == "hue" else (max(0.0, 1 - strength), 1 + strength)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the factor."""
        del flat_inputs
        return {"factor": random_uniform(*self.range)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Return the changed image."""
        return tv_tensors.Image(torch.from_numpy(jitter(inpt.numpy(), self.step, params["factor"], self.limits)))


def fill_values(mean: tuple[float, ...], channels: ChannelSamples | None) -> list[float]:
    """Return the samples of the mean color."""
    if channels is None:
        return [round(255 * value) for value in mean]
    return [channels.scale * value for value in mean]


def random_uniform(low: float, high: float) -> float:
    """Draw a number between two numbers from torch's global generator."""
    return low + (high - low) * float(torch.rand(()))
