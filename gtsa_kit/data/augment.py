"""One photograph to its views: crops, turns or mirrors, photometric noise, as `draws` says.

All randomness comes from the generator that the caller passes, so the views of a photograph depend on nothing else: not
on the worker that made them, nor on what was made before. What is drawn is done as Pillow would do it, only faster.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from gtsa_kit.config import ViewsConfig
from gtsa_kit.data import color as colours
from gtsa_kit.data.augmentation_params import Colour, Draws, draw, draw_box, draw_boxes, draw_colours

__all__ = ["Views", "collate", "crop_and_turn", "draw_box", "draw_boxes", "make_views", "photometric", "render"]

_STEPS = colours.brighten, colours.contrast, colours.saturate, colours.turn_hue


class Views(NamedTuple):
    """G global and L local views of one photograph, or of a batch with B in front of every shape."""

    global_images: Tensor
    """(G, 3, S, S) uint8."""
    local_images: Tensor
    """(L, 3, s, s) uint8."""
    boxes: Tensor
    """(G + L, 4) float32: the crops, globals first, in pixels of the photograph."""
    turns: Tensor
    """(G + L,) int64: counter-clockwise quarter turns of each view."""

    def to(self, device: torch.device) -> "Views":
        """The same views on a device."""
        return Views(*(tensor.to(device, non_blocking=True) for tensor in self))

    def pin_memory(self) -> "Views":
        """The same views in page-locked memory (called by the data loader)."""
        return Views(*(tensor.pin_memory() for tensor in self))


def make_views(photograph: Tensor, config: ViewsConfig, generator: Generator) -> Views:
    """Draw and render the views of a (3, H, W) uint8 photograph."""
    height, width = photograph.shape[-2:]
    return render(photograph, draw(height, width, config, generator), config)


def render(photograph: Tensor, draws: Draws, config: ViewsConfig) -> Views:
    """The views of a (3, H, W) uint8 photograph that were drawn; fastest where its colours lie side by side."""
    photograph = photograph[None].contiguous(memory_format=torch.channels_last)[0]
    n_local = len(draws.boxes) - config.global_crops
    global_images = np.empty((config.global_crops, 3, config.global_size, config.global_size), np.uint8)
    local_images = np.empty((n_local, 3, config.local_size, config.local_size), np.uint8)
    plan = zip(draws.boxes.tolist(), draws.turns.tolist(), draws.flips.tolist(), draws.colours.rows(), strict=True)
    for out, (box, turn, flip, colour) in zip([*global_images, *local_images], plan, strict=True):
        view = _recolour(crop_and_turn(photograph, box, turn, out.shape[-1]).numpy(), colour, config.noise_std)
        out[:] = view[..., ::-1] if flip else view
    images = torch.from_numpy(global_images), torch.from_numpy(local_images)
    return Views(*images, draws.boxes.float(), draws.turns)


def collate(views: list[Views]) -> Views:
    """Stack the views of B photographs."""
    return Views(*(torch.stack(tensors) for tensors in zip(*views, strict=True)))


def crop_and_turn(photograph: Tensor, box: list[int], turn: int, size: int) -> Tensor:
    """The (3, size, size) view of a box: antialiased bicubic resize, then quarter turns, which move pixels exactly.

    Within a level of Pillow's resize. torch's weights have 16 bits, so that where two roundings meet a value can be two
    levels off: one to three of the 150,000 of a global view, in one such view of twenty-five.
    """
    x0, y0, x1, y1 = box
    crop = photograph[None, :, y0:y1, x0:x1]
    by_columns = columns_first(y1 - y0, x1 - x0, size)
    crop = (crop.mT if by_columns else crop).contiguous(memory_format=torch.channels_last)
    view = F.interpolate(crop, (size, size), mode="bicubic", antialias=True)[0]
    turned = np.rot90((view.mT if by_columns else view).numpy(), turn, axes=(-2, -1))
    return torch.from_numpy(np.ascontiguousarray(turned))  # torch itself takes twice as long for this copy


def columns_first(height: int, width: int, size: int) -> bool:
    """Which of its two passes Pillow does first at these sizes.

    Values are rounded and cut to 0..255 between the passes, so the order shows, by up to ten levels at sharp edges.
    torch always does the rows first; so did Pillow once, and does today where there are not many more of them.
    """
    return height > size and height - size > 2 * (width - size)


def photometric(view: Tensor, config: ViewsConfig, generator: Generator) -> Tensor:
    """Colour jitter in random order, grey, blur, noise, each with its own probability; (3, S, S) uint8 both ways."""
    [colour] = draw_colours(1, config, generator).rows()
    return torch.from_numpy(_recolour(view.contiguous().numpy(), colour, config.noise_std))


def _recolour(pixels: colours.Image, colour: Colour, noise_std: float) -> colours.Image:
    """(3, S, S) both ways; what is passed stays as it was."""
    for step in colour.order:
        pixels = _STEPS[step](pixels, colour.factors[step])
    if colour.grey:
        pixels = colours.to_grey(pixels)
    if colour.sigma > 0:
        pixels = colours.blur(pixels, colour.sigma)
    if noise_std > 0:
        noise = torch.randn(pixels.shape, generator=Generator().manual_seed(colour.noise_seed)).numpy()
        pixels = (pixels + noise * np.float32(255 * noise_std)).round().clip(0, 255).astype(np.uint8)
    return pixels
