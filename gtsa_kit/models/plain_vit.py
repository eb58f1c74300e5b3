"""ViT with learned positions and plain MLPs: timm's VisionTransformer as most weights have it, without timm.

The import of timm takes as long as that of torch twice, so that a command with such a ViT would start with that wait.
Names of tensors, order of the random numbers and values are timm's; tests compare them. Every other ViT is timm's own.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gtsa_kit.models.drop_path import DropPath

SIZES: Final[Mapping[str, tuple[int, int, int]]] = {
    "vit_tiny_patch16_224": (192, 12, 3),
    "vit_small_patch16_224": (384, 12, 6),
    "vit_base_patch16_224": (768, 12, 12),
    "vit_large_patch16_224": (1024, 24, 16),
}
"""Width, depth and heads of models of timm that have patches of 16 pixels and images of 224."""
ARGUMENTS: Final = frozenset(
    "act_layer class_token depth embed_dim img_size in_chans init_values mlp_ratio no_embed_class num_heads patch_size "
    "qk_norm reg_tokens".split()
)
"""Arguments of timm's VisionTransformer that `PlainViT` takes with the same meaning."""
STD: Final = 0.02
"""Standard deviation of the random positions and of the weights of linear layers."""


class QuickGELU(nn.Module):
    """GELU approximated by x * sigmoid(1.702 x)."""

    def forward(self, x: Tensor) -> Tensor:
        """Map a tensor of any shape."""
        return x * (1.702 * x).sigmoid()


ACTIVATION_LAYERS: Final[Mapping[str, Callable[[], nn.Module]]] = {
    "gelu": nn.GELU,
    "gelu_tanh": partial(nn.GELU, approximate="tanh"),
    "quick_gelu": QuickGELU,
}
"""Activations by timm's names."""


def is_plain(model: str, arguments: Mapping[str, Any]) -> bool:
    """Return whether `PlainViT` is what timm builds by the name of a model and arguments."""
    takes_arguments = ARGUMENTS.issuperset(arguments) and arguments.get("act_layer", "gelu") in ACTIVATION_LAYERS
    return model in SIZES and takes_arguments


class PatchEmbed(nn.Module):
    """Convolution that embeds patches, and the grid of patches that the positions are for."""

    def __init__(self, image: int | list[int], patch: int, width: int, channels: int) -> None:
        super().__init__()
        height, across = (image, image) if isinstance(image, int) else image
        self.grid_size = height // patch, across // patch
        self.proj = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)


