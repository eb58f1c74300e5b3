"""Analysis of the region loss of GTSA runs: its value against controls, and recall@r of the projected tokens."""

import statistics
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from gtsa_kit.config import RunConfig, load_config
from gtsa_kit.data.multicrop import MultiCropDataset, collate_views
from gtsa_kit.data.sources import FileSource
from gtsa_kit.evaluation.correspondence import CorrespondenceOptions, correspondence
from gtsa_kit.evaluation.models import Model
from gtsa_kit.export.runtime.torch_runner import TorchRunner
from gtsa_kit.methods import make_method
from gtsa_kit.methods.base import Method
from gtsa_kit.methods.gtsa_losses import constant_baseline_loss, correspondence_loss, region_loss, roi_sizes
from gtsa_kit.training.checkpoint import load_checkpoint
from study.settings import SIZE


def load_method(run: Path) -> tuple[RunConfig, Method]:
    """Load the settings of a run, and its method with student and teacher."""
    config = load_config(file=run / "config.yaml")
    method = make_method(config).eval()
    method.load_state_dict(load_checkpoint(run)["model"])
    return config, method


@torch.no_grad()
def region_loss_controls(run: Path, images: Sequence[Path], seed: int = 100) -> dict[str, float]:
    """Compute the region loss of a GTSA run on held-out images, and with wrong targets or a constant student.

    Returns:
        `region`: the loss itself. `rotated`: with the teacher's maps rotated by 180 degrees. `other_image`: with the
        maps of another image. `constant`: the lowest loss of a constant student. `correspondence`: the patch
        correspondence loss.
    """
    config, method = load_method(run)
    source = FileSource(Path(), list(images))
    dataset = MultiCropDataset(source, list(source.entries()), config.views, seed)
    views = collate_views([dataset[index] for index in range(len(images))]).content
    outputs = method(views)
    sizes = roi_sizes(config.loss, outputs.global_maps, outputs.local_maps)

    def region(targets: Tensor) -> float:
        maps = outputs.global_maps, outputs.local_maps
        return float(region_loss(*maps, targets, views.boxes, views.rotations, sizes))

    targets = outputs.targets
    match_fraction = config.loss.match_fraction
    return {
        "region": region(targets),
        "rotated": region(torch.rot90(targets, 2, (-2, -1))),
        "other_image": region(targets.roll(1, 0)),
        "constant": float(constant_baseline_loss(targets, views.boxes, views.rotations, sizes[0])),
        "correspondence": float(correspondence_loss(outputs.global_maps, outputs.local_maps, targets, match_fraction)),
    }


class ProjectedEncoder(nn.Module):
    """Teacher of a GTSA run whose feature map is the projector's output, which the region loss compares."""

    def __init__(self, run: Path) -> None:
        super().__init__()
        config, method = load_method(run)
        self.teacher, self.final_norm = method.teacher, config.model.norm_before_heads

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the (B, D) embedding and the (B, C, h, w) projected map of (B, 3, H, W) images."""
        features = self.teacher.encoder(images, final_norm=self.final_norm)
        return features.embedding, self.teacher.projector(features.feature_map)


def correspondence_by_layer(model: Model, run: Path, images: Sequence[Path], seeds: int) -> dict[str, dict[str, float]]:
    """Measure the correspondence recall@1, in percent, of the encoder's tokens and of the projected tokens."""
    manifest = model.runner.manifest
    projected = Model("projected", TorchRunner(ProjectedEncoder(run).eval(), manifest, torch.device("cpu")), None)
    encoder = Model("encoder", model.runner, model.source)
    report = correspondence([encoder, projected], images, CorrespondenceOptions(size=SIZE), range(seeds))
    return {
        name: {
            key: statistics.fmean(row[key] for row in report.rows if row["model"] == name)
            for key in ("crop", "rotation_180", "crop_rotation")
        }
        for name in ("encoder", "projected")
    }
