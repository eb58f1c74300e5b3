"""Files beside weights: each field is used, changes no feature, or is refused by name; timm and transformers decide."""

import dataclasses
import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from helpers.families import vary
from PIL import Image
from timm.models import save_for_hf

from gtsa_kit.export.formats.frameworks import export_framework
from gtsa_kit.export.parity_images import ParityImages
from gtsa_kit.export.pipeline import export_artifact
from gtsa_kit.export.source import open_source
from gtsa_kit.export.spec import ExportOptions, Range
from gtsa_kit.models.checkpoint_import import open_weights
from gtsa_kit.models.checkpoint_import.sidecar_fields import (
    PROCESSOR,
    TIMM_ARGS,
    TIMM_PRETRAINED,
    Fields,
)
from gtsa_kit.models.checkpoint_import.transformers_fields import TOWERS, TRANSFORMERS, TWO_TOWERS

TINY = {"embed_dim": 64, "depth": 2, "num_heads": 2}
SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}


def edit(path: Path, section: str = "", **changes: Any) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    (content[section] if section else content).update(changes)
    path.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of transformers with config, weights and preprocessor."""
    transformers = pytest.importorskip("transformers", reason="transformers is the oracle")
    folder = tmp_path_factory.mktemp("hub")
    vary(transformers.ViTModel(transformers.ViTConfig(**SIZES))).save_pretrained(folder)
    transformers.ViTImageProcessor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def timm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("timm")
    model = vary(timm.create_model("vit_tiny_patch16_224", num_classes=0, **TINY))
    save_for_hf(model, folder, model_args=TINY, safe_serialization=True)
    return folder


@pytest.fixture
def copy(tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    def make(name: str) -> Path:
        return Path(shutil.copytree(request.getfixturevalue(name), tmp_path / "copy"))

    return make


# --- values that are used -------------------------------------------------------------------------------------------

PROCESSORS: dict[str, dict[str, Any]] = {
    "default": {},
    "not normalized": {"do_normalize": False},
    "not rescaled": {"do_rescale": False},
    "not rescaled, means of levels": {"do_rescale": False, "image_mean": [124, 116, 104], "image_std": [58, 57, 57]},
    "rescaled to 2": {"rescale_factor": 1 / 127.5},
    "rescaled to 2, not normalized": {"rescale_factor": 1 / 127.5, "do_normalize": False},
    "rescaled to 0.5": {"rescale_factor": 1 / 510, "do_normalize": False, "offset": True},
    "neither": {"do_rescale": False, "do_normalize": False},
    "one value": {"image_mean": 0.4, "image_std": 0.3},
}


@pytest.mark.parametrize("case", PROCESSORS)
def test_pixels_are_those_of_transformers(case: str, copy: Any) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is the oracle")
    folder = copy("hub")
    edit(folder / "preprocessor_config.json", **PROCESSORS[case])
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8))
    expected = transformers.ViTImageProcessor.from_pretrained(folder)(image, return_tensors="np")["pixel_values"][0]
    opened = open_weights(folder)
    actual = opened.encoder.preprocessing(image)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    assert ("false" in opened.note) == (False in PROCESSORS[case].values())
    assert opened.encoder.preprocessing.interpolation.startswith("bilinear")  # the default of ViTImageProcessor


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "quick_gelu"])
@torch.no_grad()
def test_activations_of_transformers(activation: str, copy: Any) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is the oracle")
    folder = copy("hub")
    edit(folder / "config.json", hidden_act=activation)
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    expected = transformers.ViTModel.from_pretrained(folder)(images).last_hidden_state[:, 1:]
    encoder = open_weights(folder).encoder
    assert encoder.architecture.heads == 4
    torch.testing.assert_close(encoder(images).feature_map.flatten(2).mT, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "quick_gelu"])
@torch.no_grad()
def test_activations_of_timm(activation: str, copy: Any) -> None:
    folder = copy("timm_folder")
    edit(folder / "config.json", "model_args", act_layer=activation)
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    actual = open_weights(folder).encoder(images).feature_map.flatten(2).mT
    torch.testing.assert_close(actual, model.forward_features(images)[:, 1:], rtol=0, atol=2e-5)


def test_the_architecture_tells_what_model_args_do_not(timm_folder: Path, copy: Any, tmp_path: Path) -> None:
    """timm's CLIP models have other layers than its plain ViTs, without a word in model_args."""
    from timm.models import save_for_hf

    model = vary(timm.create_model("vit_base_patch16_clip_quickgelu_224", num_classes=0, **TINY))
    save_for_hf(model, tmp_path, model_args=TINY, safe_serialization=True)
    opened = open_weights(tmp_path)
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    actual = opened.encoder(images).feature_map.flatten(2).mT
    torch.testing.assert_close(actual, model.eval().forward_features(images)[:, 1:], rtol=0, atol=2e-5)
    assert opened.encoder.architecture.norm_eps == model.norm.eps != 1e-6
    folder = copy("timm_folder")
    edit(folder / "config.json", architecture="vit_base_patch16_clip_quickgelu_224")
    with pytest.raises(ValueError, match=r"lacks 2 of the encoder's keys \(norm_pre"):
        open_weights(folder)
    edit(folder / "config.json", architecture="vit_of_tomorrow")
    assert "no 'vit_of_tomorrow'" in open_weights(folder).note
    assert "assumed" not in open_weights(timm_folder).note


