"""Schedules compared with their formulas, parameter groups by name, clipping compared with a loop."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gtsa_kit.config import (
    METHODS,
    PRESETS,
    PUBLISHED_MOMENTUM,
    ModelConfig,
    OptimConfig,
    RunConfig,
    load_config,
)
from gtsa_kit.methods import make_method
from gtsa_kit.methods.base import TrainSchedule
from gtsa_kit.methods.gtsa import GTSA
from gtsa_kit.training.optim import (
    clip_grad_norm_per_parameter,
    cosine,
    initial_share,
    make_optimizer,
    make_schedules,
    parameter_groups,
    set_hyperparameters,
    teacher_momenta,
)

STEPS, WARMUP, BATCH = 100, 10, 512


def schedules(steps: int = STEPS, warmup: int = WARMUP, batch: int = BATCH, **changes: Any) -> Any:
    return make_schedules(OptimConfig(**changes), steps=steps, warmup=warmup, batch=batch)


def tiny() -> GTSA:
    torch.manual_seed(0)
    return make_method(RunConfig(model=ModelConfig(arch="vit_test", projector_dim=16)))


# --- schedules --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "warmup"), [(100, 10), (100, 0), (7, 3), (2, 1), (1, 0), (5, 5)])
def test_every_schedule_has_one_value_per_step(steps: int, warmup: int) -> None:
    made = schedules(steps, warmup)
    for name in ("lr", "weight_decay", "teacher_momentum"):
        values = getattr(made, name)
        assert values.shape == (steps,), name
        assert np.isfinite(values).all(), name


def test_learning_rate_step_by_step() -> None:
    peak = 5e-4 * 512 / 256
    for step, value in enumerate(schedules().lr):
        if step < WARMUP:
            expected = peak * step / WARMUP
        else:
            progress = (step - WARMUP) / (STEPS - 1 - WARMUP)
            expected = 1e-6 + (peak - 1e-6) * 0.5 * (1 + math.cos(math.pi * progress))
        assert value == pytest.approx(expected, rel=1e-12), step


def test_learning_rate_at_start_peak_and_end() -> None:
    lr = schedules().lr
    assert lr[0] == 0.0
    assert lr[WARMUP - 1] == pytest.approx(1e-3 * 9 / 10)
    assert lr[WARMUP] == lr.max() == pytest.approx(1e-3)
    assert lr[-1] == pytest.approx(1e-6, rel=1e-12)


@pytest.mark.parametrize("batch", [8, 256, 4096])
def test_peak_learning_rate_grows_with_the_batch(batch: int) -> None:
    assert schedules(batch=batch).lr.max() == pytest.approx(5e-4 * batch / 256)
    # The other schedules do not depend on the batch.
    assert np.array_equal(schedules(batch=batch).teacher_momentum, schedules().teacher_momentum)
    assert np.array_equal(schedules(batch=batch).weight_decay, schedules().weight_decay)


@pytest.mark.parametrize(("name", "start", "end"), [("weight_decay", 0.04, 0.4), ("teacher_momentum", 0.996, 1.0)])
def test_decay_and_momentum_step_by_step(name: str, start: float, end: float) -> None:
    values = getattr(
        schedules(teacher_momentum=0.996), name
    )  # over the whole run; only the learning rate has a warm-up
    for step, value in enumerate(values):
        expected = end - (end - start) * 0.5 * (1 + math.cos(math.pi * step / (STEPS - 1)))
        assert value == pytest.approx(expected, rel=1e-12), step
    assert values[0] == pytest.approx(start, rel=1e-12)
    assert values[-1] == pytest.approx(end, rel=1e-12)
    assert (np.diff(values) > 0).all()


def test_alpha_is_zero_in_warm_up() -> None:
    def alpha(steps: int, warmup: int) -> list[float]:
        model = make_method(RunConfig(model=ModelConfig(arch="vit_test", projector_dim=16)))
        return model.schedules(TrainSchedule(images=1, batch=1, steps=steps, warmup=warmup))["alpha"].tolist()

    assert alpha(STEPS, WARMUP) == [0.0] * WARMUP + [0.5] * (STEPS - WARMUP)
    assert alpha(STEPS, 0) == [0.5] * STEPS
    assert alpha(1, 0) == [0.5]


def test_values_at_a_step_include_the_methods_schedules() -> None:
    made = make_schedules(OptimConfig(), steps=3, warmup=0, batch=256, method={"alpha": np.array([0.0, 0.25, 1.0])})
    values = made.at(1)
    assert list(values) == ["lr", "weight_decay", "teacher_momentum", "alpha"]
    assert values["alpha"] == 0.25
    assert all(type(value) is float for value in values.values())  # a checkpoint must hold no numpy objects


def test_without_warm_up_the_first_value_is_the_peak() -> None:
    lr = schedules(warmup=0).lr
    assert lr[0] == lr.max() == pytest.approx(1e-3)
    assert lr[-1] == pytest.approx(1e-6, rel=1e-12)


def test_a_run_of_one_step() -> None:
    made = schedules(steps=1, warmup=0, teacher_momentum=0.996)
    assert (made.lr[0], made.weight_decay[0], made.teacher_momentum[0]) == pytest.approx((1e-3, 0.04, 0.996))


@pytest.mark.parametrize("published", [0.996, 0.99])
@pytest.mark.parametrize("steps", [1, 2, 24, 200, 300, 3453, 3454, 23_103, 100_000])
def test_the_automatic_momentum_leaves_less_than_a_thousandth_of_initial_weights(steps: int, published: float) -> None:
    def share(start: float) -> float:
        """Return the weight of the first value in a moving average, by its definition."""
        weight = 1.0
        for step in range(steps):
            progress = step / max(steps - 1, 1)
            weight *= 1.0 - (1.0 - start) * 0.5 * (1.0 + math.cos(math.pi * progress))
        return weight

    made = make_schedules(OptimConfig(), steps, warmup=0, batch=256, published_momentum=published)
    start = float(made.teacher_momentum[0])
    assert share(start) < 1e-3
    if start != published:  # the largest one, in four decimals
        assert start < published
        assert share(start + 1e-4) >= 1e-3
        covered = min(math.ceil(1 / (1 - start)), steps)  # steps that the moving average covers
        assert (made.teacher_momentum[: steps - covered] == start).all()  # rising to 1, the teacher would lag
        assert (np.diff(made.teacher_momentum[steps - covered :]) <= 0).all()
        assert steps == 1 or made.teacher_momentum[-1] == 0  # the teacher ends as the student
    else:
        assert np.array_equal(made.teacher_momentum, cosine(published, 1.0, steps))


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("preset", sorted(PRESETS.keys() - {"adapt"}))  # it does not train from random weights
def test_every_method_and_preset_has_its_published_momentum_at_the_papers_length(method: str, preset: str) -> None:
    config = load_config(preset, overrides={"method": method})
    assert config.optim.teacher_momentum == "auto"
    published = {"gtsa": 0.996, "dino": 0.996, "mocov3": 0.99}[method]
    made = make_schedules(config.optim, 23_103, 10, 512, published_momentum=PUBLISHED_MOMENTUM[method])
    assert np.array_equal(made.teacher_momentum, cosine(published, 1.0, 23_103))


def test_a_momentum_that_is_given_is_kept_and_rises_to_1_unless_its_end_is_given() -> None:
    assert teacher_momenta(OptimConfig(teacher_momentum=0.9), 0.996, 200) == (0.9, 1.0)
    assert teacher_momenta(OptimConfig(teacher_momentum=0.9, final_teacher_momentum=0.95), 0.996, 200) == (0.9, 0.95)
    first, last = teacher_momenta(OptimConfig(final_teacher_momentum=0.95), 0.996, 200)
    assert last == 0.95
    assert initial_share(cosine(first, last, 200)) < 1e-3 < initial_share(cosine(first + 1e-4, last, 200))


def test_a_cosine_whose_end_is_given_does_not_fall_to_0() -> None:
    made = make_schedules(OptimConfig(final_teacher_momentum=0.95), 200, warmup=0, batch=256)
    assert made.teacher_momentum[-1] == made.teacher_momentum.min() == pytest.approx(0.95, rel=1e-12)


def test_the_initial_share_is_that_of_a_real_teacher() -> None:
    model = tiny()
    with torch.no_grad():
        for name, parameter in model.teacher.named_parameters():
            parameter.fill_(1.0)
            dict(model.student.named_parameters())[name].zero_()
    momenta = make_schedules(OptimConfig(teacher_momentum=0.9), 20, 0, 256).teacher_momentum
    for momentum in momenta:
        model.update_teacher(float(momentum))
    for parameter in model.teacher.parameters():
        torch.testing.assert_close(parameter, torch.full_like(parameter, initial_share(momenta)))


def test_cosine_falls_as_it_rises() -> None:
    np.testing.assert_allclose(cosine(3.0, 1.0, 9), 4.0 - cosine(1.0, 3.0, 9), rtol=1e-15)
    np.testing.assert_allclose(cosine(1.0, 3.0, 3), [1.0, 2.0, 3.0], rtol=1e-15)


def test_settings_reach_their_schedules() -> None:
    made = schedules(
        lr=1e-2,
        final_lr=1e-3,
        weight_decay=0.1,
        final_weight_decay=0.2,
        teacher_momentum=0.5,
        final_teacher_momentum=0.9,
        batch=256,
    )
    ends = [(v[0], v[-1]) for v in (made.lr[WARMUP:], made.weight_decay, made.teacher_momentum)]
    assert np.array(ends).flatten() == pytest.approx([1e-2, 1e-3, 0.1, 0.2, 0.5, 0.9])


# --- groups -----------------------------------------------------------------------------------------------------------


def names_of(model: nn.Module, group: dict[str, Any]) -> set[str]:
    by_id = {id(parameter): name for name, parameter in model.named_parameters()}
    return {by_id[id(parameter)] for parameter in group["params"]}


BLOCK_WEIGHTS = ["attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight"]
VIT_DECAYED = {"cls_token", "pos_embed", "patch_embed.proj.weight"} | {
    f"blocks.{index}.{name}" for index in (0, 1) for name in BLOCK_WEIGHTS
}
DECAYED = {f"student.encoder.vit.{name}" for name in VIT_DECAYED} | {
    *("student.projector.0.conv.weight", "student.projector.1.conv.weight", "student.projector.2.weight"),
    *("student.predictor.0.conv.weight", "student.predictor.1.weight"),
    *(f"student.rotation_predictor.{index}.weight" for index in (0, 3, 6, 8)),
}


def test_weights_decay_and_biases_and_norms_do_not() -> None:
    model = tiny()
    decayed, undecayed = parameter_groups(model)
    assert names_of(model, decayed) == DECAYED
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert names_of(model, undecayed) == trained - DECAYED
    assert all(name.endswith("bias") or ".norm" in name or "rotation" in name for name in trained - DECAYED)
    assert len(decayed["params"]) + len(undecayed["params"]) == len(trained)  # each parameter once


def test_teacher_is_in_no_group() -> None:
    model = tiny()
    optimized = set().union(*(names_of(model, group) for group in make_optimizer(model, OptimConfig()).param_groups))
    assert not [name for name in optimized if name.startswith("teacher.")]


def test_frozen_parameters_are_in_no_group() -> None:
    torch.manual_seed(0)
    model = make_method(RunConfig(model=ModelConfig(arch="vit_test", projector_dim=16, norm_before_heads=False)))
    names = set().union(*(names_of(model, group) for group in parameter_groups(model)))
    assert "student.encoder.vit.norm.weight" not in names
    assert "student.encoder.vit.blocks.0.norm1.weight" in names


def test_set_hyperparameters() -> None:
    optimizer = make_optimizer(tiny(), OptimConfig(betas=(0.8, 0.99)))
    assert isinstance(optimizer, torch.optim.AdamW)
    set_hyperparameters(optimizer, lr=0.25, weight_decay=0.125)
    values = [(group["lr"], group["weight_decay"], group["betas"]) for group in optimizer.param_groups]
    assert values == [(0.25, 0.125, (0.8, 0.99)), (0.25, 0.0, (0.8, 0.99))]


def test_a_step_is_adamw_with_this_steps_rate_and_decay() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.full((2, 2), 3.0))
            self.bias = nn.Parameter(torch.full((2,), 3.0))

    model = Pair()
    optimizer = make_optimizer(model, OptimConfig())
    set_hyperparameters(optimizer, lr=0.1, weight_decay=0.5)
    model.weight.grad, model.bias.grad = torch.full((2, 2), -0.2), torch.full((2,), -0.2)
    optimizer.step()
    # Adam's first step has length lr; decoupled decay subtracts lr * decay of the weight.
    torch.testing.assert_close(model.weight.detach(), torch.full((2, 2), 3.0 * (1 - 0.1 * 0.5) + 0.1))
    torch.testing.assert_close(model.bias.detach(), torch.full((2,), 3.0 + 0.1))


# --- clipping ---------------------------------------------------------------------------------------------------------


def with_gradients(scale: float) -> GTSA:
    model = tiny()
    for index, parameter in enumerate(model.student.parameters()):
        parameter.grad = torch.randn_like(parameter) * scale * (index % 5)
    return model


@pytest.mark.parametrize("scale", [1e-4, 0.1, 10.0])
def test_clipping_equals_a_loop(scale: float) -> None:
    model = with_gradients(scale)
    expected, clipped = {}, 0
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            gradient = parameter.grad.double()
            norm = float(gradient.square().sum().sqrt())
            clipped += norm > 3.0
            expected[name] = gradient * min(1.0, 3.0 / norm) if norm else gradient
    clip_grad_norm_per_parameter(model, 3.0)
    assert (clipped > 0) == (scale > 0.001)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            # On the CPU torch sums the squares of a float32 tensor sequentially: for the largest weight here, with
            # 590,000 elements, the norm is off by 6e-6.
            torch.testing.assert_close(parameter.grad.double(), expected[name], rtol=1e-5, atol=0, msg=name)
            assert float(parameter.grad.double().norm()) <= 3.0 * (1 + 1e-5), name


def test_short_gradients_are_unchanged() -> None:
    model = with_gradients(1e-4)
    before = [p.grad.clone() for p in model.student.parameters() if p.grad is not None]
    clip_grad_norm_per_parameter(model, 3.0)
    assert all(torch.equal(p.grad, old) for p, old in zip(model.student.parameters(), before, strict=True))


def test_max_norm_zero_disables_clipping() -> None:
    model = with_gradients(10.0)
    before = [p.grad.clone() for p in model.student.parameters() if p.grad is not None]
    clip_grad_norm_per_parameter(model, 0.0)
    assert all(torch.equal(p.grad, old) for p, old in zip(model.student.parameters(), before, strict=True))


def test_clipping_without_gradients_does_nothing() -> None:
    clip_grad_norm_per_parameter(tiny(), 3.0)
