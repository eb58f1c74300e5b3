"""Conversion to another patch size, against timm, least squares in float64, and features of the unconverted model."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from torch import Tensor

from gtsa_kit.models.architecture import ARCHITECTURES, Architecture
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.patch_conversion import (
    fold_layer_scale,
    resize_patch_kernel,
    to_patch,
)

SIZES = {"embed_dim": 64, "depth": 2, "num_heads": 2}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scaled_vit(patch: int, side: Any, **changes: Any) -> tuple[dict[str, Tensor], Architecture]:
    """Weights of a ViT with LayerScale, and its architecture."""
    kwargs: dict[str, Any] = {**SIZES, "patch_size": patch, "img_size": side, "init_values": 1.0, **changes}
    architecture = Architecture("vit_test", "vit_tiny_patch16_224", 64, 2, 2, kwargs)
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, **kwargs)
    with torch.no_grad():
        for seed, parameter in enumerate(vit.parameters()):
            parameter += 0.3 * random(*parameter.shape, seed=seed).float()
    return vit.state_dict(), architecture


def encode(weights: dict[str, Tensor], architecture: Architecture, images: Tensor) -> Tensor:
    encoder = Encoder(architecture).eval()
    encoder.vit.load_state_dict(weights, strict=True)
    with torch.inference_mode():
        return encoder(images).feature_map


def resized(patches: Tensor, side: int) -> Tensor:
    return F.interpolate(patches, size=(side, side), mode="bicubic", antialias=True)


def test_folding_layer_scale_changes_no_feature() -> None:
    weights, architecture = scaled_vit(16, 224)
    folded = fold_layer_scale(weights)
    assert not [name for name in folded if ".ls" in name]
    plain = ARCHITECTURES["vit_test"]
    images = random(2, 3, 96, 64).float()
    expected = encode(weights, architecture, images)
    difference = (encode(folded, plain, images) - expected).abs().max() / expected.abs().max()
    assert difference < 1e-5
    changed = {name for name in folded if not torch.equal(folded[name], weights[name])}
    names = [
        f"blocks.{block}.{layer}.{part}"
        for block in (0, 1)
        for layer in ("attn.proj", "mlp.fc2")
        for part in ("weight", "bias")
    ]
    assert changed == set(names)


@pytest.mark.parametrize("timm_model", ["vit_small_patch14_dinov2", "vit_small_patch16_dinov3"])
def test_models_whose_timm_defaults_differ_are_built(timm_model: str) -> None:
    """LayerScale that is timm's default for a model, and rotary positions."""
    architecture = Architecture("small", timm_model, 64, 2, 2, {**SIZES, "patch_size": 14, "img_size": 224})
    weights = Encoder(architecture).vit.state_dict()
    converted, converted_architecture = to_patch(weights, architecture, 16)
    assert encode(converted, converted_architecture, torch.zeros(1, 3, 32, 48)).shape == (1, 64, 2, 3)


@pytest.mark.parametrize(("old", "new"), [(14, 16), (16, 14), (16, 8), (8, 16), (14, 32)])
def test_kernels_are_those_of_timm(old: int, new: int) -> None:
    kernel = random(6, 3, old, old).float()
    expected = resample_patch_embed(kernel, [new, new], interpolation="bicubic", antialias=True)
    torch.testing.assert_close(
        resize_patch_kernel(kernel, new), expected, rtol=0, atol=1e-4 * float(expected.abs().max())
    )


@pytest.mark.parametrize(("old", "new"), [(14, 16), (16, 14), (16, 8)])
def test_kernels_are_the_least_squares_solution(old: int, new: int) -> None:
    """Over a basis of all patches, no kernel has products with the resized patches nearer to the old ones."""
    kernel = random(1, 1, old, old)
    basis = torch.eye(old * old, dtype=torch.float64).reshape(-1, 1, old, old)
    design, target = resized(basis, new).flatten(1).numpy(), (basis * kernel).sum(dim=(1, 2, 3)).numpy()
    best, *_ = np.linalg.lstsq(design, target, rcond=None)
    new_kernel = resize_patch_kernel(kernel, new).double().flatten().numpy()
    np.testing.assert_allclose(new_kernel, best, atol=1e-5 * np.abs(best).max())
    if new > old:
        np.testing.assert_allclose(design @ new_kernel, target, atol=1e-5 * np.abs(target).max())


