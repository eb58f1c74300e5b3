"""Attention maps of the last block."""

import copy
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from helpers.fake_models import write_edge_cases, write_noise
from PIL import Image

from gtsa_kit.evaluation.attention import (
    AttentionMaps,
    attention,
    attention_maps,
    draw_attention,
    last_attention,
    normalized_entropy,
)
from gtsa_kit.evaluation.models import open_encoders
from gtsa_kit.export.formats.onnx import WEIGHTS_KEY
from gtsa_kit.models.architecture import Architecture
from gtsa_kit.models.encoder import Encoder


@pytest.fixture(scope="module")
def encoder(tiny_run: Path) -> Encoder:
    return open_encoders([tiny_run])[0][1]


def test_last_attention_against_an_explicit_softmax_in_float64(encoder: Encoder) -> None:
    images = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 48, 32)).astype(np.float32))
    encoder = copy.deepcopy(encoder)
    encoder.vit.blocks[-1].attn.qkv.weight.data *= 8  # the attention of random weights is nearly uniform
    entering = []
    block = encoder.vit.blocks[-1]
    handle = block.register_forward_pre_hook(lambda _module, inputs: entering.append(inputs[0]))
    with torch.inference_mode():
        encoder(images)
    handle.remove()
    x = entering[0].double().numpy()  # (2, 1 + 6, 64), before the block's first norm
    weights = {name: value.double().numpy() for name, value in block.state_dict().items()}
    normed = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    normed = normed * weights["norm1.weight"] + weights["norm1.bias"]
    result = last_attention(encoder, images).numpy()
    assert result.shape == (2, 2, 7, 7)
    for image in range(2):
        for head in range(2):
            rows = {part: slice(64 * part + 32 * head, 64 * part + 32 * (head + 1)) for part in (0, 1)}
            q, k = (
                normed[image] @ weights["attn.qkv.weight"][r].T + weights["attn.qkv.bias"][r] for r in rows.values()
            )
            for query in range(7):
                scores = np.array([q[query] @ k[key] / np.sqrt(32) for key in range(7)])
                expected = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
                np.testing.assert_allclose(result[image, head, query], expected, atol=1e-5)
    assert np.ptp(result) > 0.1  # not uniform


def test_the_encoder_is_left_as_it_was(encoder: Encoder) -> None:
    images = torch.zeros(1, 3, 32, 32)
    with torch.inference_mode():
        before = encoder(images).feature_map
        last_attention(encoder, images)
        assert torch.equal(encoder(images).feature_map, before)
    assert not encoder.vit.blocks[-1].attn.attn_drop._forward_hooks


def test_class_and_patch_maps_are_rows_of_the_attention(encoder: Encoder, tmp_path: Path) -> None:
    image = Image.open(write_noise(tmp_path / "a.png", 0))
    maps = attention_maps(encoder, image, (48, 64))
    weights = last_attention(encoder, torch.from_numpy(encoder.preprocessing(image, (48, 64)))[None])[0].numpy()
    assert maps.heads.shape == (2, 3, 4)
    assert maps.heads[1, 2, 1] == pytest.approx(weights[1, 0, 1 + 2 * 4 + 1], rel=1e-5)
    slow = np.mean([weights[head, query, 1 + 2 * 4 + 1] for head in range(2) for query in range(1, 13)])
    assert maps.patch_mean[2, 1] == pytest.approx(slow, rel=1e-5)


def test_attention_without_a_class_token_and_with_registers(tmp_path: Path) -> None:
    """Rotary blocks of timm's Eva; the maps hold the patches alone, and nothing is called a class token's."""
    kwargs = {"embed_dim": 64, "depth": 2, "num_heads": 2, "class_token": False, "num_reg_tokens": 3}
    encoder = Encoder(Architecture("rotary", "vit_small_patch16_dinov3", 64, 2, 2, kwargs)).eval()
    path = write_noise(tmp_path / "a.png", 0)
    weights = last_attention(encoder, torch.from_numpy(encoder.preprocessing(Image.open(path), (48, 64)))[None])[0]
    assert weights.shape == (2, 15, 15)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 15))
    maps = attention_maps(encoder, Image.open(path), (48, 64))
    expected = weights[:, 3:, 3:].mean(1).reshape(2, 3, 4).numpy()
    np.testing.assert_allclose(maps.heads, expected, rtol=1e-5)
    figure = draw_attention([("rotary", "a.png", Image.open(path), maps)])
    assert figure.axes[2].get_title() == "patch tokens, head 0"
    (row,) = attention([("rotary", encoder)], [path], tmp_path / "attention.png", 64).rows
    assert row["class_entropy"] is None
    assert 0 < row["patch_entropy"] <= 100