def test_artifacts_keep_the_activation(copy: Any, scenes: ParityImages, tmp_path: Path) -> None:
    folder = copy("timm_folder")
    edit(folder / "config.json", "model_args", act_layer="quick_gelu")
    source = open_source(folder)
    side = Range(32, 32)
    for file_format, suffix in (("onnx", ".onnx"), ("torchscript", ".ts")):
        path = tmp_path / f"a{suffix}"
        options = ExportOptions(height=side, width=side, batch=Range(1, 1))
        manifest = export_artifact(source, file_format, path, options, scenes)
        assert manifest.parity is not None
        assert manifest.parity.passed
        assert manifest.architecture["timm_kwargs"]["act_layer"] == "quick_gelu"
    for framework in ("timm", "hf"):
        assert export_framework(source.encoder, framework, tmp_path / framework, scenes).parity.passed
        assert open_weights(tmp_path / framework).encoder.architecture.activation == "quick_gelu"
    with pytest.raises(ValueError, match="quick_gelu; choose timm or hf"):
        export_framework(source.encoder, "mmseg", tmp_path / "mmseg", scenes)


# --- values that are refused ------------------------------------------------------------------------------------------

REFUSED: list[tuple[str, str, str, dict[str, Any]]] = [
    *(
        ("hub", "preprocessor_config.json", "", change)
        for change in (
            {"resample": 1},
            {"resample": 0},
            {"do_flip_channel_order": True},
            {"do_convert_grayscale": True},
            {"do_pad": True},
            {"auto_map": {"AutoImageProcessor": "code.Processor"}},
            {"gamma": 2.2},
            {"image_mean": "ImageNet"},
            {"rescale_factor": 0},
            {"offset": True, "image_processor_type": "VivitImageProcessor"},
        )
    ),
    *(
        ("hub", "config.json", "", change)
        for change in (
            {"hidden_act": "relu"},
            {"hidden_act": "gelu_10"},
            {"model_type": "swin"},
            {"use_swiglu_ffn": True},
            {"layerscale_value": 1.0},
            {"num_register_tokens": 4},
            {"auto_map": {"AutoModel": "code.Model"}},
            {"window_size": 14},
            {"num_hidden_layers": 3},
            {"hidden_size": 128},
            {"intermediate_size": 128},
            {"image_size": 384},
            {"patch_size": 14},
        )
    ),
    *(
        ("timm_folder", "config.json", "model_args", change)
        for change in (
            {"act_layer": "relu"},
            {"init_values": 1e-5},
            {"class_token": False},
            {"reg_tokens": 4},
            {"pos_embed": "none"},
            {"no_embed_class": True},
            {"pre_norm": True},
            {"final_norm": False},
            {"qk_norm": True},
            {"norm_layer": "rmsnorm"},
            {"mlp_ratio": 3},
            {"patch_size": 14},
            {"img_size": 384},
            {"attn_layer": "diff"},
            {"window_size": 7},
        )
    ),
    ("timm_folder", "config.json", "pretrained_cfg", {"interpolation": "lanczos"}),
    ("timm_folder", "config.json", "pretrained_cfg", {"color_space": "lab"}),
    ("timm_folder", "config.json", "", {"layer_scale": True}),
]


@pytest.mark.parametrize(
    ("fixture", "file", "section", "change"), REFUSED, ids=[f"{file} {change}" for _, file, _, change in REFUSED]
)
def test_other_values_are_refused_by_name(
    fixture: str, file: str, section: str, change: dict[str, Any], copy: Any
) -> None:
    folder = copy(fixture)
    open_weights(folder)
    edit(folder / file, section, **change)
    with pytest.raises(ValueError, match=next(iter(change))) as error:
        open_weights(folder)
    assert file in str(error.value)


def test_a_processor_with_unknown_defaults_must_state_its_values(copy: Any) -> None:
    folder = copy("hub")
    processor = {"image_processor_type": "EfficientNetImageProcessor", "image_mean": [0.4] * 3, "image_std": [0.3] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    with pytest.raises(ValueError, match="leaves resample to the default of EfficientNetImageProcessor"):
        open_weights(folder)
    edit(folder / "preprocessor_config.json", resample=3)
    assert open_weights(folder).encoder.preprocessing.mean == (0.4,) * 3


# --- the tables cover what the libraries write ---------------------------------------------------------------------


def names_of(fields: Fields) -> set[str]:
    return {*fields.read, *fields.neutral, *(name for names in fields.harmless.values() for name in names)}


def test_every_argument_of_timm_is_classified() -> None:
    for kind in (timm.models.VisionTransformer, timm.models.Eva):
        arguments = set(inspect.signature(kind.__init__).parameters) - {"self", "device", "dtype"}
        assert arguments <= names_of(TIMM_ARGS)
    config = {field.name for field in dataclasses.fields(timm.models.PretrainedCfg)}
    assert config <= names_of(TIMM_PRETRAINED)


def test_every_field_of_transformers_is_classified() -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is the oracle")
    for kind, table in TRANSFORMERS.items():
        config = transformers.CONFIG_MAPPING[kind]().to_dict()
        assert {name for name in config if not name.startswith("_")} <= names_of(table)
    for kind in TOWERS:
        config = transformers.CONFIG_MAPPING[kind]().to_dict()
        assert {name for name in config if not name.startswith("_")} <= names_of(TWO_TOWERS)
    for kind in ("ViT", "Bit", "CLIP", "Siglip", "DeiT", "DINOv3ViT"):
        processor = getattr(transformers, f"{kind}ImageProcessor")().to_dict()
        assert {name for name in processor if not name.startswith("_")} <= names_of(PROCESSOR)


def test_no_field_is_in_two_tables() -> None:
    for fields in (PROCESSOR, TIMM_ARGS, TIMM_PRETRAINED, TWO_TOWERS, *TRANSFORMERS.values()):
        listed = [*fields.read, *fields.neutral, *(name for names in fields.harmless.values() for name in names)]
        assert len(listed) == len(set(listed))
