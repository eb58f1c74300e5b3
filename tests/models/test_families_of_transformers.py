"""Models of transformers, by the names in files of the hub and by those of live models, equal to their forward."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.families import vary
from torch import Tensor

from gtsa_kit.models.checkpoint_import import ImportedEncoder, open_weights

transformers = pytest.importorskip("transformers", reason="transformers is the oracle")

SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
WIDE = {**SIZES, "intermediate_size": 256}
TEXT = {**WIDE, "vocab_size": 10, "max_position_embeddings": 8}
GRIDS = [(5, 5), (7, 7), (3, 8)]
"""Grids of patches: that of the positions, another square, and none."""


def dinov2(**changes: Any) -> Any:
    return transformers.Dinov2Model(transformers.Dinov2Config(**SIZES, image_size=70, **changes))


def registers(**changes: Any) -> Any:
    config = transformers.Dinov2WithRegistersConfig(**SIZES, image_size=70, patch_size=14, **changes)
    return transformers.Dinov2WithRegistersModel(config)


def dinov3(**changes: Any) -> Any:
    return transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**{**WIDE, "image_size": 80, **changes}))


def clip(kind: str, **changes: Any) -> Any:
    vision = {**WIDE, "image_size": 80, "patch_size": 16, **changes}
    both = transformers.CLIPConfig(text_config=TEXT, vision_config=vision)
    return getattr(transformers, kind)(both if kind == "CLIPModel" else both.vision_config)


def siglip(kind: str, **changes: Any) -> Any:
    vision = {**WIDE, "image_size": 80, "patch_size": 16, **changes}
    both = transformers.SiglipConfig(text_config=TEXT, vision_config=vision)
    return getattr(transformers, kind)(both if kind == "SiglipModel" else both.vision_config)


def vit(kind: str, config: str, **changes: Any) -> Any:
    settings = getattr(transformers, config)(**{**WIDE, "image_size": 80, "patch_size": 16, **changes})
    return getattr(transformers, kind)(settings)


MODELS: dict[str, Callable[[], Any]] = {
    "DINOv2": dinov2,
    "DINOv2 with SwiGLU": lambda: dinov2(use_swiglu_ffn=True),
    "DINOv2 without bias of queries": lambda: dinov2(qkv_bias=False, hidden_act="gelu_pytorch_tanh"),
    "DINOv2 with registers": registers,
    "DINOv2 with no registers": lambda: registers(num_register_tokens=0),
    "DINOv3": lambda: dinov3(num_register_tokens=4),
    "DINOv3 with SwiGLU": lambda: dinov3(num_register_tokens=4, use_gated_mlp=True, hidden_act="silu"),
    "DINOv3 with few biases": lambda: dinov3(query_bias=False, proj_bias=False, mlp_bias=False),
    "DINOv3 with other periods": lambda: dinov3(rope_theta=1000.0),
    "CLIP": lambda: clip("CLIPModel"),
    "vision tower of CLIP": lambda: clip("CLIPVisionModel", hidden_act="gelu"),
    "CLIP with a projection": lambda: clip("CLIPVisionModelWithProjection"),
    "SigLIP": lambda: siglip("SiglipModel"),
    "vision tower of SigLIP": lambda: siglip("SiglipVisionModel", vision_use_head=False),
    "ViT": lambda: vit("ViTModel", "ViTConfig"),
    "DeiT": lambda: vit("DeiTModel", "DeiTConfig"),
    "MSN": lambda: vit("ViTMSNModel", "ViTMSNConfig"),
    "MAE": lambda: vit("ViTMAEForPreTraining", "ViTMAEConfig"),
}


@torch.no_grad()
def features_of(model: Any, images: Tensor) -> Tensor:
    """Patch tokens (B, N, D) after the final norm."""
    kind = type(model).__name__
    if kind.startswith(("CLIP", "Siglip")):
        tower = getattr(model, "vision_model", model)
        tokens = tower(images, interpolate_pos_encoding=True).last_hidden_state
        normed: Tensor = tower.post_layernorm(tokens) if kind.startswith("CLIP") else tokens
        return normed[:, 1:] if kind.startswith("CLIP") else normed
    if kind == "ViTMAEForPreTraining":
        # MAE drops patches in a random order: the one here keeps all, and the argument restores nothing.
        model.vit.config.mask_ratio = 0.0
        noise = torch.arange(images.shape[-1] * images.shape[-2] // 256).float().expand(len(images), -1)
        return model.vit(images, noise=noise, interpolate_pos_encoding=True).last_hidden_state[:, 1:]
    arguments = {} if kind.startswith("D") and "DeiT" not in kind else {"interpolate_pos_encoding": True}
    return model(images, **arguments).last_hidden_state[
        :, -(images.shape[-1] * images.shape[-2] // patch_of(model) ** 2) :
    ]


def patch_of(model: Any) -> int:
    config = getattr(model.config, "vision_config", model.config)
    return int(config.patch_size)


@torch.no_grad()
def check_equal(opened: ImportedEncoder, model: Any) -> None:
    patch = patch_of(model)
    assert opened.encoder.architecture.patch == patch
    for rows, columns in GRIDS:
        images = torch.randn(2, 3, rows * patch, columns * patch, generator=torch.Generator().manual_seed(rows))
        actual = opened.encoder(images).feature_map.flatten(2).mT
        torch.testing.assert_close(actual, features_of(model, images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_files_of_the_hub_and_of_live_models(name: str, tmp_path: Path) -> None:
    model = vary(MODELS[name]())
    model.save_pretrained(tmp_path)
    opened = open_weights(tmp_path)
    check_equal(opened, model)
    assert opened.encoder.grid == (5, 5)
    assert opened.origin == "hf"
    assert opened.note.endswith(
        "assumed: mean and std " + next((colors for word, colors in COLORS.items() if word in name), "0.5")
    )
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    live = open_weights(tmp_path).encoder.vit.state_dict()
    assert all(torch.equal(live[key], value) for key, value in opened.encoder.vit.state_dict().items())


COLORS = {"DINOv2": "of ImageNet", "DINOv3": "of ImageNet", "CLIP": "of OpenAI's CLIP"}


def saved(model: Any, folder: Path, **changes: Any) -> Path:
    vary(model).save_pretrained(folder)
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, **changes}))
    return folder


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("DINOv2", {"model_type": "siglip2_vision_model"}, "model_type is 'siglip2_vision_model'"),
    ("DINOv2", {"use_swiglu_ffn": True}, "use_swiglu_ffn is True, but the weights have False"),
    ("DINOv2", {"mlp_ratio": 3}, "mlp_ratio is 3, but the weights have 4"),
    ("DINOv2", {"hidden_act": "relu"}, "hidden_act is 'relu'"),
    ("DINOv2", {"image_size": 84}, "image_size is 84, but the weights have 70"),
    ("DINOv2", {"num_register_tokens": 4}, "num_register_tokens"),
    ("DINOv2 with registers", {"num_register_tokens": 2}, "num_register_tokens is 2, but the weights have 4"),
    ("DINOv3", {"hidden_act": "silu"}, "hidden_act is 'silu'; for DINOv3"),
    ("DINOv3", {"use_gated_mlp": True, "hidden_act": "silu"}, "use_gated_mlp is True, but the weights have False"),
    ("DINOv3", {"key_bias": True}, "key_bias is True, but the weights say otherwise"),
    ("DINOv3", {"query_bias": False}, "query_bias is False, but the weights say otherwise"),
    ("DINOv3", {"rope_scaling": 2}, "rope_scaling"),
    ("CLIP", {"vision_config": {**WIDE, "patch_size": 14}}, "patch_size is 14, but the weights have 16"),
    ("CLIP", {"vision_config": {**WIDE, "hidden_act": "swish"}}, "hidden_act is 'swish'"),
    ("CLIP", {"vision_config": {**WIDE, "window": 7}}, "window"),
    ("CLIP", {"vision_config_dict": {"num_hidden_layers": 3}}, "num_hidden_layers is 3, but the weights have 2"),
    ("CLIP", {"fusion": "late"}, "fusion"),
    ("SigLIP", {"vision_config": {**WIDE, "model_type": "siglip2_vision_model"}}, "'siglip2_vision_model'"),
    ("ViT", {"model_type": "ijepa"}, "model_type is 'ijepa'"),
]


@pytest.mark.parametrize(("name", "change", "message"), REFUSED, ids=[f"{n} {c}"[:60] for n, c, _ in REFUSED])
def test_other_values_are_refused_by_name(name: str, change: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = saved(MODELS[name](), tmp_path, **change)
    with pytest.raises(ValueError, match=message) as error:
        open_weights(folder)
    assert "config.json" in str(error.value)


def test_siglip2_of_any_resolution_is_refused_by_its_name(tmp_path: Path) -> None:
    vision = {**WIDE, "patch_size": 16, "num_patches": 25}
    config = transformers.Siglip2Config(text_config=TEXT, vision_config=vision)
    transformers.Siglip2Model(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="model_type is 'siglip2'"):
        open_weights(tmp_path)


@pytest.mark.parametrize("zero", [True, False])
def test_biases_of_keys_are_dropped_only_if_they_are_zero(zero: bool, tmp_path: Path) -> None:
    model = vary(dinov3(key_bias=True))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if zero and "k_proj.bias" in name:
                parameter.zero_()
    model.save_pretrained(tmp_path)
    if zero:
        check_equal(open_weights(tmp_path), model)
        return
    with pytest.raises(ValueError, match=r"biases of keys \(layer.0.attention.k_proj.bias\)"):
        open_weights(tmp_path)


@pytest.mark.parametrize("name", ["DINOv2", "DINOv2 with registers", "DINOv3", "CLIP", "SigLIP", "ViT"])
def test_names_tell_the_family_without_a_config(name: str, tmp_path: Path) -> None:
    model = vary(MODELS[name]())
    torch.save(
        {"state_dict": {f"model.{key}": value for key, value in model.state_dict().items()}}, tmp_path / "a.ckpt"
    )
    opened = open_weights(tmp_path / "a.ckpt", heads=2)
    check_equal(opened, model)
    assert f"LayerNorm eps {opened.encoder.architecture.norm_eps:g}" in opened.note
    assert ("activation quick_gelu" in opened.note) == (name == "CLIP")


def test_older_files_of_clip_state_options_of_text_generation(tmp_path: Path) -> None:
    model = vary(MODELS["CLIP"]())
    model.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    content["vision_config"] |= {"top_k": 50, "temperature": 1.0, "bad_words_ids": None, "tie_encoder_decoder": False}
    content |= {"vision_config_dict": None, "text_config_dict": {"hidden_size": 64}}
    (tmp_path / "config.json").write_text(json.dumps(content))
    check_equal(open_weights(tmp_path), model)


PROCESSORS = {
    "DINOv2": "BitImageProcessor",
    "DINOv3": "DINOv3ViTImageProcessor",
    "CLIP": "CLIPImageProcessor",
    "SigLIP": "SiglipImageProcessor",
    "DeiT": "DeiTImageProcessor",
    "ViT": "ViTImageProcessor",
}


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("stated", ["all values", "the type", "nothing"])
def test_preprocessing_is_that_of_the_processor(name: str, stated: str, tmp_path: Path) -> None:
    folder, kind = saved(MODELS[name](), tmp_path), PROCESSORS[name]
    processor = getattr(transformers, kind)()
    content = {"all values": processor.to_dict(), "the type": {"image_processor_type": f"{kind}Fast"}, "nothing": {}}
    (folder / "preprocessor_config.json").write_text(json.dumps(content[stated], default=str))
    opened = open_weights(folder)
    preprocessing = opened.encoder.preprocessing
    assert preprocessing.mean == pytest.approx(tuple(processor.image_mean))
    assert preprocessing.std == pytest.approx(tuple(processor.image_std))
    assert preprocessing.interpolation.startswith({2: "bilinear", 3: "bicubic"}[int(processor.resample)])
    assert "assumed" not in opened.note
