"""Inputs of task models: center crops beside torchvision's and timm's, bounded long sides, one rule for all readers."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from helpers.task_models import LABELS, random_task_model, task_spec
from PIL import Image
from timm.data import create_transform
from torchvision.transforms import v2

from gtsa_kit.config.finetune_presets import load_finetune_config
from gtsa_kit.embedding.preprocess import Preprocessor
from gtsa_kit.embedding.resize_policy import ResizePolicy
from gtsa_kit.export.open_options import LoadOptions
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.encoder_spec import EncoderSpec
from gtsa_kit.models.task_model import save_task_model
from gtsa_kit.models.task_spec import TaskSpec
from gtsa_kit.tasks.auto import resolve_auto
from gtsa_kit.tasks.inputs import image_input, input_policy
from gtsa_kit.tasks.predictor import choose_task_size, open_predictor
from gtsa_kit.tasks.start import make_spec
from gtsa_kit.tasks.task_data import open_task_data

SHAPES = [(500, 333), (333, 500), (256, 256), (100, 90), (901, 257)]


def picture(shape: tuple[int, int]) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (9, 7, 3), np.uint8)).resize(shape, Image.Resampling.BICUBIC)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_center_crop_is_that_of_torchvision_and_timm(shape: tuple[int, int]) -> None:
    image, policy = picture(shape), ResizePolicy("fixed", (224, 224), crop_from=256, patch=16)
    ours = np.asarray(policy.cut(image, "bicubic, antialiased"))
    steps = [v2.Resize(256, v2.InterpolationMode.BICUBIC), v2.CenterCrop(224)]
    np.testing.assert_array_equal(ours, np.asarray(v2.Compose(steps)(image)))
    timm = create_transform(224, interpolation="bicubic", crop_pct=0.875, mean=(0, 0, 0), std=(1, 1, 1))
    np.testing.assert_allclose(ours / 255, timm(image).permute(1, 2, 0).numpy(), atol=1e-6)


@pytest.mark.parametrize("shape", [(640, 480), (3000, 600), (600, 3000), (683, 512)])
def test_a_long_side_is_bounded_as_by_mmsegmentation(shape: tuple[int, int]) -> None:
    policy = ResizePolicy("short-side", (512, 512), long_side=2048, patch=16)
    scale = min(2048 / max(shape), 512 / min(shape))  # of keep_ratio with the scale (2048, 512)
    assert policy(*shape) == tuple(16 * round(side * scale / 16) for side in (shape[1], shape[0]))


def test_all_readers_of_a_model_crop_alike(made: Callable[..., Path], tmp_path: Path) -> None:
    spec = replace(task_spec("classify", final_norm=False), crop_from=256)
    model = random_task_model(spec)
    save_task_model(tmp_path, model, {})
    image = picture((333, 500))
    expected = image_input(image, input_policy(spec, model.encoder), model.encoder)
    cut = v2.Compose([v2.Resize(256, v2.InterpolationMode.BICUBIC), v2.CenterCrop(224)])(image)
    np.testing.assert_array_equal(expected, model.encoder.preprocessing(cut, (224, 224)))
    for path in (tmp_path, made("torchscript", tmp_path)):
        predictor = open_predictor(path, LoadOptions())
        prepared = Preprocessor.for_runner(predictor.runner, choose_task_size(predictor)).prepare("", np.asarray(image))
        np.testing.assert_allclose(prepared.pixels, expected, atol=1e-6)
        with torch.inference_mode():
            logits = model(torch.from_numpy(expected)[None]).numpy()
        np.testing.assert_allclose(predictor(prepared.pixels[None]).logits, logits, atol=1e-4)


def test_the_presets_have_the_inputs_and_features_of_the_paper(tmp_path: Path) -> None:
    for index in range(6):
        (tmp_path / "ab"[index % 2]).mkdir(exist_ok=True)
        picture((60, 50)).save(tmp_path / "ab"[index % 2] / f"{index}.png")
    given = {"data.source": str(tmp_path), "model.random": "vit_test", "train.batch_size": 2, "train.steps": 2}
    config = load_finetune_config("classify", "inat19", overrides=given)
    data = open_task_data(config)
    encoder = Encoder("vit_test").eval()
    spec = make_spec(resolve_auto(config, data, EncoderSpec.of(encoder), "cpu", 1)[0], data)
    assert (spec.crop_from, spec.short_side, spec.final_norm) == (256, None, False)
    images = torch.randn(2, 3, 48, 64)
    with torch.inference_mode():
        [features] = random_task_model(TaskSpec("classify", LABELS, "linear", final_norm=False)).features(images)
        weights = random_task_model(TaskSpec("classify", LABELS, "linear", final_norm=False)).encoder.vit.state_dict()
        size = {"embed_dim": 64, "depth": 2, "num_heads": 2}
        vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, global_pool="avg", fc_norm=False, **size).eval()
        vit.load_state_dict(weights)
        vit.norm, vit.fc_norm = torch.nn.Identity(), torch.nn.Identity()
        vit.set_input_size(img_size=(48, 64))
        expected = vit.forward_features(images)[:, vit.num_prefix_tokens :].mean(1)
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=1e-4)
    ade = load_finetune_config("segment", "ade20k-fpn").augment
    assert (ade.size, ade.long_side) == (512, 2048 / 512)
