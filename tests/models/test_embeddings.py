"""Embedding of imported weights: what timm's own call returns, the requested kind, and folders written and read."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.families import DEPTH, HEADS, WIDTH, timm_vit
from timm.models import save_for_hf

from gtsa_kit.export.formats.frameworks import export_framework
from gtsa_kit.export.open_options import ImportOptions
from gtsa_kit.export.parity_images import ParityImages, load_parity_images
from gtsa_kit.export.reference import open_reference
from gtsa_kit.export.runtime.load import load
from gtsa_kit.export.source import open_source
from gtsa_kit.models.architecture import EMBEDDINGS, Architecture
from gtsa_kit.models.checkpoint_import import open_weights
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.preprocessing import Preprocessing
from gtsa_kit.models.weights import save_encoder

PLAIN, ROTARY = "patches of 8", "DINOv3"
SIZES = {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS}
POOLINGS: dict[str, tuple[str, dict[str, Any], str]] = {
    "the class token": (PLAIN, {"global_pool": "token"}, "cls"),
    "the class token through fc_norm": (PLAIN, {"global_pool": "token", "fc_norm": True}, "cls"),
    "the norm of the mean": (PLAIN, {"global_pool": "avg"}, "norm of mean"),
    "the mean": (PLAIN, {"global_pool": "avg", "fc_norm": False}, "mean"),
    "the mean without a class token": (PLAIN, {"global_pool": "avg", "fc_norm": False, "class_token": False}, "mean"),
    "rotary, the class token": (ROTARY, {"global_pool": "token"}, "cls"),
    "rotary, the mean": (ROTARY, {"global_pool": "avg"}, "mean"),
    "rotary, the norm of the mean": (ROTARY, {"global_pool": "avg", "use_fc_norm": True}, "norm of mean"),
}
"""Family, arguments of timm and kind of embedding."""
LEFT: dict[str, dict[str, Any]] = {
    "attention pooling is not computed": {"global_pool": "map"},
    "mean of all tokens is not computed": {"global_pool": "avg", "fc_norm": False, "pool_include_prefix": True},
    "pooling 'max' is not computed": {"global_pool": "max", "fc_norm": False},
}


def saved(folder: Path, family: str, **arguments: Any) -> tuple[Any, Path]:
    """A model of timm, and the folder that timm wrote of it."""
    model = timm_vit(family, **arguments)
    name_of_arguments = {**SIZES, "img_size": model.patch_embed.img_size, **arguments}
    save_for_hf(model, folder, model_args=name_of_arguments, safe_serialization=True)
    return model, folder


def native(model: Any) -> torch.Tensor:
    """Images of the model's own size."""
    return torch.randn(2, 3, *model.patch_embed.img_size, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def samples() -> ParityImages:
    return load_parity_images(None)


@pytest.mark.parametrize("case", POOLINGS)
@torch.no_grad()
def test_a_folder_of_timm_keeps_its_pooling(case: str, samples: ParityImages, tmp_path: Path) -> None:
    """The embedding is timm's output, and so is that of the folder that is written of the import."""
    family, arguments, kind = POOLINGS[case]
    model, folder = saved(tmp_path / "timm", family, **arguments)
    opened = open_weights(folder)
    images = native(model)
    assert opened.encoder.architecture.embedding == kind
    torch.testing.assert_close(opened.encoder(images).embedding, model(images), rtol=0, atol=1e-5)
    report = export_framework(opened.encoder, "timm", tmp_path / "again", samples)
    assert report.parity.passed
    again = open_weights(tmp_path / "again")
    assert again.encoder.architecture.embedding == kind
    assert "as exported" in again.note
    (tmp_path / "again" / "gtsa.json").unlink()
    assert open_weights(tmp_path / "again").encoder.architecture.embedding == kind


@pytest.mark.parametrize("message", LEFT)
def test_other_poolings_leave_the_mean_and_are_named(message: str, tmp_path: Path) -> None:
    _, folder = saved(tmp_path, PLAIN, **LEFT[message])
    opened = open_weights(folder)
    assert opened.encoder.architecture.embedding == "mean"
    assert f"embedding: the mean of the patch tokens, since timm's {message}" in opened.note


def test_a_pooling_that_the_weights_contradict_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "token", PLAIN)
    saved(tmp_path / "mean", PLAIN, global_pool="avg")
    (tmp_path / "mean" / "config.json").replace(tmp_path / "token" / "config.json")
    with pytest.raises(ValueError, match="pools by 'norm of mean', but the last norm of the weights is norm; copy"):
        open_weights(tmp_path / "token")


