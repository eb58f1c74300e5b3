"""Training steps on an accelerator: no host synchronization, complete graphs, activation checkpointing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.commands import TINY
from helpers.datasets import multicrop_dataset
from saved_activations import saved_activation_bytes  # type: ignore[import-not-found]
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gtsa_kit.config import RunConfig, load_config
from gtsa_kit.data.augment import Views
from gtsa_kit.data.batched_augment import DecodedBatch, apply_augmentations_batched
from gtsa_kit.data.multicrop import collate_views
from gtsa_kit.methods import make_method
from gtsa_kit.methods.base import Method
from gtsa_kit.training.optim import clip_grad_norm_per_parameter
from gtsa_kit.training.run import train
from gtsa_kit.training.run_logger import StepMetrics
from gtsa_kit.training.trainer import TrainerCallback

SCHEDULES = {"alpha": 0.5, "teacher_temperature": 0.04}
SMALL_HEADS = {
    "dino.prototypes": 64,
    "dino.hidden": 32,
    "dino.bottleneck": 16,
    "mocov3.hidden": 32,
    "mocov3.output": 16,
}


def settings(**more: Any) -> RunConfig:
    return load_config(overrides={**TINY, **SMALL_HEADS, "model.drop_path": 0.2, **more})


def views_of(images: Path, config: RunConfig, on_device: bool = False) -> Any:
    dataset = multicrop_dataset(sorted(images.iterdir()), config.views, seed=0, on_device=on_device)
    return collate_views([dataset[t] for t in range(4)]).content


def build_method(config: RunConfig) -> Method:
    torch.manual_seed(0)
    return make_method(config).train()


def backward(method: Method, views: Views) -> Tensor:
    """Compute loss and gradients of one step and return the loss."""
    method.zero_grad()
    torch.manual_seed(1)
    loss, _ = method.loss(method(views), views, SCHEDULES)
    loss.backward()
    return loss.detach()


def gradients(method: Method) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("method", ["gtsa", "dino", "mocov3"])
def test_a_frozen_encoder_has_no_gradients_and_the_heads_have_the_same(
    method: str, checkpointing: bool, images: Path
) -> None:
    config = settings(method=method)
    views = views_of(images, config)
    whole, frozen = build_method(config), build_method(config)
    frozen.student.encoder.activation_checkpointing = checkpointing
    frozen.student.encoder_frozen = True
    assert torch.equal(backward(whole, views), backward(frozen, views))
    expected, heads = gradients(whole), gradients(frozen)
    assert heads
    assert heads.keys() == {name for name in expected if ".encoder." not in name}
    assert all(torch.equal(gradient, expected[name]) for name, gradient in heads.items())
    frozen.student.encoder_frozen = False
    frozen.student.encoder.activation_checkpointing = False
    backward(frozen, views)  # batch norms and centers are those after one step more, so values are not compared
    assert gradients(frozen).keys() == expected.keys()


# --- host synchronization ---------------------------------------------------------------------------------------------


class SyncDetector(TorchDispatchMode):
    """Records operations that would make the host wait for an accelerator, with "meta" as the accelerator.

    These are reads of values, shapes that depend on values, and blocking copies.
    """

    def __init__(self) -> None:
        super().__init__()
        self.syncs: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        tensors = [a for a in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(a, Tensor)]
        on_meta = any(tensor.device.type == "meta" for tensor in tensors)
        if on_meta and name in ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal"):
            self.syncs.append(name)
        target = kwargs.get("device")
        changes_device = (
            name == "_to_copy" and target is not None and torch.device(target).type != tensors[0].device.type
        )
        if changes_device and not kwargs.get("non_blocking"):
            self.syncs.append(f"copy to {target}")
        return func(*args, **kwargs)


@pytest.mark.parametrize("method", ["gtsa", "dino", "mocov3"])
def test_steps_do_not_synchronize(method: str, images: Path) -> None:
    config = settings(method=method)
    views = views_of(images, config)
    model = build_method(config).to("meta")
    meta_views = Views(*(tensor.to("meta") for tensor in views))
    backward(model, meta_views)  # creates cached constants
    with SyncDetector() as detector:
        backward(model, meta_views)
        clip_grad_norm_per_parameter(model, 3.0)
        model.update_teacher(0.99)
    assert not detector.syncs


def test_views_made_on_the_device_do_not_synchronize(images: Path) -> None:
    config = settings(**{"views.jitter_p": 1.0, "views.blur_p": 1.0, "views.grayscale_p": 0.5})
    batch = views_of(images, config, on_device=True)
    assert isinstance(batch, DecodedBatch)
    with SyncDetector() as detector:
        device_views = apply_augmentations_batched(batch, config.views, torch.device("meta"))
    assert device_views.global_images.device.type == "meta"
    assert not detector.syncs


def test_sync_detector_detects() -> None:
    tensor = torch.ones(3, device="meta")
    with SyncDetector() as detector:
        torch.ones(3).to("meta")
        torch.ones(3).to("meta", non_blocking=True)
        with pytest.raises((RuntimeError, NotImplementedError)):
            tensor.sum().item()
    assert len(detector.syncs) == 2


class SyncIsError(TrainerCallback):
    """Makes a host synchronization in steps 3 to 7 an error."""

    def on_step_end(self, step: int, metrics: StepMetrics | None) -> None:
        torch.cuda.set_sync_debug_mode("error" if 2 <= step < 7 else "default")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("augment_on", ["cpu", "device"])
def test_steps_do_not_synchronize_with_a_gpu(augment_on: str, images: Path, tmp_path: Path) -> None:
    overrides = {**TINY, "data": str(images), "train.steps": 8, "train.log_every": 8, "train.augment_on": augment_on}
    assert train(load_config(overrides=overrides), tmp_path / "run", False, SyncIsError())


# --- compilation ------------------------------------------------------------------------------------------------------


@pytest.fixture
def fresh_compiler() -> Iterator[Any]:
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    yield counters
    torch._dynamo.reset()


def test_compilation_gives_few_graphs_without_breaks(images: Path, fresh_compiler: Any) -> None:
    config = settings(
        **{"views.local_crops": 3}
    )  # a number other than that of the global views, so that pooled outputs differ in shape as well
    views = views_of(images, config)
    plain, compiled = build_method(config), build_method(config)
    compiled.compile_branches("aot_eager")
    assert plain.state_dict().keys() == compiled.state_dict().keys()
    for _ in range(2):
        torch.testing.assert_close(backward(compiled, views), backward(plain, views), atol=1e-6, rtol=0)
        compiled.update_teacher(0.9)
        plain.update_teacher(0.9)
    for name, gradient in gradients(plain).items():
        torch.testing.assert_close(gradients(compiled)[name], gradient, atol=1e-6, rtol=1e-4, msg=name)
    assert not fresh_compiler["graph_break"]
    # Student: encoder, projector, predictor, rotation predictor for two sizes. Teacher: encoder, projector for one.
    assert fresh_compiler["stats"]["unique_graphs"] == 2 * 4 + 2
    with torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(3):
            backward(compiled, views)
            compiled.update_teacher(0.9)
    assert fresh_compiler["stats"]["unique_graphs"] == 2 * 4 + 2


# --- memory -----------------------------------------------------------------------------------------------------------


def test_activation_checkpointing_gives_equal_gradients_with_less_memory(images: Path) -> None:
    config = settings()
    views = views_of(images, config)
    plain, checkpointed = build_method(config), build_method(config)
    checkpointed.student.encoder.activation_checkpointing = True
    assert torch.equal(backward(plain, views), backward(checkpointed, views))
    for name, gradient in gradients(plain).items():
        assert torch.equal(gradients(checkpointed)[name], gradient), name
    saved = [
        saved_activation_bytes(method, lambda method=method: backward(method, views))
        for method in (checkpointed, plain)
    ]
    assert saved[0] < 0.7 * saved[1]
