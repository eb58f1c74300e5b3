"""Encoder: a timm ViT for any image size that is a multiple of the patch size."""

from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gtsa_kit.config import Arch
from gtsa_kit.models.architecture import ARCHITECTURES, Architecture, check_layers, create_vit
from gtsa_kit.models.outputs import Features
from gtsa_kit.models.positions import resample_positions, split_positions
from gtsa_kit.models.preprocessing import Preprocessing
from gtsa_kit.models.rotary import RotaryTable
from gtsa_kit.models.sizes import check_sides
from gtsa_kit.models.tokens import pool_tokens, tokens_to_map


class Encoder(nn.Module):
    """Wrapper of a timm ViT that encodes (B, N, H, W), H and W multiples of its patch size, to `Features`.

    The weights are in `vit` under timm's key names. Position embeddings are resampled by two small matrix products
    instead of a Resize operator, so that one exported graph accepts every size and TensorRT can build it.
    """

    def __init__(
        self,
        arch: Arch | Architecture,
        drop_path: float = 0.0,
        layers: tuple[int, ...] = (),
        preprocessing: Preprocessing | None = None,
    ) -> None:
        """Build the ViT with timm's random initialization.

        Args:
            arch: Key of `ARCHITECTURES`, or any ViT that timm's classes VisionTransformer and Eva build.
            drop_path: Stochastic depth rate of the last block; rates rise linearly from 0 at the first block.
            layers: Indices of blocks whose feature maps are returned as well, counted from 0.
            preprocessing: Preprocessing that the weights were trained with; None for the default.

        Raises:
            ValueError: An index in `layers` is out of range, or the rotary positions are of a kind that is not
                computed.
        """
        super().__init__()
        self.architecture = arch if isinstance(arch, Architecture) else ARCHITECTURES[arch]
        self.preprocessing = preprocessing or Preprocessing()
        check_layers(layers, self.architecture)
        self.layers = layers
        self.activation_checkpointing = False
        """True stores only the input of each block in training and recomputes the block in the backward pass."""
        self.vit = create_vit(self.architecture, drop_path)
        self.prefix: int = self.vit.num_prefix_tokens
        """Number of tokens before those of the patches: the class token, if there is one, then registers."""
        rope = getattr(self.vit, "rope", None)
        self.rotary = None if rope is None else RotaryTable(rope, self.architecture.rotary_periods)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches of the images that the weights were made for."""
        rows, columns = self.vit.patch_embed.grid_size
        return rows, columns

    def forward(self, images: Tensor, final_norm: bool = True) -> Features:
        """Encode normalized images (B, N, H, W) float32.

        Args:
            images: H and W must be multiples of the patch size.
            final_norm: Whether to apply the final norm, to the maps of `layers` too; False in training with the preset
                ade20k, and for heads that were trained without.

        Raises:
            ValueError: H or W is no multiple of the patch size.
        """
        # A trace would keep the result of the check for the one size that it sees.
        if not torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            check_sides(images.shape[-2], images.shape[-1], self.architecture.patch)
        patches = self.vit.patch_embed.proj(images)  # (B, D, h, w)
        h, w = patches.shape[-2:]
        x = self.vit.norm_pre(self._tokens(patches))
        rope = {} if self.rotary is None else {"rope": self.rotary(h, w)}
        use_checkpoint = self.activation_checkpointing and self.training
        maps = {}
        for index, block in enumerate(self.vit.blocks):
            x = checkpoint(block, x, use_reentrant=False, **rope) if use_checkpoint else block(x, **rope)
            if index in self.layers:
                maps[index] = tokens_to_map((self.vit.norm(x) if final_norm else x)[:, self.prefix :], h, w)
        tokens = self.vit.norm(x) if final_norm else x
        class_token = tokens[:, 0] if self.architecture.has_class_token else None
        embedding = pool_tokens(self.architecture.embedding, x, tokens, self.prefix, self.vit.norm)
        return Features(embedding, tokens_to_map(tokens[:, self.prefix :], h, w), maps, class_token)

    def _tokens(self, patches: Tensor) -> Tensor:
        """Return (B, P + h*w, D): the prefix tokens and the patches (B, D, h, w), with their learned positions."""
        vit = self.vit
        prefix = [token for token in (vit.cls_token, vit.reg_token) if token is not None]
        prefix_positions, positions = split_positions(vit)
        tokens = patches.flatten(2).transpose(1, 2)
        if positions is not None:
            h, w = patches.shape[-2:]
            tokens = tokens + resample_positions(positions, self.grid, h, w, self.architecture.resampling)
        if not prefix:
            return tokens
        before = torch.cat(prefix, dim=1)
        before = before if prefix_positions is None else before + prefix_positions
        return torch.cat([before.expand(tokens.shape[0], -1, -1), tokens], dim=1)

    def keep_blocks(self, count: int) -> None:
        """Remove all but the first blocks."""
        architecture = self.architecture
        kwargs = {**architecture.timm_kwargs, "depth": count}
        self.architecture = replace(
            architecture, name=f"{architecture.name}[:{count}]", depth=count, timm_kwargs=kwargs
        )
        self.vit.blocks = self.vit.blocks[:count]

    def use_unfused_attention(self) -> None:
        """Compute attention by two matrix products and a softmax instead of torch's fused kernel.

        Features are the same. In bf16 on a CPU the fused kernel takes three to ten times as long, mostly in the
        backward pass.
        """
        for block in self.vit.blocks:
            block.attn.fused_attn = False


def normalize(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Convert images (..., N, H, W) to the normalized float32 input of an encoder with this preprocessing.

    Samples are 8-bit, uint8 or float32 of 0 to 255, or in the units of the files that the encoder was trained with.
    """
    mean, std = _mean_and_std(preprocessing.mean, preprocessing.std, images.device)
    return (images.float() / preprocessing.scale - mean) / std


@lru_cache
def _mean_and_std(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return mean and std, (N, 1, 1) each; cached, because a copy to an accelerator makes the host wait."""
    with torch.inference_mode(False):  # the cached tensors must be usable in training, too
        means, stds = torch.tensor([mean, std], device=device)[..., None, None]
        return means, stds
