"""One training step of each baseline compared with lightly, and parts of the losses compared with formulas."""

import math

import pytest
import torch
from helpers import lightly_reference
from lightly.models.utils import update_momentum

from gtsa_kit.methods import make_method
from gtsa_kit.methods.base import Method, TrainSchedule
from gtsa_kit.methods.mocov3 import contrast

SCHEDULE_VALUES = {"teacher_temperature": 0.05}
METHODS = ["dino", "mocov3"]


def make(config, noise: float = 0.02) -> Method:
    """Build a model with noise on all parameters, so that student and teacher differ, and with a nonzero center."""
    torch.manual_seed(3)
    model = make_method(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith("weight_g"):  # norm of a prototype
                parameter.add_(torch.randn_like(parameter) * noise)
        if config.method == "dino":
            model.criterion.center.normal_().mul_(0.1)
    return model.train()


# --- the whole step ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"views__local_crops": 0},
        {"dino__norm_last_layer": True, "mocov3__freeze_patch_embed": False},
        {"dino__pool": "cls", "mocov3__pool": "cls"},
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_step_equals_lightly(method: str, changes: dict[str, object], settings, views) -> None:
    config = settings(method, **changes)
    if not config.views.local_crops:
        views = views._replace(local_images=views.local_images[:, :0])
    model = make(config)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if method == "dino":
        expected, gradients = lightly_reference.dino_step(
            weights, views, config, SCHEDULE_VALUES["teacher_temperature"]
        )
    else:
        expected, gradients = lightly_reference.moco_step(weights, views, config)
    loss, _ = model.loss(model(views), views, SCHEDULE_VALUES)
    loss.backward()
    torch.testing.assert_close(loss.detach(), expected, rtol=0, atol=1e-5)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    patches = {name for name in gradients if "patch_embed" in name}
    assert len(patches) == 2
    frozen = patches if method == "mocov3" and config.mocov3.freeze_patch_embed else set()
    assert set(trained) == set(gradients) - frozen
    for name, parameter in trained.items():
        # Gradient norms reach 5; batch norms over four images magnify rounding of the encoder to 1e-5 relative.
        error = float((parameter.grad - gradients[name]).norm())
        assert error < 1e-5 + 5e-5 * float(gradients[name].norm()), name


@pytest.mark.parametrize("method", METHODS)
def test_teacher_has_no_gradient_and_starts_equal_to_the_student(method: str, settings, views) -> None:
    torch.manual_seed(0)
    model = make_method(settings(method))
    student, teacher = model.student.state_dict(), model.teacher.state_dict()
    assert all(torch.equal(tensor, student[name]) for name, tensor in teacher.items())
    model.loss(model(views), views, SCHEDULE_VALUES)[0].backward()
    assert all(p.grad is None and not p.requires_grad for p in model.teacher.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_teacher_update_equals_lightly(method: str, settings) -> None:
    ours, theirs = make(settings(method)), make(settings(method))
    ours.update_teacher(0.9)
    update_momentum(theirs.student.encoder, theirs.teacher.encoder, 0.9)
    update_momentum(theirs.student.head, theirs.teacher.head, 0.9)
    for (name, a), b in zip(ours.teacher.named_parameters(), theirs.teacher.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6, msg=name)


def test_one_seed_gives_all_methods_the_same_encoder(settings) -> None:
    encoders = []
    for method in ("gtsa", *METHODS):
        torch.manual_seed(11)
        encoders.append(make_method(settings(method)).teacher.encoder.vit.state_dict())
    for other in encoders[1:]:
        assert all(torch.equal(tensor, other[name]) for name, tensor in encoders[0].items())


@pytest.mark.parametrize("method", METHODS)
def test_heads_without_the_final_norm(method: str, settings, views) -> None:
    model = make(settings(method, model__norm_before_heads=False))
    model.loss(model(views), views, SCHEDULE_VALUES)[0].backward()
    assert {n for n, p in model.student.encoder.named_parameters() if p.requires_grad and p.grad is None} == set()
    assert not any(p.requires_grad for p in model.student.encoder.vit.norm.parameters())


# --- DINO -------------------------------------------------------------------------------------------------------------


def test_center_update_equals_its_formula(settings, views) -> None:
    model = make(settings("dino", dino__center_momentum=0.7))
    before = model.criterion.center.double().clone()
    outputs = model(views)
    model.loss(outputs, views, SCHEDULE_VALUES)
    rows = outputs.teacher.double().reshape(-1, outputs.teacher.shape[-1])
    expected = 0.7 * before + 0.3 * sum(rows) / len(rows)
    torch.testing.assert_close(model.criterion.center.double(), expected, rtol=0, atol=1e-6)


def test_center_is_in_the_state_dict(settings) -> None:
    assert make_method(settings("dino")).state_dict()["criterion.center"].shape == (1, 1, 40)


def test_entropy_plus_divergence_is_the_loss(settings, views) -> None:
    model = make(settings("dino"), noise=0.3)
    center = model.criterion.center.double().clone()
    outputs = model(views)
    total, terms = model.loss(outputs, views, SCHEDULE_VALUES)
    p = ((outputs.teacher.double() - center) / 0.05).softmax(-1)
    q = (outputs.student.double() / 0.1).log_softmax(-1)
    entropy = [-(p[g, b] * p[g, b].log()).sum() for g in range(2) for b in range(4)]
    divergence = [
        (p[g, b] * (p[g, b].log() - q[v, b])).sum() for g in range(2) for v in range(4) if v != g for b in range(4)
    ]
    assert float(terms["teacher_entropy"]) == pytest.approx(float(sum(entropy)) / 8, abs=1e-5)
    assert float(terms["divergence"]) == pytest.approx(float(sum(divergence).detach()) / 24, abs=1e-5)
    assert float(total.detach()) == pytest.approx(float(terms["teacher_entropy"] + terms["divergence"]), abs=1e-5)


def test_temperature_rises_linearly_then_stays(settings) -> None:
    # 10 steps per epoch and 3 epochs of rise: 30 steps.
    values = make_method(settings("dino")).schedules(TrainSchedule(images=40, batch=4, steps=100, warmup=0))
    temperature = values["teacher_temperature"].tolist()
    assert temperature[:30] == pytest.approx([0.04 + 0.03 * step / 30 for step in range(30)])
    assert temperature[30:] == [0.07] * 70


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (2, 1), (7, 3)])
def test_temperature_of_a_short_run(settings, steps: int, warmup: int) -> None:
    values = make_method(settings("dino")).schedules(TrainSchedule(images=1000, batch=4, steps=steps, warmup=0))
    temperature = values["teacher_temperature"]
    assert len(temperature) == steps
    assert (temperature == 0.07).sum() == steps - warmup


