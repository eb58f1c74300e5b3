"""Checkpoints for other frameworks, loaded by the frameworks themselves where installed, else by plain modules."""

import json
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from helpers.families import FAMILIES, HEADS, SMALL, timm_vit
from PIL import Image
from timm.models import save_for_hf
from torch import Tensor, nn

from gtsa_kit.export.folder_report import FolderReport
from gtsa_kit.export.formats import framework_files
from gtsa_kit.export.formats.framework_files import channels_note
from gtsa_kit.export.formats.frameworks import detectron2_features, export_framework
from gtsa_kit.export.inspect_file import inspect_file
from gtsa_kit.export.parity_images import ParityImages, load_parity_images
from gtsa_kit.export.spec import FRAMEWORKS
from gtsa_kit.models.architecture import ARCHITECTURES, Architecture
from gtsa_kit.models.checkpoint_import import open_weights
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.preprocessing import Preprocessing, Samples
from gtsa_kit.models.weights import save_encoder

BLOCKS = {"vit_test": 2, "vit_small": 12}
FILES = {
    "timm": {"model.safetensors", "config.json"},
    "hf": {"model.safetensors", "config.json", "preprocessor_config.json"},
    "mmseg": {"encoder_mmseg.pth"},
    "mmdet": {"encoder_mmdet.pth"},
    "detectron2": {"encoder_detectron2.pth"},
}


