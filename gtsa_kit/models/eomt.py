"""EoMT (Kerssies et al., arXiv 2503.19108): a head that is the last blocks of the ViT, with queries as more tokens."""

from dataclasses import replace
from typing import Any, Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gtsa_kit.models.architecture import Architecture, create_vit
from gtsa_kit.models.tokens import tokens_to_map

QUERIES: Final = 100
"""Number of queries: the largest number of masks."""
UPSCALE: Final = 4
"""Resolution of the masks as a multiple of the patches'."""
SMALLEST: Final = 1e-3
"""Smallest sum of a class's masks whose logarithm is taken: that of a smaller one would consist of rounding errors."""


class QueryMasks(NamedTuple):
    """Predictions of the queries, before one block or after all."""

    masks: Tensor
    """Logits of the masks, (B, Q, 4h, 4w)."""
    classes: Tensor
    """Logits of the classes, (B, Q, K + 1); the last one is of no class."""


class EomtHead(nn.Module):
    """The last blocks of a ViT with queries, each of which predicts a class and a mask, on the map of the block before.

    The map (B, D, h, w) is that of patch tokens without the final norm; the class token and registers are left out.
    """

    def __init__(
        self, architecture: Architecture, classes: int, blocks: int, queries: int = QUERIES, instances: bool = False
    ) -> None:
        """Build the head with random weights; `take_blocks` gives it those of an encoder.

        Args:
            architecture: Architecture of the ViT.
            classes: Number of classes.
            blocks: Number of the ViT's last blocks that the head has.
            queries: Number of queries.
            instances: True if a mask is that of an object, False if it is that of a class.

        Raises:
            ValueError: The architecture has rotary positions.
        """
        super().__init__()
        self.instances = instances
        if architecture.is_eva:
            raise ValueError(
                f"the head eomt takes ViTs with learned positions, and {architecture.name} has rotary ones"
            )
        vit: Any = create_vit(replace(architecture, timm_kwargs={**architecture.timm_kwargs, "depth": blocks}))
        self.blocks, self.norm, width = vit.blocks, vit.norm, architecture.width
        self.queries = nn.Parameter(torch.randn(queries, width))
        self.classifier = nn.Linear(width, classes + 1)
        layers: list[nn.Module] = [nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.GELU()]
        self.mask_head = nn.Sequential(*layers, nn.Linear(width, width))
        self.upscale = nn.Sequential(Doubling(width), Doubling(width))
        self.masked: Tensor
        self.register_buffer("masked", torch.ones(blocks), persistent=False)
        """Share of queries whose attention is masked in each block, in training, (blocks,) from 0 to 1."""

    def forward(self, x: Tensor) -> Any:
        """Map (B, D, h, w) to the logarithm of each class's masks, (B, K, 4h, 4w), or for instances to `QueryMasks`.

        In training see `predictions`.
        """
        if self.training:
            return self.predictions(x)
        masks, classes = self._run(x, masked=False)[-1]
        if self.instances:
            return QueryMasks(masks, classes)
        shares = classes.softmax(dim=-1)[..., :-1].transpose(1, 2)  # (B, K, Q)
        rows = shares @ masks.sigmoid().flatten(2)
        return rows.clamp(min=SMALLEST).log().reshape(x.shape[0], -1, *masks.shape[-2:])

    def predictions(self, x: Tensor) -> list[QueryMasks]:
        """Return the predictions before each block, whose attention they mask, and after the last one."""
        return self._run(x, masked=True)

    def anneal(self, progress: float) -> None:
        """Set the share of masked attention for a part of the training, 0 to 1: it ends block by block."""
        count = len(self.masked)
        for i in range(count):
            self.masked[i] = min(1.0, max(0.0, 1 + i - progress * (count + 1)))

    def take_blocks(self, blocks: nn.ModuleList, norm: nn.Module) -> None:
        """Copy the weights of a ViT's last blocks and of its final norm."""
        for own, other in zip(self.blocks, blocks[-len(self.blocks) :], strict=True):
            own.load_state_dict(other.state_dict())
        self.norm.load_state_dict(norm.state_dict())

    def _run(self, x: Tensor, masked: bool) -> list[QueryMasks]:
        height, width = x.shape[-2:]
        queries = self.queries.expand(x.shape[0], -1, -1)
        tokens = torch.cat([queries, x.flatten(2).transpose(1, 2)], dim=1)
        results = []
        for index, block in enumerate(self.blocks):
            mask = None
            if masked:
                results.append(self._predict(tokens, height, width))
                mask = self._attention_mask(results[-1].masks, float(self.masked[index]))
            tokens = block(tokens, attn_mask=mask)
        return [*results, self._predict(tokens, height, width)]

    def _predict(self, tokens: Tensor, height: int, width: int) -> QueryMasks:
        tokens, count = self.norm(tokens), len(self.queries)
        maps = self.upscale(tokens_to_map(tokens[:, count:], height, width))
        queries = self.mask_head(tokens[:, :count])
        masks = (queries @ maps.flatten(2)).reshape(*queries.shape[:2], *maps.shape[-2:])
        return QueryMasks(masks, self.classifier(tokens[:, :count]))

    def _attention_mask(self, masks: Tensor, share: float) -> Tensor | None:
        """Return which tokens (B, 1, Q + N, Q + N) attend to which: some queries only to the patches of their masks."""
        if share == 0:
            return None
        height, width = masks.shape[-2] // UPSCALE, masks.shape[-1] // UPSCALE
        inside = F.interpolate(masks.detach(), size=(height, width), mode="bilinear").flatten(2) > 0  # (B, Q, N)
        if share < 1:
            inside = inside | (torch.rand(*inside.shape[:2], 1, device=masks.device) > share)
        count, patches = inside.shape[1:]
        allowed = torch.ones(len(masks), count + patches, count + patches, dtype=torch.bool, device=masks.device)
        allowed[:, :count, count:] = inside
        return allowed[:, None]


class Doubling(nn.Module):
    """Map (B, D, h, w) to (B, D, 2h, 2w)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.expand = nn.ConvTranspose2d(width, width, 2, 2)
        self.mix = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the layers."""
        x = self.mix(F.gelu(self.expand(x)))
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # type: ignore[no-any-return]