@pytest.mark.parametrize("size", [518, 224, (112, 168)], ids=str)
@pytest.mark.parametrize("changes", [{}, {"reg_tokens": 4}, {"reg_tokens": 4, "no_embed_class": True}], ids=str)
def test_positions_are_those_of_timm(size: Any, changes: dict[str, Any]) -> None:
    weights, architecture = scaled_vit(14, size, **changes)
    height, width = size if isinstance(size, tuple) else (size, size)
    prefix = {0: 1, 1: 5, 2: 0}[len(changes)]
    expected = resample_abs_pos_embed(
        weights["pos_embed"], [14, 14], [height // 14, width // 14], num_prefix_tokens=prefix
    )
    converted, converted_architecture = to_patch(weights, architecture, 16)
    torch.testing.assert_close(converted["pos_embed"], expected, rtol=0, atol=2e-5)
    assert encode(converted, converted_architecture, torch.zeros(1, 3, 32, 48)).shape == (1, 64, 2, 3)


def test_positions_are_resampled_as_the_source_does_it() -> None:
    weights, architecture = scaled_vit(14, 518)
    patches = weights["pos_embed"][:, 1:].reshape(1, 37, 37, 64).permute(0, 3, 1, 2)
    expected = F.interpolate(patches, size=(14, 14), mode="bicubic").flatten(2).transpose(1, 2)
    converted, converted_architecture = to_patch(weights, replace(architecture, resampling="bicubic"), 16)
    torch.testing.assert_close(converted["pos_embed"][:, 1:], expected, rtol=0, atol=2e-5)
    assert converted_architecture == ARCHITECTURES["vit_test"]


@pytest.mark.parametrize(("old", "new"), [(14, 16), (8, 16), (16, 28)])
def test_features_of_resized_patches_are_kept(old: int, new: int) -> None:
    """An image whose patches are those of another, each resized alone, has the same features after the conversion."""
    weights, architecture = scaled_vit(old, 224 // new * old)
    converted, converted_architecture = to_patch(weights, architecture, new)
    rows, columns = 3, 4
    patches = random(rows * columns, 3, old, old).float()
    small, large = (
        side.reshape(rows, columns, 3, p, p).permute(2, 0, 3, 1, 4).reshape(1, 3, rows * p, columns * p)
        for side, p in ((patches, old), (resized(patches, new), new))
    )
    expected = encode(weights, architecture, small)
    actual = encode(converted, converted_architecture, large)
    assert (actual - expected).abs().max() / expected.abs().max() < 1e-4


def test_the_result_is_a_plain_vit_of_timm() -> None:
    weights, architecture = scaled_vit(14, 518)
    before = {name: tensor.clone() for name, tensor in weights.items()}
    converted, converted_architecture = to_patch(weights, architecture, 16)
    timm.create_model("vit_tiny_patch16_224", num_classes=0, **SIZES).load_state_dict(converted, strict=True)
    assert converted_architecture == ARCHITECTURES["vit_test"]
    assert all(torch.equal(weights[name], tensor) for name, tensor in before.items()), "the weights were modified"


def test_other_patch_sizes_are_part_of_the_architecture() -> None:
    weights, architecture = scaled_vit(16, 224)
    converted, converted_architecture = to_patch(weights, architecture, 8)
    assert converted_architecture.patch == 8
    assert encode(converted, converted_architecture, torch.zeros(1, 3, 16, 24)).shape == (1, 64, 2, 3)


@pytest.mark.parametrize("patch", [0, 15, 33])
def test_patches_that_do_not_divide_the_image_are_refused(patch: int) -> None:
    weights, architecture = scaled_vit(16, 224)
    with pytest.raises(ValueError, match=f"patches of {patch} pixels do not divide 224; choose one of 4, 7, 8, 14, 16"):
        to_patch(weights, architecture, patch)