def varied(architecture: Any, preprocessing: Preprocessing | None = None, seed: int = 0) -> Encoder:
    """Return an encoder with random weights of realistic variance; initial biases and norms would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    encoder = Encoder(architecture, preprocessing=preprocessing).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            scale = 0.3 if parameter.ndim < 2 else 0.03
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    return encoder


@cache
def encoder_of(name: str) -> Encoder:
    return varied(name)


@pytest.fixture(scope="module")
def scenes() -> ParityImages:
    return load_parity_images(None)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, scenes: ParityImages) -> Any:
    root = tmp_path_factory.mktemp("frameworks")

    @cache
    def export(name: str, framework: str) -> tuple[Path, FolderReport]:
        folder = root / name / framework
        return folder, export_framework(encoder_of(name), framework, folder, scenes)

    return export


def images_of(size: int = 224) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def tokens_of(encoder: Encoder, images: Tensor) -> Tensor:
    with torch.no_grad():
        tokens: Tensor = encoder(images).feature_map.flatten(2).mT
    return tokens


# --- what is written ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("name", ["vit_test", "vit_small"])
def test_every_framework_computes_the_same(name: str, framework: str, exported: Any) -> None:
    folder, report = exported(name, framework)
    assert report.parity.passed
    assert report.parity.worst.max_abs < 1e-4
    assert {d.output for d in report.parity.differences} == {"embedding", "feature_map"}
    assert {(d.batch, d.height, d.width) for d in report.parity.differences} == {(2, 224, 224)}
    assert "matplotlib" in report.parity.images
    assert all(d.image.startswith("crop at") for d in report.parity.differences)
    assert {path.name for path in folder.iterdir()} == FILES[framework] | {"gtsa.json"}
    assert set(report.files) == FILES[framework]
    assert json.loads((folder / "gtsa.json").read_text()) == report.model_dump(mode="json")
    assert report.architecture["name"] == name
    assert report.preprocessing["mean"] == (0.485, 0.456, 0.406)


def test_the_report_names_the_runtime(exported: Any) -> None:
    def read(framework: str) -> str:
        return exported("vit_test", framework)[1].parity.runtime

    assert read("timm") == f"timm {timm.__version__}"
    assert read("mmseg") == "torch functions on mmsegmentation's key names"
    assert read("mmdet") == "torch functions on mmpretrain's key names"
    assert read("detectron2") == "torch functions on detectron2's key names"
    reference = exported("vit_test", "detectron2")[1].parity.reference
    assert "without class token and final norm, which detectron2's ViT lacks" in reference
    assert exported("vit_test", "mmseg")[1].parity.reference == "gtsa-kit encoder, float32, PyTorch"


def keys_of(prefix: str, outside: list[str], block: str, inside: list[str], depth: int) -> set[str]:
    """Return the keys of a checkpoint; a name that ends in "." stands for its weight and bias."""
    names = outside + [f"{block}.{i}.{name}" for i in range(depth) for name in inside]
    pairs = [[name + "weight", name + "bias"] if name.endswith(".") else [name] for name in names]
    return {prefix + name for pair in pairs for name in pair}


# Written down from the frameworks' own module definitions, not from the tables of gtsa-kit.
KEYS: dict[str, tuple[str, list[str], str, list[str]]] = {
    "mmseg": (
        "",
        ["cls_token", "pos_embed", "patch_embed.projection.", "ln1."],
        "layers",
        [
            *("ln1.", "attn.attn.in_proj_weight", "attn.attn.in_proj_bias", "attn.attn.out_proj."),
            *("ln2.", "ffn.layers.0.0.", "ffn.layers.1."),
        ],
    ),
    "mmdet": (
        "",
        ["cls_token", "pos_embed", "patch_embed.projection.", "ln1."],
        "layers",
        ["ln1.", "attn.qkv.", "attn.proj.", "ln2.", "ffn.layers.0.0.", "ffn.layers.1."],
    ),
    "detectron2": (
        "backbone.net.",
        ["pos_embed", "patch_embed.proj."],
        "blocks",
        ["norm1.", "attn.qkv.", "attn.proj.", "norm2.", "mlp.fc1.", "mlp.fc2."],
    ),
}


@pytest.mark.parametrize("framework", KEYS)
@pytest.mark.parametrize("name", ["vit_test", "vit_small"])
def test_keys_are_those_of_the_framework(name: str, framework: str, exported: Any) -> None:
    content = torch.load(next(exported(name, framework)[0].glob("*.pth")), weights_only=True)
    assert list(content) == ["model" if framework == "detectron2" else "state_dict"]
    (weights,) = content.values()
    assert set(weights) == keys_of(*KEYS[framework], BLOCKS[name])
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert all(tensor.is_contiguous() for tensor in weights.values())
    width = ARCHITECTURES[name].width  # type: ignore[index]
    positions = next(tensor for key, tensor in weights.items() if key.endswith("pos_embed"))
    assert positions.shape == (1, 197, width)


# --- timm -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_timm_loads_it_strictly(exported: Any) -> None:
    folder, _ = exported("vit_small", "timm")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    ours = encoder_of("vit_small").vit.state_dict()
    theirs = model.state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)
    images = images_of()
    torch.testing.assert_close(
        model.forward_features(images)[:, 1:], tokens_of(encoder_of("vit_small"), images), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("name", ["vit_test", "vit_small"])
@torch.no_grad()
def test_the_output_of_timm_is_the_embedding(name: str, exported: Any) -> None:
    """Call the model itself, with and without the arguments of the documentation."""
    folder, _ = exported(name, "timm")
    images = images_of()
    expected = encoder_of(name)(images).embedding
    for arguments in ({}, {"num_classes": 0}, {"dynamic_img_size": True}):
        model = timm.create_model(f"local-dir:{folder}", pretrained=True, **arguments).eval()
        torch.testing.assert_close(model(images), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_weights_of_a_run_in_timm(tmp_path: Path) -> None:
    """Open encoder.safetensors with the call of the README."""
    encoder = encoder_of("vit_test")
    save_encoder(tmp_path, dict(encoder.vit.state_dict()), "vit_test", {})
    model = timm.create_model(
        encoder.architecture.timm_model,
        **encoder.architecture.timm_kwargs,
        num_classes=0,
        global_pool="avg",
        fc_norm=False,
        checkpoint_path=str(tmp_path / "encoder.safetensors"),
    ).eval()
    torch.testing.assert_close(model(images_of()), encoder(images_of()).embedding, rtol=0, atol=1e-5)


@torch.no_grad()
def test_transformers_opens_a_folder_of_timm(exported: Any) -> None:
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModel.from_pretrained(exported("vit_test", "timm")[0]).eval()
    expected = encoder_of("vit_test")(images_of()).embedding
    torch.testing.assert_close(model(images_of()).pooler_output, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("framework", ["timm", "hf"])
def test_the_gate_sees_a_call_that_gives_the_class_token(
    framework: str, tmp_path: Path, scenes: ParityImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break the documented call alone: the map stays right, the embedding does not."""
    if framework == "timm":
        monkeypatch.setattr(framework_files, "pooling_arguments", lambda *_: {"global_pool": "token"})
    else:
        transformers = pytest.importorskip("transformers")
        original = transformers.ViTModel.forward

        def shifted(self: Any, *args: Any, **kwargs: Any) -> Any:
            out = original(self, *args, **kwargs)
            out.last_hidden_state = out.last_hidden_state.roll(1, dims=1)
            return out

        monkeypatch.setattr(transformers.ViTModel, "forward", shifted)
    report = export_framework(encoder_of("vit_test"), framework, tmp_path, scenes)
    assert not report.parity.passed
    assert "embedding" in {d.output for d in report.parity.differences if not d.passed}


