"""MoCo v3 (Chen, Xie and He, 2021): each view's query is matched with its image's key among those of the batch.

The heads are built from lightly's layers. lightly has no loss that contrasts queries with the other view's keys only,
so the loss is implemented here. docs/baselines.md lists the differences from the published method.
"""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gtsa_kit.config import RunConfig
from gtsa_kit.data.augment import Views
from gtsa_kit.methods.base import Method, PlotGroup, world_size
from gtsa_kit.methods.baselines import PooledBranch, import_lightly
from gtsa_kit.models.encoder_spec import EncoderSpec


class MoCoOutputs(NamedTuple):
    """Outputs of student and teacher, not L2-normalized: B images, G global views of V views in all, E channels."""

    queries: Tensor
    """Student queries, (V, B, E), global views first."""
    keys: Tensor
    """Teacher keys, (G, B, E), without gradient."""
    tokens: Tensor
    """Student encoder's feature maps of the global views, (B, G, D, h, w), without gradient."""


class MoCoStudent(PooledBranch):
    """Encoder, projector (`head`) and predictor."""

    predictor: nn.Module


class MoCoV3(Method):
    """MoCo v3: the paper's momentum encoder with its projector is the teacher.

    The paper has two crops of one size. Local crops, if there are any, are additional queries;
    `views.local_crops=0` gives the paper's method.
    """

    student: MoCoStudent
    teacher: PooledBranch

    def __init__(self, config: RunConfig, encoder: EncoderSpec) -> None:
        super().__init__()
        self.temperature = config.mocov3.temperature
        keys = config.train.micro_batch * world_size()
        self.plot_groups = (
            PlotGroup("loss and its baseline", ("loss",), baseline="loss_constant_baseline", limits=(0, None)),
            PlotGroup("contrast accuracy", ("contrast_accuracy",), level=1 / keys, limits=(0, 1)),
        )
        hidden, out = config.mocov3.hidden, config.mocov3.output

        def projector(width: int) -> nn.Module:
            return mlp(width, hidden, hidden, out)

        self.student = MoCoStudent(config.model, encoder, projector, config.model.drop_path)
        self.student.predictor = mlp(out, hidden, out)
        if config.mocov3.freeze_patch_embed:
            self.student.encoder.vit.patch_embed.requires_grad_(False)
        self.teacher = PooledBranch(config.model, encoder, projector)
        self.teacher.initialize_from(self.student)

    def forward(self, views: Views) -> MoCoOutputs:
        """Run the student on all views and the teacher on the global views.

        Heads run once per view, so that batch norms average over images only, as published.
        """
        embeddings, tokens = self.student.embed_all(views)
        queries = torch.stack([self.student.predictor(self.student.head(view)) for view in embeddings])
        with torch.no_grad():
            embeddings, _ = self.teacher.embed(views.global_images)
            keys = torch.stack([self.teacher.head(view) for view in embeddings])
        return MoCoOutputs(queries, keys, tokens)

    def loss(
        self, outputs: MoCoOutputs, views: Views, schedule_values: Mapping[str, float]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the contrastive loss, the accuracy (see `contrast`), and the loss of a constant student output."""
        total, accuracy = contrast(outputs.queries, outputs.keys, self.temperature)
        images = outputs.keys.shape[1] * world_size()
        baseline = total.new_tensor(4 * self.temperature * math.log(images))  # every key is equally near
        return total, {"contrast_accuracy": accuracy, "loss_constant_baseline": baseline}


def contrast(queries: Tensor, keys: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Compute InfoNCE over all pairs of a query's view v and a key's view g != v; negatives are other images' keys.

    The paper sums 2 * temperature * cross-entropy over both orders of two views. Here the loss is twice the mean over
    all pairs, so that it does not grow with the number of views.

    Args:
        queries: (V, B, E), global views first.
        keys: (G, B, E); the keys of all processes are gathered.
        temperature: Divisor of the cosines.

    Returns:
        The loss, and the fraction of queries whose nearest key belongs to the same image (chance: 1 / images).
    """
    all_keys, offset = gather_keys(keys)  # (G, N, E): N images, those of this process from `offset` on
    cosines = torch.einsum("vbe,gne->vgbn", F.normalize(queries, dim=-1), F.normalize(all_keys, dim=-1))
    n = len(keys)
    pairs = torch.arange(len(queries) * n - n, device=keys.device)
    pairs = torch.where(pairs < n * n - n, pairs + pairs // n + 1, pairs + n)  # all pairs (v, g) with v != g
    logits = (cosines / temperature).flatten(0, 1)[pairs]  # (pairs, B, N)
    labels = offset + torch.arange(logits.shape[1], device=keys.device).expand(len(logits), -1)
    total = 4 * temperature * F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    return total, (logits.argmax(dim=-1) == labels).float().mean()


def gather_keys(keys: Tensor) -> tuple[Tensor, int]:
    """Gather keys (G, B, E) of all processes.

    Returns:
        Keys (G, B * processes, E) in the order of processes, and the index of this process's first image.
    """
    if (processes := world_size()) == 1:
        return keys, 0
    parts = [torch.empty_like(keys) for _ in range(processes)]
    torch.distributed.all_gather(parts, keys.contiguous())
    return torch.cat(parts, dim=1), torch.distributed.get_rank() * keys.shape[1]


def mlp(*widths: int) -> nn.Module:
    """Build an MLP: linear layers without bias, each followed by batch norm and, but for the last, ReLU.

    The last batch norm is not affine.
    """
    hidden = [(a, b, nn.BatchNorm1d(b), nn.ReLU()) for a, b in pairwise(widths[:-1])]
    last = (widths[-2], widths[-1], nn.BatchNorm1d(widths[-1], affine=False), None)
    head: nn.Module = import_lightly("models.modules.heads").ProjectionHead([*hidden, last])
    return head