# --- MoCo v3 ----------------------------------------------------------------------------------------------------------


def slow_contrast(queries, keys, tau: float) -> tuple[float, float]:
    """Compute loss and accuracy query by query and view by view."""
    terms, correct = [], []
    for g, view_keys in enumerate(keys):
        for v, view_queries in enumerate(queries):
            if v == g:
                continue
            for b, query in enumerate(view_queries):
                cosines = [float(query @ key / (query.norm() * key.norm())) for key in view_keys]
                total = sum(math.exp(c / tau) for c in cosines)
                terms.append(-math.log(math.exp(cosines[b] / tau) / total))
                correct.append(cosines[b] == max(cosines))
    return 2 * (2 * tau) * sum(terms) / len(terms), sum(correct) / len(correct)


@pytest.mark.parametrize(("n_views", "n_global"), [(2, 2), (5, 2), (3, 1), (4, 3)])
def test_contrast_equals_a_loop(n_views: int, n_global: int) -> None:
    generator = torch.Generator().manual_seed(n_views)
    own = torch.randn(1, 6, 8, generator=generator, dtype=torch.float64)
    queries = own + 0.7 * torch.randn(n_views, 6, 8, generator=generator, dtype=torch.float64)
    keys = own + 0.7 * torch.randn(n_global, 6, 8, generator=generator, dtype=torch.float64)
    loss, accuracy = contrast(queries, keys, 0.2)
    expected, expected_accuracy = slow_contrast(queries, keys, 0.2)
    assert float(loss) == pytest.approx(expected, abs=1e-12)
    assert float(accuracy) == pytest.approx(expected_accuracy)
    assert 0 < expected_accuracy < 1


def test_contrast_of_two_views_is_the_published_sum() -> None:
    # Equal keys: ln B for each of the two orders, times 2 tau.
    loss, _ = contrast(torch.ones(2, 5, 3), torch.randn(2, 1, 3).expand(2, 5, 3), 0.2)
    assert float(loss) == pytest.approx(2 * 2 * 0.2 * math.log(5), abs=1e-6)


def test_batch_norms_are_over_images_and_not_over_views(settings, views) -> None:
    # Each view is normalized alone, as published: changing one local view changes its own queries only.
    model = make(settings("mocov3"))
    before = model(views).queries
    changed = views.local_images.clone()
    changed[:, 1] = 255 - changed[:, 1]
    after = model(views._replace(local_images=changed)).queries
    torch.testing.assert_close(after[:3], before[:3], rtol=0, atol=1e-5)
    assert (after[3] - before[3]).abs().max() > 0.01