def test_transform_of_timm_matches_the_preprocessing(exported: Any) -> None:
    folder, _ = exported("vit_small", "timm")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 500, 3), dtype=np.uint8))
    np.testing.assert_allclose(transform(image).numpy(), Preprocessing()(image), atol=1e-5)


def test_timm_with_another_head_count_grid_and_a_classifier(tmp_path: Path, scenes: ParityImages) -> None:
    architecture = Architecture(
        "vit_test", "vit_tiny_patch16_224", 64, 2, 4, {"embed_dim": 64, "depth": 2, "num_heads": 4, "img_size": 384}
    )
    encoder = varied(architecture, Preprocessing(384))
    report = export_framework(encoder, "timm", tmp_path, scenes)
    assert report.parity.passed
    assert report.parity.worst.height == 384
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=7)
    assert model.head.out_features == 7
    assert torch.equal(model.state_dict()["pos_embed"], encoder.vit.state_dict()["pos_embed"])


# --- transformers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vit_test", "vit_small"])
@torch.no_grad()
def test_transformers_loads_it_with_nothing_missing(name: str, exported: Any) -> None:
    transformers = pytest.importorskip("transformers")
    folder, report = exported(name, "hf")
    assert report.parity.runtime == f"transformers {transformers.__version__}"
    model, info = transformers.ViTModel.from_pretrained(folder, add_pooling_layer=False, output_loading_info=True)
    assert not any(info.values()), info
    assert model.config.layer_norm_eps == model.layernorm.eps == 1e-6
    assert model.config.num_attention_heads == ARCHITECTURES[name].heads  # type: ignore[index]
    images = images_of()
    actual = model.eval()(images).last_hidden_state[:, 1:]
    torch.testing.assert_close(actual, tokens_of(encoder_of(name), images), rtol=0, atol=1e-5)


def test_preprocessing_of_transformers_matches(exported: Any) -> None:
    transformers = pytest.importorskip("transformers")
    processor = transformers.AutoImageProcessor.from_pretrained(exported("vit_test", "hf")[0])
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 500, 3), dtype=np.uint8))
    theirs = np.asarray(processor(image, return_tensors="np")["pixel_values"][0])
    ours = Preprocessing()(image)
    assert theirs.shape == ours.shape
    # It may resize with torchvision instead of PIL, whose rounding differs by one level of 255, times 1 / std.
    assert np.abs(theirs - ours).max() < 1.5 / 255 / 0.224