class Attention(nn.Module):
    """Self-attention with one layer for queries, keys and values."""

    def __init__(self, width: int, heads: int, norm: Callable[[int], nn.Module], qk_norm: bool) -> None:
        super().__init__()
        self.num_heads, self.fused_attn = heads, True
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm, self.k_norm = (norm(width // heads) if qk_norm else nn.Identity() for _ in range(2))
        self.attn_drop = nn.Identity()
        """Layer that the weights pass without the fused kernel, so that a hook can read them."""
        self.norm = nn.Identity()
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """Map tokens (B, N, D) to (B, N, D); a mask, boolean (B, 1, N, N), says which tokens attend to which."""
        b, n, width = x.shape
        size = width // self.num_heads
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, size).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        if self.fused_attn:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        else:
            scores = (q * size**-0.5) @ k.transpose(-2, -1)
            if attn_mask is not None:
                scores = scores.masked_fill(~attn_mask, -torch.inf)
            mixed = self.attn_drop(scores.softmax(dim=-1)) @ v
        return self.proj(mixed.transpose(1, 2).reshape(b, n, width))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, width: int, hidden: int, activation: str) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = ACTIVATION_LAYERS[activation]()
        self.norm = nn.Identity()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, D) to (B, N, D)."""
        return self.fc2(self.act(self.fc1(x)))  # type: ignore[no-any-return]


class LayerScale(nn.Module):
    """Factor of each channel."""

    def __init__(self, width: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), initial))

    def forward(self, x: Tensor) -> Tensor:
        """Scale (..., D)."""
        return x * self.gamma


class Block(nn.Module):
    """Attention and MLP, each on the norm of the residual stream that it is added to."""

    def __init__(
        self,
        width: int,
        heads: int,
        norm: Callable[[int], nn.Module],
        drop_path: float,
        *,
        mlp_ratio: float,
        qk_norm: bool,
        init_values: float | None,
        act_layer: str,
    ) -> None:
        super().__init__()
        scale = partial(LayerScale, width, init_values) if init_values else nn.Identity
        drop = partial(DropPath, drop_path) if drop_path else nn.Identity
        self.norm1, self.attn = norm(width), Attention(width, heads, norm, qk_norm)
        self.ls1, self.drop_path1 = scale(), drop()
        self.norm2, self.mlp = norm(width), Mlp(width, int(width * mlp_ratio), act_layer)
        self.ls2, self.drop_path2 = scale(), drop()

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """Map tokens (B, N, D) to (B, N, D)."""
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x), attn_mask)))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))  # type: ignore[no-any-return]


class PlainViT(nn.Module):
    """Parts of a ViT, which `Encoder` computes with."""

    def __init__(
        self,
        model: str,
        norm_eps: float,
        drop_path: float = 0.0,
        *,
        img_size: int | list[int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int | None = None,
        depth: int | None = None,
        num_heads: int | None = None,
        class_token: bool = True,
        reg_tokens: int = 0,
        no_embed_class: bool = False,
        mlp_ratio: float = 4.0,
        qk_norm: bool = False,
        init_values: float | None = None,
        act_layer: str = "gelu",
    ) -> None:
        """Build the ViT with timm's random initialization.

        Args:
            model: Key of `SIZES`.
            norm_eps: Epsilon of every norm.
            drop_path: Stochastic depth rate of the last block; rates rise linearly from 0 at the first block.
            img_size: Side of the images that the positions are for, or their height and width.
            patch_size: Side of a patch.
            in_chans: Number of channels of the images.
            embed_dim: Width; None for that of the model, and so for `depth` and `num_heads`.
            depth: Number of blocks.
            num_heads: Number of attention heads.
            class_token: Whether there is a class token.
            reg_tokens: Number of registers.
            no_embed_class: Whether class token and registers have no learned positions.
            mlp_ratio: Ratio of the hidden width of the MLPs to the width.
            qk_norm: Whether queries and keys are normalized.
            init_values: Initial LayerScale; None for no LayerScale.
            act_layer: Key of `ACTIVATION_LAYERS`.

        Raises:
            ValueError: The heads do not divide the width.
        """
        super().__init__()
        own = SIZES[model]
        width, blocks, heads = embed_dim or own[0], depth or own[1], num_heads or own[2]
        if width % heads:
            raise ValueError(f"{heads} heads do not divide a width of {width}; give another number of heads")
        norm = partial(nn.LayerNorm, eps=norm_eps)
        self.no_embed_class, self.num_prefix_tokens = no_embed_class, int(class_token) + reg_tokens
        self.patch_embed = PatchEmbed(img_size, patch_size, width, in_chans)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width)) if class_token else None
        self.reg_token = nn.Parameter(torch.empty(1, reg_tokens, width)) if reg_tokens else None
        rows, columns = self.patch_embed.grid_size
        positions = rows * columns + (0 if no_embed_class else self.num_prefix_tokens)
        self.pos_embed = nn.Parameter(torch.empty(1, positions, width))
        self.norm_pre = nn.Identity()
        options = {"mlp_ratio": mlp_ratio, "qk_norm": qk_norm, "init_values": init_values, "act_layer": act_layer}
        rates = torch.linspace(0, drop_path, blocks, device="cpu").tolist()
        self.blocks = nn.Sequential(*(Block(width, heads, norm, rate, **options) for rate in rates))  # type: ignore[arg-type]
        self.norm = norm(width)
        self._initialize()

    def _initialize(self) -> None:
        """Draw the random weights in timm's order."""
        _draw(self.pos_embed)
        for token in (self.cls_token, self.reg_token):
            if token is not None:
                nn.init.normal_(token, std=1e-6)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                _draw(layer.weight)
                nn.init.zeros_(layer.bias)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return patterns of the parameters of each layer, as timm's functions for decay by layer take them."""
        del coarse  # one group for each block in either case
        return {
            "stem": r"^cls_token|reg_token|pos_embed|patch_embed",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))],
        }


@torch.no_grad()
def _draw(tensor: Tensor) -> None:
    """Fill with a normal distribution, cut at -2 and 2, by the inverse of its cumulative distribution.

    torch's own function draws other values from a seed than timm's.
    """
    tensor.uniform_(-1, 1).erfinv_().mul_(STD * math.sqrt(2)).clamp_(-2, 2)
