"""MoCo v3 (Chen, Xie and He, 2021): each view finds its image among those of the batch in another view's keys.

The heads are lightly's layers. lightly has no loss of this kind (queries against the other view's keys alone), so it
stands here. What differs from the published method is listed in docs/baselines.md.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gtsa_kit.config import RunConfig
from gtsa_kit.data.augment import Views
from gtsa_kit.methods.base import Method
from gtsa_kit.methods.lightly_import import lightly
from gtsa_kit.methods.pooled import Pooled


class MoCoOutputs(NamedTuple):
    """B images, G global views of V in all, E channels; not yet of unit length."""

    queries: Tensor
    """(V, B, E) of the student, globals first."""
    keys: Tensor
    """(G, B, E) of the teacher; no gradient."""
    tokens: Tensor
    """(B, G, D, h, w); no gradient."""


class Student(Pooled):
    """Encoder, projector and predictor."""

    predictor: nn.Module


class MoCoV3(Method):
    """Student, and as its teacher the "momentum encoder" with a projector.

    The paper has two crops of one size; with local ones, these are queries too. `views.local_crops=0` is the paper's.
    """

    panels = (("Queries that find their own image", ("contrast_accuracy",)),)
    student: Student
    teacher: Pooled

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        self.temperature = config.mocov3.temperature
        hidden, out = config.mocov3.hidden, config.mocov3.output

        def projector(width: int) -> nn.Module:
            return mlp(width, hidden, hidden, out)

        self.student = Student(config.model, projector, config.model.drop_path)
        self.student.predictor = mlp(out, hidden, out)
        if config.mocov3.freeze_patch_embed:
            self.student.encoder.vit.patch_embed.requires_grad_(False)
        self.teacher = Pooled(config.model, projector)
        self.teacher.follow(self.student)

    def forward(self, views: Views) -> MoCoOutputs:
        """The student sees every view, the teacher the global ones.

        Heads take one view at a time: their batch norms are over images, as published, never over views.
        """
        embeddings, tokens = self.student.embed_all(views)
        queries = torch.stack([self.student.predictor(self.student.head(view)) for view in embeddings])
        with torch.no_grad():
            embeddings, _ = self.teacher.embed(views.global_images)
            keys = torch.stack([self.teacher.head(view) for view in embeddings])
        return MoCoOutputs(queries, keys, tokens)

    def loss(self, outputs: MoCoOutputs, views: Views, now: Mapping[str, float]) -> tuple[Tensor, dict[str, Tensor]]:
        """See `contrast`."""
        total, accuracy = contrast(outputs.queries, outputs.keys, self.temperature)
        return total, {"contrast_accuracy": accuracy}


def contrast(queries: Tensor, keys: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """InfoNCE of each query among all images' keys, over all pairs of a key's view g and a query's view v != g.

    A pair counts 2 * temperature times its cross-entropy; the sum over both orders of two views, which the paper takes,
    is written as twice the mean, so that more views make no larger loss.

    Args:
        queries: (V, B, E).
        keys: (G, B, E); those of all processes are gathered.
        temperature: Divides cosines.

    Returns:
        The loss, and the share of queries whose nearest key is their own image's (chance: 1 / images).
    """
    everyone, first = gather_keys(keys)  # (G, N, E): N images, ours from `first` on
    cosines = torch.einsum("vbe,gne->vgbn", F.normalize(queries, dim=-1), F.normalize(everyone, dim=-1))
    n = len(keys)
    pairs = torch.arange(len(queries) * n - n, device=keys.device)
    pairs = torch.where(pairs < n * n - n, pairs + pairs // n + 1, pairs + n)  # without those of g and g
    logits = (cosines / temperature).flatten(0, 1)[pairs]  # (pairs, B, N)
    own = first + torch.arange(logits.shape[1], device=keys.device).expand(len(logits), -1)
    total = 4 * temperature * F.cross_entropy(logits.flatten(0, 1), own.flatten())
    return total, (logits.argmax(dim=-1) == own).float().mean()


def gather_keys(keys: Tensor) -> tuple[Tensor, int]:
    """(G, B, E) to (G, B * processes, E) in the order of processes, and the index of this one's first."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return keys, 0
    parts = [torch.empty_like(keys) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, keys.contiguous())
    return torch.cat(parts, dim=1), torch.distributed.get_rank() * keys.shape[1]


def mlp(*widths: int) -> nn.Module:
    """Linear layers without biases, each with a batch norm, between them ReLU; the last norm has no affine."""
    hidden = [(a, b, nn.BatchNorm1d(b), nn.ReLU()) for a, b in pairwise(widths[:-1])]
    last = (widths[-2], widths[-1], nn.BatchNorm1d(widths[-1], affine=False), None)
    head: nn.Module = lightly("models.modules.heads").ProjectionHead([*hidden, last])
    return head