def test_checkpoint_import_replaces_missing_transformers(
    tmp_path: Path, scenes: ParityImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gtsa_kit.export.formats import reference_models

    monkeypatch.setattr(reference_models.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setitem(sys.modules, "transformers", None)
    report = export_framework(encoder_of("vit_test"), "hf", tmp_path, scenes)
    assert report.parity.passed
    assert report.parity.runtime == "gtsa-kit's checkpoint import, since transformers is not installed"


def test_key_names_of_the_hub(exported: Any) -> None:
    from safetensors import safe_open

    inside = ["attention.attention.query.", "attention.attention.key.", "attention.attention.value."]
    inside += [
        "attention.output.dense.",
        "intermediate.dense.",
        "output.dense.",
        "layernorm_before.",
        "layernorm_after.",
    ]
    outside = ["embeddings.cls_token", "embeddings.position_embeddings", "embeddings.patch_embeddings.projection."]
    with safe_open(exported("vit_small", "hf")[0] / "model.safetensors", "pt") as file:
        assert set(file.keys()) == keys_of("", [*outside, "layernorm."], "encoder.layer", inside, 12)
        assert file.metadata() == {"format": "pt"}


# --- plain modules, as the frameworks without a package here build them ---------------------------------------------


class Attention(nn.Module):
    """Wrapper around `nn.MultiheadAttention`, as in mmcv."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attn(x, x, x, need_weights=False)[0]


class FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        first = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(0.0))
        self.layers = nn.Sequential(first, nn.Linear(4 * width, width), nn.Dropout(0.0))


class Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.ffn = Attention(width, heads), FeedForward(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln1(x))
        return x + self.ffn.layers(self.ln2(x))


class Segmenter(nn.Module):
    """Modules of mmsegmentation's backbone under its names."""

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.patch_embed = nn.Module()
        self.patch_embed.projection = nn.Conv2d(3, width, 16, 16)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 197, width))
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(depth))
        self.ln1 = nn.LayerNorm(width, eps=1e-6)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch_embed.projection(images).flatten(2).mT
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        for layer in self.layers:
            x = layer(x)
        return self.ln1(x)[:, 1:]


@torch.no_grad()
def test_mmseg_weights_in_modules_of_torch(exported: Any) -> None:
    content = torch.load(exported("vit_small", "mmseg")[0] / "encoder_mmseg.pth", weights_only=True)
    model = Segmenter(384, 12, 6).eval()
    model.load_state_dict(content["state_dict"], strict=True)
    images = images_of()
    torch.testing.assert_close(model(images), tokens_of(encoder_of("vit_small"), images), rtol=0, atol=1e-5)


def test_detectron2_features_of_a_large_scale_pass(tmp_path: Path, scenes: ParityImages) -> None:
    encoder = varied("vit_test")
    with torch.no_grad():
        for block in encoder.vit.blocks:
            block.mlp.fc2.weight *= 3000  # as trained networks may have them where no norm follows
        assert float(detectron2_features(encoder, images_of()).feature_map.std()) > 500
    assert export_framework(encoder, "detectron2", tmp_path, scenes).parity.passed


@torch.no_grad()
def test_detectron2_weights_in_blocks_of_timm(exported: Any) -> None:
    content = torch.load(exported("vit_small", "detectron2")[0] / "encoder_detectron2.pth", weights_only=True)
    weights = {name.removeprefix("backbone.net."): tensor for name, tensor in content["model"].items()}
    model = timm.create_model("vit_small_patch16_224", num_classes=0).eval()
    result = model.load_state_dict(weights, strict=False)
    assert set(result.missing_keys) == {"cls_token", "norm.weight", "norm.bias"}
    assert not result.unexpected_keys
    images = images_of()
    x = model.blocks(model.patch_embed(images) + model.pos_embed[:, 1:])
    from gtsa_kit.export.formats.reference_models import run_detectron2

    actual = run_detectron2(weights, images, heads=6, eps=1e-6).flatten(2).mT
    torch.testing.assert_close(actual, x, rtol=0, atol=1e-5 * float(x.abs().max()))


# --- back again -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("framework", "origin"), [("timm", "timm"), ("hf", "hf"), ("mmseg", "mmseg"), ("mmdet", "mmpretrain")]
)
def test_open_weights_reads_exported_checkpoints(
    framework: str, origin: str, tmp_path: Path, scenes: ParityImages
) -> None:
    architecture = Architecture(
        "vit_test", "vit_tiny_patch16_224", 64, 2, 4, {"embed_dim": 64, "depth": 2, "num_heads": 4}, norm_eps=1e-5
    )
    if framework == "timm":  # whose config cannot say eps
        architecture = Architecture(**{**vars(architecture), "norm_eps": 1e-6})
    preprocessing = Preprocessing(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), interpolation="bilinear, antialiased")
    encoder = varied(architecture, preprocessing)
    report = export_framework(encoder, framework, tmp_path, scenes)
    opened = open_weights(tmp_path / report.files[0])
    assert opened.origin == origin
    assert opened.encoder.architecture == architecture
    assert opened.encoder.preprocessing == preprocessing
    assert "assumed" not in opened.note
    ours = encoder.vit.state_dict()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in opened.encoder.vit.state_dict().items())


