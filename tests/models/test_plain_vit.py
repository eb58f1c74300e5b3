"""ViT that is built without timm: the same weights, features and gradients as timm's, bit for bit."""

from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay

from gtsa_kit.models import plain_vit
from gtsa_kit.models.architecture import ARCHITECTURES, Architecture, create_vit, pooling_arguments
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.plain_vit import PlainViT

VARIANTS: dict[str, dict[str, Any]] = {
    "own": {},
    "registers": {"reg_tokens": 3, "init_values": 0.1, "patch_size": 14, "img_size": [56, 42], "mlp_ratio": 3.1},
    "no class token": {"class_token": False, "qk_norm": True, "act_layer": "gelu_tanh"},
    "no positions of the class token": {"no_embed_class": True, "act_layer": "quick_gelu", "img_size": 64},
}


def variant(arguments: dict[str, Any]) -> Architecture:
    base = ARCHITECTURES["vit_test"]
    return replace(base, timm_kwargs={**base.timm_kwargs, "img_size": 32, **arguments})


def both(arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> list[Encoder]:
    """The encoder from one seed, with our ViT and with timm's, in which drop path has the same random numbers."""
    encoders = []
    for plain in (True, False):
        monkeypatch.setattr(plain_vit, "is_plain", lambda *_, plain=plain: plain)
        torch.manual_seed(0)
        encoders.append(Encoder(variant(arguments), drop_path=0.3))
    assert [type(encoder.vit) is PlainViT for encoder in encoders] == [True, False]
    return encoders


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("arguments", VARIANTS.values(), ids=VARIANTS)
def test_weights_features_and_gradients_are_those_of_timm(
    arguments: dict[str, Any], fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoders = both(arguments, monkeypatch)
    patch = encoders[0].architecture.patch
    images = torch.randn(4, 3, 2 * patch, 3 * patch)
    results = []
    for encoder in encoders:
        for block in encoder.vit.blocks:
            block.attn.fused_attn = fused
        torch.manual_seed(1)
        features = encoder.train()(images)
        (features.embedding.square().sum() + features.feature_map.abs().sum()).backward()
        weights = {name: (tensor, tensor.grad) for name, tensor in encoder.vit.named_parameters()}
        results.append((features.embedding, features.feature_map, weights))
    ours, theirs = results
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])
    assert list(ours[2]) == list(theirs[2])
    for name, (tensor, gradient) in theirs[2].items():
        assert torch.equal(ours[2][name][0], tensor), name
        assert torch.equal(ours[2][name][1], gradient), name
    assert (encoders[0].prefix, encoders[0].grid) == (encoders[1].prefix, encoders[1].grid)


@pytest.mark.parametrize("fused", [True, False])
def test_masked_attention_is_that_of_timm(fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, mask = torch.randn(2, 5, 64), torch.rand(2, 1, 5, 5) > 0.4
    mask |= torch.eye(5, dtype=torch.bool)
    blocks = [encoder.eval().vit.blocks[1] for encoder in both({}, monkeypatch)]
    for block in blocks:
        block.attn.fused_attn = fused
    masked, expected = (block(tokens, attn_mask=mask) for block in blocks)
    assert torch.equal(masked, expected)
    assert not torch.equal(masked, blocks[0](tokens))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_architectures_have_the_sizes_of_timm(arch: str) -> None:
    own = ARCHITECTURES[arch]  # type: ignore[index]
    with torch.device("meta"):
        arguments = {**own.timm_kwargs, **pooling_arguments(own, "avg")}
        theirs = timm.create_model(own.timm_model, num_classes=0, **arguments)
        vit = create_vit(own)
    assert type(vit) is PlainViT
    shapes = {name: tensor.shape for name, tensor in vit.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in theirs.state_dict().items()}
    assert [block.attn.num_heads for block in vit.blocks] == [block.attn.num_heads for block in theirs.blocks]


def test_decay_by_layer_has_the_groups_of_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = []
    for encoder in both({}, monkeypatch):
        names = {id(tensor): name for name, tensor in encoder.vit.named_parameters()}
        encoder.vit.no_weight_decay = set  # timm's own list, which gtsa-kit does not use
        by_layer = param_groups_layer_decay(encoder.vit, weight_decay=1.0, layer_decay=0.5)
        groups.append([(g["lr_scale"], g["weight_decay"], [names[id(p)] for p in g["params"]]) for g in by_layer])
    assert groups[0] == groups[1]
    assert {scale for scale, _, _ in groups[0]} == {0.25, 0.5, 1.0}


@pytest.mark.parametrize(
    ("model", "arguments"),
    [("vit_small_patch14_dinov2", {}), ("vit_tiny_patch16_224", {"pre_norm": True}), ("eva02_tiny_patch14_224", {})],
)
def test_other_vits_are_those_of_timm(model: str, arguments: dict[str, Any]) -> None:
    other = replace(variant(arguments), timm_model=model)
    assert not other.is_plain
    with torch.device("meta"):
        assert type(create_vit(other)).__module__.startswith("timm.")


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="5 heads do not divide a width of 64"):
        create_vit(variant({"num_heads": 5}))