def test_normalized_entropy() -> None:
    assert normalized_entropy(np.full((4, 4), 0.3)) == pytest.approx(1)
    one = np.zeros((4, 4))
    one[1, 2] = 5
    assert normalized_entropy(one) == pytest.approx(1 / 16)
    one[3, 3] = 5
    assert normalized_entropy(one) == pytest.approx(2 / 16)


def test_figure_and_report_of_edge_cases(tiny_run: Path, tmp_path: Path) -> None:
    encoders = open_encoders([tiny_run], ["vit_test"])
    report = attention(encoders, write_edge_cases(tmp_path), tmp_path / "out" / "attention.png", 64)
    assert [row["model"] for row in report.rows] == [tiny_run.name, "random vit_test"]
    assert all(0 < row[key] <= 100 for row in report.rows for key in report.measures)
    assert report.settings["images"] == 3
    json.dumps(report.to_dict())
    picture = np.asarray(Image.open(tmp_path / "out" / "attention.png").convert("RGB"))
    assert picture.std() > 10


def test_all_maps_share_one_color_scale_with_a_color_bar() -> None:
    """The figure has a row for each image and model, and a second one for more than six heads."""
    rng = np.random.default_rng(0)
    image = Image.new("RGB", (32, 32))
    few, many = (AttentionMaps(rng.random((heads, 2, 2)), rng.random((2, 2))) for heads in (2, 8))
    figure = draw_attention([("trained", "a.jpg", image, many), ("random", "a.jpg", image, few)])
    *axes, bar = figure.axes
    assert "1: uniform" in bar.get_ylabel()
    rows = np.array(axes).reshape(3, 8)
    assert [axis.get_ylabel() for axis in rows[:, 0]] == ["trained", "", "random"]
    assert rows[0, 0].get_xlabel() == "a.jpg"
    maps = [axis for axis in rows[:, 1:].ravel() if axis.images]
    assert len(maps) == 9 + 3
    assert {axis.images[0].get_clim() for axis in maps} == {maps[0].images[0].get_clim()}
    assert maps[0].images[0].get_clim()[0] == 0
    titles = [axis.get_title() for axis in maps]
    assert titles[:2] == ["mean of patch tokens", "class token, head 0"]
    np.testing.assert_allclose(maps[1].images[0].get_array(), many.heads[0] * 4 / many.heads[0].sum())
    assert not any(axis.get_visible() for axis in rows.ravel() if not axis.images)


def test_only_sources_with_weights_can_be_opened(
    tiny_run: Path, tiny_onnx: Path, encoder: Encoder, tmp_path: Path
) -> None:
    images = torch.ones(1, 3, 32, 32)
    for source in (tiny_run / "encoder.safetensors", tiny_onnx):
        again = open_encoders([source])[0][1]
        torch.testing.assert_close(last_attention(again, images), last_attention(encoder, images))
    halves = onnx.load(tiny_onnx)
    halves.metadata_props.remove(next(entry for entry in halves.metadata_props if entry.key == WEIGHTS_KEY))
    onnx.save(halves, tmp_path / "halves.onnx")  # like fp16 and int8 files, without the weights
    (tmp_path / "encoder.ts").write_bytes(b"")
    for artifact in ("encoder.ts", "halves.onnx"):
        with pytest.raises(ValueError, match=r"no float32 weights .* name the run folder or the \.safetensors"):
            open_encoders([tmp_path / artifact])
    with pytest.raises(ValueError, match="does not exist"):
        open_encoders([Path("/nowhere")])
    with pytest.raises(ValueError, match="no model given"):
        open_encoders([])