def test_a_segmenter_fine_tuned_in_mmseg_can_be_imported(exported: Any, tmp_path: Path) -> None:
    weights = torch.load(exported("vit_test", "mmseg")[0] / "encoder_mmseg.pth", weights_only=True)["state_dict"]
    state = {f"backbone.{name}": tensor for name, tensor in weights.items()}
    state |= {"decode_head.conv_seg.weight": torch.zeros(3, 3, 1, 1), "auxiliary_head.conv_seg.bias": torch.zeros(3)}
    torch.save({"meta": {"epoch": 3}, "state_dict": state}, tmp_path / "epoch_3.pth")
    opened = open_weights(tmp_path / "epoch_3.pth")
    assert opened.origin == "mmseg"
    assert opened.skipped == (
        "state_dict.auxiliary_head.conv_seg.bias",
        "state_dict.decode_head.conv_seg.weight",
    )


# --- refusals and failures ------------------------------------------------------------------------------------------


def test_the_report_is_of_the_files_beside_it(tmp_path: Path, scenes: ParityImages) -> None:
    export_framework(encoder_of("vit_test"), "timm", tmp_path, scenes)
    assert inspect_file(tmp_path).folder.parity.passed
    (tmp_path / "config.json").write_text((tmp_path / "config.json").read_text().replace('"avg"', '"token"'))
    facts = inspect_file(tmp_path)
    assert (facts.report_problem, facts.folder.parity) == ("config.json was changed after its export", None)
    (tmp_path / "config.json").unlink()
    assert inspect_file(tmp_path).report_problem == "config.json is missing"


def test_files_are_replaced_with_force_alone(tmp_path: Path, scenes: ParityImages) -> None:
    encoder = encoder_of("vit_test")
    with pytest.raises(ValueError, match="unknown framework 'keras'; choose one of timm, hf, mmseg, mmdet, detectron2"):
        export_framework(encoder, "keras", tmp_path, scenes)
    (tmp_path / "config.json").write_text("mine")
    with pytest.raises(ValueError, match=r"config\.json exists; add --force"):
        export_framework(encoder, "timm", tmp_path, scenes)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert export_framework(encoder, "timm", tmp_path, scenes, force=True).parity.passed
    assert json.loads((tmp_path / "config.json").read_text())["architecture"] == "vit_tiny_patch16_224"
    with pytest.raises(ValueError, match="is a file; choose a folder"):
        export_framework(encoder, "timm", tmp_path / "config.json", scenes)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_wrong_file_fails_the_comparison(
    framework: str, tmp_path: Path, scenes: ParityImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gtsa_kit.export.formats import frameworks

    def spoil(encoder: Encoder, weights: dict[str, Tensor], folder: Path) -> None:
        spoilt = {name: w * 1.01 if name == "blocks.1.attn.proj.weight" else w for name, w in weights.items()}
        write(encoder, spoilt, folder)

    write, files = frameworks.WRITERS[framework]
    monkeypatch.setattr(frameworks, "WRITERS", {framework: (spoil, files)})
    report = export_framework(encoder_of("vit_test"), framework, tmp_path, scenes)
    assert not report.parity.passed
    assert not json.loads((tmp_path / "gtsa.json").read_text())["parity"]["passed"]


@pytest.mark.parametrize("family", ["DINOv2", "CLIP", "DeiT3", "SigLIP", "a grid of 3 x 5", "DINOv3"])
def test_files_for_others_hold_plain_vits_alone(family: str, scenes: ParityImages, tmp_path: Path) -> None:
    """The name of a model of timm alone may stand for LayerScale and other norms."""
    name, arguments = FAMILIES[family]
    save_for_hf(timm_vit(family), tmp_path / "timm", model_args={**SMALL, **arguments}, safe_serialization=True)
    encoder = open_weights(tmp_path / "timm").encoder
    for framework in ("hf", "mmseg", "mmdet", "detectron2"):
        with pytest.raises(ValueError, match=f"files for {framework}"):
            export_framework(encoder, framework, tmp_path / framework, scenes)
    assert name == encoder.architecture.timm_model


def test_periods_that_timm_does_not_compute_are_in_no_file_of_timm(scenes: ParityImages, tmp_path: Path) -> None:
    torch.save(timm_vit("DINOv3").state_dict(), tmp_path / "a.pth")
    architecture = open_weights(tmp_path / "a.pth", heads=HEADS).encoder.architecture
    encoder = Encoder(replace(architecture, rotary_periods=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)))
    with pytest.raises(ValueError, match="can't hold the periods of rotary positions"):
        export_framework(encoder, "timm", tmp_path / "files", scenes)


