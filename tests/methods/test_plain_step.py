"""Losses and update of benchmarks/plain compared with those of the package."""

from pathlib import Path

import pytest
import torch
from helpers.datasets import multicrop_dataset
from plain.losses import plain_loss  # type: ignore[import-not-found]
from plain.step import plain_optimizer, plain_update  # type: ignore[import-not-found]

from gtsa_kit.config import RunConfig, load_config
from gtsa_kit.data.augment import Views, collate
from gtsa_kit.methods import make_method
from gtsa_kit.methods.gtsa_losses import gtsa_loss
from gtsa_kit.training.optim import clip_grad_norm_per_parameter, make_optimizer, set_hyperparameters


@pytest.fixture(scope="module")
def config_and_views(images: Path) -> tuple[RunConfig, Views]:
    tiny = {"model.arch": "vit_test", "model.projector_dim": 48, "model.drop_path": 0.0, "views.local_crops": 3}
    config = load_config("coco", None, {**tiny, "data": str(images)})
    dataset = multicrop_dataset(sorted(images.iterdir()), config.views, seed=0)
    return config, collate([dataset[t].content for t in range(3)])


def test_losses_and_gradients_agree_at_the_papers_sizes(config_and_views: tuple[RunConfig, Views]) -> None:
    config, views = config_and_views
    torch.manual_seed(0)
    model = make_method(config)
    outputs = model(views)
    inputs = (outputs.global_maps, outputs.local_maps, outputs.rotation_logits)
    ours = gtsa_loss(*outputs[:4], views.boxes, views.rotations, config.loss, 0.5).total
    plain = plain_loss(outputs, views, config.loss, 0.5)
    assert abs(float(ours.detach() - plain.detach())) < 1e-6
    our_gradients = torch.autograd.grad(ours, inputs, retain_graph=True)
    for a, b in zip(our_gradients, torch.autograd.grad(plain, inputs), strict=True):
        assert float((a - b).norm() / b.norm()) < 1e-5


def test_update_agrees(config_and_views: tuple[RunConfig, Views]) -> None:
    config, views = config_and_views
    torch.manual_seed(0)
    ours, plain = make_method(config), make_method(config)
    plain.load_state_dict(ours.state_dict())
    optimizers = make_optimizer(ours, config.optim), plain_optimizer(plain, config)
    for model in (ours, plain):
        gtsa_loss(*model(views)[:4], views.boxes, views.rotations, config.loss, 0.5).total.mul(
            100
        ).backward()  # so that it clips
    clip_grad_norm_per_parameter(ours, config.optim.clip_grad_norm)
    set_hyperparameters(optimizers[0], 1e-4, 0.04)
    optimizers[0].step()
    ours.update_teacher(0.996)
    plain_update(plain, optimizers[1], config)
    for (name, a), (_, b) in zip(ours.state_dict().items(), plain.state_dict().items(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6, msg=lambda message, name=name: f"{name}: {message}")
