"""Import of every family of ViTs, equal to the code that its weights were made for."""

from pathlib import Path

import pytest
import torch
from helpers.families import DEPTH, FAMILIES, HEADS, WIDTH, timm_features, timm_vit
from timm.models import save_for_hf

from gtsa_kit.models.architecture import EMBEDDING_NAMES
from gtsa_kit.models.checkpoint_import import ImportedEncoder, open_weights

GRIDS = [(5, 5), (7, 4), (2, 9)]


@torch.no_grad()
def check_equal(opened: ImportedEncoder, family: str) -> None:
    """The encoder's maps are those of timm at three sizes."""
    model, patch = timm_vit(family), opened.encoder.architecture.patch
    for rows, columns in GRIDS:
        images = torch.randn(2, 3, rows * patch, columns * patch, generator=torch.Generator().manual_seed(rows))
        features, expected = opened.encoder(images), timm_features(model, family, images)
        torch.testing.assert_close(features.feature_map.flatten(2).mT, expected, rtol=0, atol=1e-5)
        assert (features.class_token is None) == (model.cls_token is None)
    check_embedding(opened, family)


@torch.no_grad()
def check_embedding(opened: ImportedEncoder, family: str) -> None:
    """The encoder's embedding is the output of timm's model, as it is called by default, at its own size."""
    model, architecture = timm_vit(family), opened.encoder.architecture
    rows, columns = model.patch_embed.grid_size
    images = torch.randn(2, 3, rows * architecture.patch, columns * architecture.patch)
    expected = model(images) if model.attn_pool is None else timm_features(model, family, images).mean(1)
    torch.testing.assert_close(opened.encoder(images).embedding, expected, rtol=0, atol=1e-5)
    assert f"embedding: {EMBEDDING_NAMES[architecture.embedding]}, " in opened.note
    assert ("attention pooling is not computed" in opened.note) == (model.attn_pool is not None)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_of_timm(family: str, tmp_path: Path) -> None:
    name, arguments = FAMILIES[family]
    kwargs = {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS, **arguments}
    save_for_hf(timm_vit(family), tmp_path, model_args=kwargs, safe_serialization=True)
    opened = open_weights(tmp_path)
    assert (opened.origin, opened.encoder.architecture.timm_model) == ("timm", name)
    check_equal(opened, family)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "a grid of 3 x 5"])
def test_weights_alone(family: str, tmp_path: Path) -> None:
    """Weights tell everything but heads, activation and epsilon; of these timm's CLIP has its own."""
    torch.save(timm_vit(family).state_dict(), tmp_path / "a.pth")
    opened = open_weights(tmp_path / "a.pth", heads=HEADS)
    if family != "CLIP":
        check_equal(opened, family)
    assert opened.encoder.architecture.timm_kwargs.get("pre_norm", False) == (family == "CLIP")