# --- channels other than RGB ----------------------------------------------------------------------------------------


BANDS = 5
OF_BANDS = Preprocessing(
    mean=(900.0, 1000.0, 1100.0, 1200.0, 1300.0),
    std=(200.0, 300.0, 400.0, 500.0, 600.0),
    samples=Samples("uint16", (0.0,) * BANDS, (5000.0,) * BANDS, colors=False),
)


@pytest.fixture(scope="module")
def of_bands(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the encoder of five channels, and the folder and report of a framework."""
    encoder = varied(ARCHITECTURES["vit_test"].with_channels(BANDS), OF_BANDS)
    pixels = np.random.default_rng(0).integers(0, 5000, (2, 96, 80, BANDS)).astype(np.uint16)
    images, root = ParityImages(list(pixels), "noise", ["a", "b"]), tmp_path_factory.mktemp("bands")

    @cache
    def export(framework: str) -> tuple[Encoder, Path, FolderReport]:
        folder = root / framework
        return encoder, folder, export_framework(encoder, framework, folder, images)

    return export


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_every_framework_takes_the_channels(framework: str, of_bands: Any) -> None:
    """The files hold the kernel for all channels, and the text says where they are stated."""
    _, folder, report = of_bands(framework)
    assert report.parity.passed
    assert report.parity.worst.max_abs < 1e-4
    assert Preprocessing.from_dict(report.preprocessing) == OF_BANDS
    note = channels_note(framework, OF_BANDS)
    assert note.endswith("=5; images are samples in the units of the files minus mean, over std of gtsa.json")
    assert channels_note(framework, Preprocessing()) == ""
    if framework in ("mmseg", "mmdet"):  # gtsa.json beside them states the channels
        opened = open_weights(next(folder.glob("*.pth")))
        assert opened.encoder.preprocessing == OF_BANDS
        assert "ImageNet" not in opened.note


@pytest.mark.parametrize("arguments", [{}, {"in_chans": BANDS}])
@torch.no_grad()
def test_timm_builds_a_network_for_the_channels(arguments: dict[str, int], of_bands: Any) -> None:
    encoder, folder, _ = of_bands("timm")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, **arguments).eval()
    assert torch.equal(model.patch_embed.proj.weight, encoder.vit.patch_embed.proj.weight)
    images = torch.randn(2, BANDS, 224, 224, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model(images), encoder(images).embedding, rtol=0, atol=1e-5)


@torch.no_grad()
def test_transformers_builds_a_network_and_a_processor_for_the_channels(of_bands: Any) -> None:
    transformers = pytest.importorskip("transformers")
    encoder, folder, _ = of_bands("hf")
    model = transformers.ViTModel.from_pretrained(folder, add_pooling_layer=False).eval()
    assert model.config.num_channels == BANDS
    coarse = np.random.default_rng(0).integers(2000, 5000, (6, 5, BANDS))  # bicubic goes below; gtsa-kit clips at 0
    samples = np.kron(coarse, np.ones((60, 70, 1))).astype(np.float32)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    theirs = processor(samples, input_data_format="channels_last", return_tensors="pt")["pixel_values"]
    ours = torch.from_numpy(encoder.preprocessing(samples))[None]
    torch.testing.assert_close(theirs, ours, rtol=0, atol=0.01)  # gtsa-kit rounds to whole samples, 1 / std apart
    actual = model(theirs).last_hidden_state[:, 1:].mean(1)
    torch.testing.assert_close(actual, encoder(theirs).embedding, rtol=0, atol=1e-5)
