"""Encoder compared with timm, position resampling with torch, preprocessing with torchvision."""

from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

from gtsa_kit.config import Arch
from gtsa_kit.models.architecture import ARCHITECTURES
from gtsa_kit.models.drop_path import DropPath
from gtsa_kit.models.encoder import Encoder, normalize
from gtsa_kit.models.positions import resample_positions, resample_weights
from gtsa_kit.models.preprocessing import MEAN, STD, Preprocessing

# (height, width): default, smaller, wide, tall, a single patch, one patch wide, larger, and 17 x 19 patches.
SIZES = [(224, 224), (96, 96), (112, 176), (336, 64), (16, 16), (336, 16), (448, 224), (272, 304)]


def randomize(vit: nn.Module) -> None:
    """Add noise to parameters that timm initializes to constants or tiny values: biases, norms, positions."""
    with torch.no_grad():
        for name, parameter in vit.named_parameters():
            if name in {"pos_embed", "cls_token"}:
                parameter.normal_(std=0.5)
            elif parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)


def pair(arch: Arch, layers: tuple[int, ...] = ()) -> tuple[Encoder, Any]:
    """Return an encoder and a timm model for any size with the same random weights."""
    torch.manual_seed(0)
    encoder = Encoder(arch, layers=layers).eval()
    randomize(encoder.vit)
    ours = ARCHITECTURES[arch]
    plain = timm.create_model(ours.timm_model, num_classes=0, dynamic_img_size=True, **ours.timm_kwargs).eval()
    plain.load_state_dict(encoder.vit.state_dict(), strict=True)
    return encoder, plain


def images_of(height: int, width: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(height * width))


# --- the forward pass -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@torch.no_grad()
def test_encoder_equals_timm(size: tuple[int, int]) -> None:
    encoder, plain = pair("vit_test")
    images = images_of(*size)
    tokens = plain.forward_features(images)[:, 1:]
    features = encoder(images)
    h, w = size[0] // 16, size[1] // 16
    assert features.feature_map.shape == (2, 64, h, w)
    # Normalized tokens have size 1; a few hundred float32 roundings, in another order if positions are resampled.
    torch.testing.assert_close(features.feature_map, tokens.mT.reshape(2, 64, h, w), rtol=0, atol=1e-5)
    torch.testing.assert_close(features.embedding, tokens.mean(1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(224, 224), (96, 96), (112, 176)], ids=lambda size: f"{size[0]}x{size[1]}")
@torch.no_grad()
def test_vit_small_equals_timm(size: tuple[int, int]) -> None:
    encoder, plain = pair("vit_small")
    images = images_of(*size, batch=1)
    tokens = plain.forward_features(images)[:, 1:]
    features = encoder(images)
    torch.testing.assert_close(features.feature_map.flatten(2).mT, tokens, rtol=0, atol=1e-5)


@torch.no_grad()
def test_layers_equal_timm_intermediates() -> None:
    layers = (2, 5, 8, 11)
    encoder, plain = pair("vit_small", layers)
    images = images_of(112, 176, batch=1)
    features = encoder(images)
    expected = plain.forward_intermediates(images, indices=list(layers), norm=True, intermediates_only=True)
    assert tuple(features.layers) == layers
    for ours, its in zip(features.layers.values(), expected, strict=True):
        torch.testing.assert_close(ours, its, rtol=0, atol=1e-5)
    assert torch.equal(features.layers[11], features.feature_map)