@pytest.mark.parametrize("kind", EMBEDDINGS)
@torch.no_grad()
def test_the_requested_embedding_replaces_that_of_the_family(kind: str, tmp_path: Path) -> None:
    model, folder = saved(tmp_path, PLAIN)
    images = native(model)
    tokens = model.forward_features(images)
    opened = open_weights(folder, embedding=kind)
    expected = {"cls": tokens[:, 0], "mean": tokens[:, 1:].mean(1)}.get(kind)
    if expected is not None:
        torch.testing.assert_close(opened.encoder(images).embedding, expected, rtol=0, atol=1e-5)
    assert opened.encoder.architecture.embedding == kind


def test_without_a_class_token_it_can_not_be_the_embedding(tmp_path: Path) -> None:
    torch.save(timm_vit("SigLIP").state_dict(), tmp_path / "a.pth")
    assert (
        "the mean of the patch tokens, since the attention pooling is not computed"
        in open_weights(tmp_path / "a.pth", heads=HEADS).note
    )
    with pytest.raises(ValueError, match="has no class token to take as the embedding; omit --embedding, or give mean"):
        open_weights(tmp_path / "a.pth", heads=HEADS, embedding="cls")
    with pytest.raises(ValueError, match="has no class token to return; omit --class-token"):
        load(tmp_path / "a.pth", "cpu", class_token=True)


@torch.no_grad()
def test_the_embedding_of_a_run_can_be_chosen_but_not_that_of_its_files(tmp_path: Path, tiny_onnx: Path) -> None:
    save_encoder(tmp_path, Encoder("vit_test").vit.state_dict(), "vit_test", {})
    images = torch.randn(1, 3, 32, 32)
    for path in (tmp_path, tmp_path / "encoder.safetensors"):
        assert open_source(path).encoder.architecture.embedding == "mean"
        source = open_source(path, ImportOptions(embedding="cls"))
        features = source.encoder(images)
        assert torch.equal(features.embedding, features.class_token)
        assert source.record.embedding == "cls"
        runner = load(path, "cpu", import_options=ImportOptions(embedding="cls"))
        assert runner.manifest.embedding == "cls"
    with pytest.raises(ValueError, match=r"encoder\.onnx is an exported file, and its embedding is what it was exp"):
        load(tiny_onnx, "cpu", import_options=ImportOptions(embedding="cls"))


@pytest.mark.parametrize("kind", ["mean", "cls"])
@torch.no_grad()
def test_a_folder_of_transformers_keeps_the_embedding(kind: str, samples: ParityImages, tmp_path: Path) -> None:
    """Its config.json can't say it; gtsa.json beside it does. The map alone is compared where there are maps alone."""
    encoder = square("patch 16", kind)
    assert export_framework(encoder, "hf", tmp_path / "hf", samples).parity.passed
    opened = open_weights(tmp_path / "hf").encoder
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(opened(images).embedding, encoder(images).embedding, rtol=0, atol=1e-5)
    (tmp_path / "hf" / "gtsa.json").unlink()
    assert open_weights(tmp_path / "hf").encoder.architecture.embedding == "cls"  # as transformers' own code
    assert export_framework(encoder, "mmseg", tmp_path / "mmseg", samples).parity.passed


def square(name: str, kind: str) -> Encoder:
    """A plain encoder for images of 32 x 32 with random weights of realistic variance."""
    kwargs = {**SIZES, "img_size": 32}
    torch.manual_seed(0)
    architecture = Architecture(name, "vit_tiny_patch16_224", WIDTH, DEPTH, HEADS, kwargs, embedding=kind)
    encoder = Encoder(architecture, preprocessing=Preprocessing(size=32)).eval()
    for parameter in encoder.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder


def test_transformers_has_no_norm_of_the_mean(samples: ParityImages, tmp_path: Path) -> None:
    with torch.no_grad():
        encoder = square("patch 16", "norm of mean")
    with pytest.raises(ValueError, match=r"has no norm of the mean, .*; choose timm, or --embedding mean"):
        export_framework(encoder, "hf", tmp_path, samples)


def test_a_reference_is_opened_with_the_embedding_of_the_export(made: Any, tmp_path: Path) -> None:
    path = made("torchscript")
    manifest = load(path, "cpu").manifest
    record = manifest.source.model_copy(update={"embedding": "cls"})
    source = open_reference(path, manifest.model_copy(update={"source": record}))
    assert source is not None
    assert source.encoder.architecture == replace(source.encoder.architecture, embedding="cls")
