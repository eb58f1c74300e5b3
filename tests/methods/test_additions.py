"""Terms beside the losses of GTSA, against their formulas in float64 and lightly's loss; off unless they are set."""

from pathlib import Path

import pytest
import torch
from helpers import lightly_reference
from lightly.loss import VICRegLoss
from torch import Tensor, nn

from gtsa_kit.config import LossConfig
from gtsa_kit.export.api import load_encoder
from gtsa_kit.files import read_json_lines
from gtsa_kit.methods import make_method
from gtsa_kit.methods.additions import TargetCenter, variance_covariance
from gtsa_kit.methods.gtsa_losses import roi_sizes
from gtsa_kit.training.checkpoint import load_checkpoint

VALUES = {"alpha": 0.5, "teacher_temperature": 0.05}
ADDITIONS = {
    "loss.variance_weight": 0.3,
    "loss.covariance_weight": 0.02,
    "loss.target_center_momentum": 0.9,
    "loss.image_weight": 0.7,
}


@pytest.mark.parametrize(("patches", "channels"), [(2, 3), (40, 5), (7, 16)])
def test_variance_and_covariance_equal_their_formulas(patches: int, channels: int) -> None:
    maps = (
        torch.randn(2, 3, channels, patches, 1, dtype=torch.float64) * torch.linspace(0.1, 2, channels)[:, None, None]
    )
    tokens = maps.permute(0, 1, 3, 4, 2).reshape(-1, channels)
    hinge, covariance = variance_covariance(maps)
    expected = torch.cov(tokens.T)
    slow_hinge = sum(max(0.0, 1 - float(expected[c, c] + 1e-4) ** 0.5) for c in range(channels)) / channels
    slow = sum(float(expected[i, j]) ** 2 for i in range(channels) for j in range(channels) if i != j) / channels
    assert float(hinge) == pytest.approx(slow_hinge, abs=1e-12)
    assert float(covariance) == pytest.approx(slow, rel=1e-10)
    # lightly's loss on two equal views: its invariance is 0, and it halves the hinges of the two views.
    vicreg = VICRegLoss(lambda_param=1.0, mu_param=1.0, nu_param=1.0, eps=1e-4)
    assert float(hinge + 2 * covariance) == pytest.approx(float(vicreg(tokens, tokens)), rel=1e-9)


def test_variance_is_zero_for_spread_channels_and_its_gradient_finite_for_constant_ones() -> None:
    maps = 3 * torch.randn(4, 2, 6, 5, 5)
    assert variance_covariance(maps)[0] == 0
    constant = torch.ones(2, 2, 6, 3, 3, requires_grad=True)
    hinge, covariance = variance_covariance(constant)
    (hinge + covariance).backward()
    assert float(hinge) == pytest.approx(0.99)
    assert constant.grad is not None
    assert bool(constant.grad.isfinite().all())


def test_the_center_is_the_moving_average_of_earlier_targets() -> None:
    center, mean = TargetCenter(5, momentum=0.8), torch.zeros(5, dtype=torch.float64)
    for step in range(4):
        targets = torch.randn(3, 2, 5, 4, 4, generator=torch.Generator().manual_seed(step)) + 2
        expected = targets.double() - mean[:, None, None]
        torch.testing.assert_close(center(targets).double(), expected, rtol=0, atol=1e-5)
        mean = 0.8 * mean + 0.2 * targets.double().transpose(2, 4).reshape(-1, 5).mean(0)
    torch.testing.assert_close(center.mean.double(), mean, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("patches", "side"), [(6, 4), (10, 4), (11, 10), (14, 10)])
def test_regions_have_the_published_size(patches: int, side: int) -> None:
    maps = torch.zeros(1, 1, 1, patches, patches)
    assert roi_sizes(LossConfig(), maps, maps[..., :6, :6]) == (side, 4)
    assert roi_sizes(LossConfig(roi_size_global=7, roi_size_local=3), maps, maps) == (7, 3)


def test_the_total_is_that_of_the_paper_and_the_weighted_additions(settings, views) -> None:
    views = views._replace(boxes=torch.tensor([5.0, 5, 45, 40]).expand(4, 4, 4))

    def built(changes: dict[str, float]) -> nn.Module:
        torch.manual_seed(3)
        model: nn.Module = make_method(settings("gtsa", **{"model.drop_path": 0.0}, **changes))
        return model.train()

    plain = built({})
    base, terms = plain.loss(plain(views), views, VALUES)
    assert set(terms) == {"region", "correspondence", "rotation", "rotation_accuracy"}
    weights = {"loss.variance_weight": 0.3, "loss.covariance_weight": 0.02, "loss.image_weight": 0.7}
    model = built(weights)
    shared = plain.state_dict()
    assert all(torch.equal(value, shared[name]) for name, value in model.state_dict().items() if name in shared)
    before = {name: value.clone() for name, value in model.state_dict().items()}  # the loss moves its center
    total, terms = model.loss(model(views), views, VALUES)
    config = settings("dino", **{"dino.pool": "cls", "model.drop_path": 0.0})
    image, _ = lightly_reference.dino_step(as_dino(before), views, config, 0.05)
    torch.testing.assert_close(terms["image"].detach(), image, rtol=0, atol=1e-5)
    expected = base + 0.3 * terms["variance"] + 0.02 * terms["covariance"] + 0.7 * image
    torch.testing.assert_close(total.detach(), expected.detach(), rtol=0, atol=1e-5)
    total.backward()
    trained = [name for name, parameter in model.student.named_parameters() if parameter.requires_grad]
    assert all(float(model.student.get_parameter(name).grad.norm()) > 0 for name in trained)


def as_dino(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of GTSA's image term to those of the method DINO."""
    return {
        name.replace("image_head", "head").replace("image_criterion", "criterion"): w for name, w in weights.items()
    }


@pytest.mark.usefixtures("no_run_figures")
def test_a_run_with_all_additions_resumes_to_the_same_bytes(settings, train_here, tmp_path: Path) -> None:
    small = {"model.projector_dim": 32, "train.steps": 6, "train.checkpoint_every": 1, "train.log_every": 1}
    config = settings("gtsa", **small, **ADDITIONS)
    assert train_here(config, tmp_path / "whole")
    assert not train_here(config, tmp_path / "run", stop=3)
    assert train_here(config, tmp_path / "run", resume=True)
    whole, resumed = (load_checkpoint(tmp_path / name)["model"] for name in ("whole", "run"))
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    assert float(whole["target_center.mean"].abs().max()) > 0
    assert float(whole["image_criterion.center"].abs().max()) > 0
    rows = read_json_lines(tmp_path / "whole" / "metrics.jsonl")
    assert {"variance", "covariance", "image", "teacher_temperature"} <= rows[-1].keys()


def test_a_run_with_the_class_token_hands_it_on_as_its_embedding(settings, train_here, tmp_path: Path) -> None:
    config = settings("dino", **{"dino.pool": "cls", "train.steps": 2})
    assert train_here(config, tmp_path / "run")
    encoder = load_encoder(tmp_path / "run")
    with torch.no_grad():
        features = encoder(torch.randn(2, 3, 48, 48))
    assert encoder.architecture.embedding == "cls"
    assert torch.equal(features.embedding, features.class_token)