@torch.no_grad()
def test_without_the_final_norm() -> None:
    encoder, plain = pair("vit_test")
    images = images_of(96, 64)
    plain.norm = nn.Identity()
    tokens = plain.forward_features(images)[:, 1:]
    features = encoder(images, final_norm=False)
    torch.testing.assert_close(features.feature_map.flatten(2).mT, tokens, rtol=0, atol=1e-5)
    torch.testing.assert_close(features.embedding, tokens.mean(1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("layers", [(2,), (-1,), (0, 12)])
def test_layers_out_of_range_are_rejected(layers: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="layers must lie between 0 and 1"):
        Encoder("vit_test", layers=layers)


@torch.no_grad()
def test_embedding_is_the_mean_of_patch_tokens() -> None:
    encoder, _ = pair("vit_test")
    features = encoder(images_of(64, 96))
    torch.testing.assert_close(features.embedding, features.feature_map.mean((2, 3)))


@torch.no_grad()
def test_images_of_a_batch_are_independent() -> None:
    encoder, _ = pair("vit_test")
    images = images_of(96, 112, batch=3)
    together = encoder(images)
    for index in range(3):
        alone = encoder(images[index : index + 1])
        # Not torch.equal: a matrix product may sum in another order for another number of rows.
        torch.testing.assert_close(together.feature_map[index : index + 1], alone.feature_map, rtol=0, atol=1e-5)
        torch.testing.assert_close(together.embedding[index : index + 1], alone.embedding, rtol=0, atol=1e-5)
    other = images.clone()
    other[1] += 1
    changed = (encoder(other).feature_map != together.feature_map).flatten(1).any(1)
    assert changed.tolist() == [False, True, False]


@pytest.mark.parametrize("arch", ["vit_small", "vit_base"])
def test_weights_load_in_plain_timm(arch: Arch) -> None:
    with torch.device("meta"):  # names and shapes are all that a strict load checks
        weights = Encoder(arch).vit.state_dict()
        plain = timm.create_model(f"{arch}_patch16_224", num_classes=0)
    plain.load_state_dict(weights, strict=True, assign=True)


@torch.no_grad()
def test_plain_timm_gives_the_same_features() -> None:
    # timm's default usage: no dynamic_img_size, size 224 only.
    encoder, _ = pair("vit_small")
    plain = timm.create_model("vit_small_patch16_224", num_classes=0).eval()
    plain.load_state_dict(encoder.vit.state_dict(), strict=True)
    images = images_of(224, 224, batch=1)
    torch.testing.assert_close(
        encoder(images).feature_map.flatten(2).mT, plain.forward_features(images)[:, 1:], rtol=0, atol=1e-5
    )


# --- positions --------------------------------------------------------------------------------------------------------


def test_positions_at_the_stored_size_are_exact() -> None:
    positions = torch.randn(196, 48)
    assert torch.equal(resample_positions(positions, (14, 14), 14, 14), positions)


@pytest.mark.parametrize("size", [(6, 6), (7, 11), (21, 4), (1, 1), (28, 14), (40, 37)])
def test_positions_equal_torchs_antialiased_bicubic(size: tuple[int, int]) -> None:
    positions = torch.randn(196, 8)
    grid = positions.double().T.reshape(1, 8, 14, 14)
    expected = F.interpolate(grid, size=size, mode="bicubic", antialias=True)[0].flatten(1).T
    # Weights are computed in float32: positions up to 14 are rounded by 1e-6, which changes a value by as much.
    torch.testing.assert_close(resample_positions(positions, (14, 14), *size).double(), expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("height", [6, 21])
def test_positions_of_an_image_one_patch_wide(height: int) -> None:
    # The transposed grid is resized, since torch gets the contiguous one wrong (see the next test).
    positions = torch.randn(196, 8)
    transposed = positions.double().T.reshape(1, 8, 14, 14).mT
    expected = F.interpolate(transposed, size=(1, height), mode="bicubic", antialias=True)[0].flatten(1).T
    torch.testing.assert_close(resample_positions(positions, (14, 14), height, 1).double(), expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("grid", [(14, 14), (5, 9), (1, 3)])
@pytest.mark.parametrize("size", [(6, 6), (7, 11), (21, 4), (1, 1), (28, 14), (40, 37)])
def test_positions_equal_torchs_bicubic(size: tuple[int, int], grid: tuple[int, int]) -> None:
    positions = torch.randn(grid[0] * grid[1], 8)
    stored = positions.double().T.reshape(1, 8, *grid)
    expected = F.interpolate(stored, size=size, mode="bicubic", align_corners=False)[0].flatten(1).T
    actual = resample_positions(positions, grid, *size, "bicubic")
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(6, 6), (7, 11), (21, 4), (1, 1), (28, 14), (14, 14), (40, 37)])
def test_positions_equal_those_of_dino(size: tuple[int, int]) -> None:
    """DINO's own code resizes by a factor, to a grid that is 0.1 patches larger, and keeps the stored grid as it is."""
    positions = torch.randn(196, 8)
    stored = positions.double().T.reshape(1, 8, 14, 14)
    factors = tuple((side + 0.1) / 14 for side in size)
    expected = F.interpolate(stored, scale_factor=factors, mode="bicubic") if size != (14, 14) else stored
    assert expected.shape[-2:] == size
    actual = resample_positions(positions, (14, 14), *size, "bicubic, offset 0.1")
    torch.testing.assert_close(actual.double(), expected[0].flatten(1).T, rtol=0, atol=1e-5)


@pytest.mark.parametrize("target", [1, 2, 3, 6, 13, 14, 15, 28, 64])
def test_weights_equal_torchs_antialiased_bicubic(target: int) -> None:
    # Resizing the 14 unit vectors reads torch's own weights out, one column each. They lie along the width since
    # torch 2.14 (on the CPU) repeats the first row when it resizes the height of a contiguous map of width one.
    units = torch.eye(14, dtype=torch.float64).reshape(1, 14, 1, 14)
    expected = F.interpolate(units, size=(1, target), mode="bicubic", antialias=True)[0, :, 0].T
    weights = resample_weights(target, 14, units)
    assert weights.shape == (target, 14)
    torch.testing.assert_close(weights.double(), expected, rtol=0, atol=2e-6)
    torch.testing.assert_close(weights.sum(1), torch.ones(target))


# --- preprocessing ----------------------------------------------------------------------------------------------------


def sample_image(height: int, width: int) -> Image.Image:
    """Return an image with low and high frequencies, which reveals an interpolation without antialiasing."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3))
    ramp = np.linspace(0, 255, width)[None, :, None]
    return Image.fromarray(((noise + ramp) / 2).astype(np.uint8))


@pytest.mark.parametrize("source", [(480, 640), (100, 60), (224, 224)])
@pytest.mark.parametrize("size", [None, (96, 160)])
def test_preprocessing_equals_torchvision(source: tuple[int, int], size: tuple[int, int] | None) -> None:
    image = sample_image(*source)
    independent = v2.Compose(
        [
            v2.Resize(size or (224, 224), interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )
    ours = Preprocessing()(image, size)
    assert (ours.dtype, ours.shape) == (np.float32, (3, *(size or (224, 224))))
    assert ours.flags.c_contiguous
    # Three roundings in float32 of values up to 2.7.
    np.testing.assert_allclose(ours, independent(image).numpy(), rtol=0, atol=1e-6)


def test_preprocessing_takes_rgb_in_this_order() -> None:
    orange = Preprocessing()(Image.new("RGB", (20, 20), (255, 102, 0)), (16, 16))
    expected = [(1.0 - 0.485) / 0.229, (0.4 - 0.456) / 0.224, (0.0 - 0.406) / 0.225]
    np.testing.assert_allclose(orange, np.broadcast_to(np.reshape(expected, (3, 1, 1)), (3, 16, 16)), rtol=1e-6)


def test_preprocessing_size_is_height_then_width() -> None:
    # Left half black, right half white: the halves must stay left and right for any target shape.
    image = Image.fromarray(np.repeat(np.uint8([[0] * 50 + [255] * 50]), 40, axis=0)).convert("RGB")
    out = Preprocessing()(image, (32, 96))
    assert out.shape == (3, 32, 96)
    assert (out[:, :, :40] < 0).all()
    assert (out[:, :, 56:] > 0).all()


def test_constants_and_manifest() -> None:
    assert Preprocessing().to_dict() == {
        "size": 224,
        "resize": "stretch",
        "interpolation": "bicubic, antialiased",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
    }
    data = timm.create_model("vit_tiny_patch16_224", num_classes=0).default_cfg
    assert (data["mean"], data["std"]) != (MEAN, STD)  # timm's ViTs expect 0.5: the manifest must carry ours


def test_normalize_agrees_with_preprocessing() -> None:
    image = sample_image(64, 48)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    ours = normalize(pixels.expand(2, 5, 3, 64, 48), Preprocessing())
    assert ours.shape == (2, 5, 3, 64, 48)
    np.testing.assert_allclose(ours[1, 4].numpy(), Preprocessing()(image, (64, 48)), rtol=0, atol=1e-6)


# --- drop path --------------------------------------------------------------------------------------------------------


def test_drop_path_rates_rise_to_the_last_block() -> None:
    blocks = Encoder("vit_small", drop_path=0.1).vit.blocks
    for name in ("drop_path1", "drop_path2"):
        rates = [getattr(getattr(block, name), "rate", 0.0) for block in blocks]
        assert rates == pytest.approx([0.1 * index / 11 for index in range(12)])
    assert not [m for m in Encoder("vit_small").modules() if "DropPath" in type(m).__name__]


def test_drop_path_in_evaluation_is_the_input() -> None:
    x = torch.randn(4, 3, 2)
    assert DropPath(0.5).eval()(x) is x


def test_drop_path_keeps_the_expected_value() -> None:
    torch.manual_seed(0)
    rows, rate = 20_000, 0.3
    y = DropPath(rate).train()(torch.ones(rows, 2, 3))
    assert set(y.unique().tolist()) == {0.0, float(torch.tensor(1.0) / torch.tensor(1 - rate))}
    per_row = y.flatten(1)
    assert bool((per_row == per_row[:, :1]).all())  # whole samples, never parts of one
    # A kept row counts 1 / 0.7, so the mean over rows has deviation sqrt(0.3 / 0.7 / rows) = 0.0046; five of them.
    assert float(per_row[:, 0].mean()) == pytest.approx(1.0, abs=5 * (rate / (1 - rate) / rows) ** 0.5)


def test_drop_path_of_two_processes_equals_one_with_twice_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(16, 5, 4)
    layer = DropPath(0.5).train()

    def run(rows: Tensor) -> Tensor:
        torch.manual_seed(7)  # the trainer seeds every step equally in all processes
        return torch.stack([layer(rows), layer(rows)])  # twice, because the second draw must agree as well

    whole = run(x)
    assert 0 < int((whole == 0).all((2, 3)).sum()) < 32
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    for rank, part in enumerate(x.split(8)):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        assert torch.equal(run(part), whole[:, rank * 8 : rank * 8 + 8])


def test_drop_path_is_random_in_training_only() -> None:
    torch.manual_seed(0)
    encoder = Encoder("vit_test", drop_path=0.9)
    images = images_of(32, 32, batch=8)
    assert not torch.equal(encoder.train()(images).embedding, encoder(images).embedding)
    assert torch.equal(encoder.eval()(images).embedding, encoder(images).embedding)


def test_unfused_attention_gives_the_same_features_and_gradients() -> None:
    images, results = images_of(96, 112), []
    for unfused in (False, True):
        encoder, _ = pair("vit_test")
        if unfused:
            encoder.use_unfused_attention()
        features = encoder(images)
        features.feature_map.pow(2).mean().backward()
        results.append((features.feature_map.detach(), {n: p.grad for n, p in encoder.named_parameters()}))
    (fused_map, fused_gradients), (unfused_map, gradients) = results
    torch.testing.assert_close(unfused_map, fused_map, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradients, fused_gradients, rtol=1e-4, atol=1e-6)
