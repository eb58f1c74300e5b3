"""Fine-tuning on images of other channels than 8-bit RGB: what is read, ignored, augmented, scored and refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers.band_images import (
    BANDS,
    NODATA,
    band_blocks,
    write_band_encoder,
    write_bands,
    write_labeled_bands,
)
from helpers.weights import save_random
from PIL import Image

from gtsa_kit.config.finetune_presets import load_finetune_config
from gtsa_kit.data.channels.reader import ImageReader
from gtsa_kit.data.channels.value_range import ChannelRange
from gtsa_kit.data.label_map import VOID
from gtsa_kit.data.labeled_masks import read_segmentation_dataset
from gtsa_kit.data.task_augment import ClassifyAugment, SegmentAugment
from gtsa_kit.data.task_batches import MaskExamples
from gtsa_kit.data.task_color import ChannelSamples, ColorJitter
from gtsa_kit.export.manifest import read_manifest
from gtsa_kit.export.source import open_source
from gtsa_kit.export.spec import ANY_SIZE
from gtsa_kit.files import read_json_lines
from gtsa_kit.models.channel_images import channels_of
from gtsa_kit.models.task_model import load_task_model
from gtsa_kit.tasks import result
from gtsa_kit.tasks.api import finetune
from gtsa_kit.tasks.channels import choose_channels
from gtsa_kit.tasks.predict import predict
from gtsa_kit.tasks.score_gate import read_images_for, score_model
from gtsa_kit.tasks.start import open_encoder
from gtsa_kit.training.run_logger import RunLogger

tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed")
pytest.importorskip("imagecodecs", reason="imagecodecs is not installed")

SMALL = {
    "head.channels": 16,
    "train.workers": 0,
    "train.precision": "fp32",
    "train.batch_size": 4,
    "train.steps": 40,
    "train.eval_every": 20,
    "augment.size": 64,
}
LIMITS = ChannelRange.between((0.0,) * BANDS, (10000.0,) * BANDS, colors=False)


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunLogger, "draw_curves", lambda _: None)


@pytest.fixture(scope="module")
def bands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_labeled_bands(tmp_path_factory.mktemp("bands"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_band_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def run(bands: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunLogger, "draw_curves", lambda _: None)
        out = tmp_path_factory.mktemp("runs") / "bands"
        return finetune("segment", bands, out, model=encoder, settings={**SMALL, "train.freeze": True})


def reader(encoder: Path) -> ImageReader:
    return ImageReader(channels_of(open_source(encoder).encoder.preprocessing))


def test_pixels_without_data_are_void_and_filled_with_the_mean(bands: Path, encoder: Path) -> None:
    data = read_segmentation_dataset(bands, reader=reader(encoder))
    assert data.classes == ("0", "1", "2")
    assert not data.skipped
    counts = data.counts()
    for number, pair in enumerate(data.pairs):
        stored = np.load(pair.image) if pair.image.suffix == ".npy" else np.moveaxis(tifffile.imread(pair.image), 0, -1)
        mask = np.asarray(Image.open(pair.mask)).copy()
        missing = (stored == NODATA).all(-1) | (mask == 99)
        assert missing.any() == (number % 8 % 2 == 0 or number % 8 % 3 == 0)
        mask[missing] = VOID
        np.testing.assert_array_equal(data.labels(pair), mask)
        np.testing.assert_array_equal(counts[number], np.bincount(np.minimum(mask, 3).ravel(), minlength=4))
        pixels, labels = MaskExamples(data, [number]).read(0)
        np.testing.assert_array_equal(labels, mask)
        expected = np.where((stored == NODATA).all(-1, keepdims=True), np.float32(4000), stored)
        np.testing.assert_array_equal(pixels, expected)


def test_a_value_that_a_mask_states_as_none_is_a_class_if_it_is_named(bands: Path, encoder: Path) -> None:
    from gtsa_kit.data.label_map import MaskOptions

    options = MaskOptions({0: "a", 1: "b", 2: "c", 99: "edge"})
    data = read_segmentation_dataset(bands, options=options, reader=reader(encoder))
    assert data.classes[-1] == "edge"
    assert (data.labels(data.pairs[0]) == 3).sum() == 16 * 8


def test_a_run_learns_from_bands_and_keeps_their_layout(run: Path, encoder: Path) -> None:
    scores = json.loads((run / "scores.json").read_text())
    assert scores["miou"] > 70
    model = load_task_model(run)
    assert model.encoder.architecture.channels == BANDS
    assert model.encoder.preprocessing.samples == open_source(encoder).encoder.preprocessing.samples
    assert yaml.safe_load((run / "config.yaml").read_text())["channels"]["count"] == BANDS
    with Image.open(run / "predictions.png") as figure:
        assert np.asarray(figure.convert("RGB")).std() > 10


def test_a_finished_model_scores_as_its_run_did(run: Path, bands: Path) -> None:
    source = open_source(run)
    images = read_images_for(source, bands)
    scored = score_model(source, images, ANY_SIZE, ANY_SIZE)
    assert scored == pytest.approx(json.loads((run / "scores.json").read_text())["miou"], abs=0.1)


def test_an_exported_model_of_bands_passes_the_score_gate_and_predicts_alike(
    gtsa_here: Callable, run: Path, bands: Path
) -> None:
    images = bands / "val" / "images"
    done = gtsa_here("export", run, "--format", "onnx", "--size", "64", "--images", images, "--score", bands)
    assert done.returncode == 0, done.stderr
    record = read_manifest(run / "model.onnx").task_score
    assert record is not None
    assert record.passed
    ours, theirs = (
        [item.mask for item in predict(model, images, tile=64, device="cpu")] for model in (run, run / "model.onnx")
    )
    for own, other in zip(ours, theirs, strict=True):
        assert (own == other).mean() > 0.999
        assert (own == VOID).any() == (other == VOID).any()


@pytest.mark.parametrize("freeze", [True, False])
def test_a_stopped_run_resumes_to_the_same_bytes(
    freeze: bool, bands: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gtsa_kit.tasks.state import FinetuneCallback

    class Stop(FinetuneCallback):
        steps = 0

        def on_step_end(self, step: int, metrics: Any) -> None:
            self.steps = step

        def should_stop(self) -> bool:
            return self.steps >= 2

    monkeypatch.setattr(result, "save_predictions", lambda *_: None)
    settings = {**SMALL, "train.steps": 4, "train.eval_every": 2, "train.freeze": freeze, "augment.crop": 32}
    first = finetune("segment", bands, tmp_path / "a", model=encoder, settings=settings)
    finetune("segment", bands, tmp_path / "b", model=encoder, settings=settings, callback=Stop())
    assert not (tmp_path / "b" / "scores.json").exists()
    second = finetune("segment", bands, tmp_path / "b", resume=True)
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()


def test_weights_for_rgb_take_the_bands_that_are_measured(bands: Path, tmp_path: Path) -> None:
    save_random(tmp_path, "vit_test")
    given = {"data.source": str(bands), "model.weights": str(tmp_path), "channels.count": "auto"}
    config = load_finetune_config("segment", overrides=given)
    config, start = choose_channels(config, open_encoder(config.model))
    stored = [np.moveaxis(tifffile.imread(p), 0, -1) for p in sorted(bands.glob("*/images/*.tif"))]
    stored += [np.load(p) for p in bands.glob("*/images/*.npy")]
    flat = np.concatenate([image[(image != NODATA).any(-1)] for image in stored]).astype(np.float64)
    np.testing.assert_allclose(config.channels.mean, flat.mean(0), rtol=1e-6)
    np.testing.assert_allclose(config.channels.std, flat.std(0), rtol=1e-6)
    own = open_source(tmp_path).encoder.vit.patch_embed.proj.weight.detach()
    assert start.weights is not None
    expected = torch.cat([own, own[:, :2]], 1) * 3 / BANDS
    torch.testing.assert_close(start.weights["patch_embed.proj.weight"], expected)
    assert any("repeated" in note for note in start.notes)
    given = {"data.source": str(bands), "model.random": "vit_test", "channels.count": BANDS}
    config = load_finetune_config("segment", overrides=given)
    config, start = choose_channels(config, open_encoder(config.model))
    assert start.spec.build().vit.patch_embed.proj.weight.shape[1] == BANDS
    assert start.spec.preprocessing.mean == config.channels.mean


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels.count": 4}, "channels.count is 4, and that of .* 5; omit it"),
        ({"channels.count": 5, "channels.percentiles": (1, 99)}, "channels.percentiles is .* omit it"),
        ({"channels.count": 5, "channels.scene_window": 64}, "channels.scene_window is for gtsa train"),
    ],
)
def test_settings_against_the_weights_are_refused(settings: dict, message: str, bands: Path, encoder: Path) -> None:
    given = {"data.source": str(bands), "model.weights": str(encoder), **settings}
    config = load_finetune_config("segment", overrides=given)
    with pytest.raises(ValueError, match=message):
        choose_channels(config, open_encoder(config.model))


def test_images_that_do_not_fit_are_listed_with_what_they_have(bands: Path, encoder: Path, tmp_path: Path) -> None:
    write_labeled_bands(tmp_path, train=3, val=1)
    images, masks = tmp_path / "train" / "images", tmp_path / "train" / "masks"
    samples, mask = band_blocks(np.random.default_rng(1))
    write_bands(images / "four.tif", samples[..., :4])
    write_bands(images / "none.tif", np.full_like(samples, NODATA), nodata=True)
    write_bands(images / "small.tif", samples)
    np.save(images / "nan.npy", np.full(samples.shape, np.nan, np.float32))
    for name in ("four", "none", "nan"):
        Image.fromarray(mask).save(masks / f"{name}.png")
    Image.fromarray(mask[:48]).save(masks / "small.png")
    data = read_segmentation_dataset(tmp_path, reader=reader(encoder), max_missing=0.9)
    assert {item.path: item.reason for item in data.skipped} == {
        "train/four.tif": "4 channels of uint16, where the others have 5",
        "train/nan.npy": "samples of float32, where the others have uint16",
        "train/none.tif": "no pixel holds data",
        "train/small.tif": "its mask is 80 x 48, the image 80 x 64",
    }
    of_floats = reader(write_band_encoder(tmp_path / "encoder", dtype="float32"))
    np.save(images / "float.npy", samples.astype(np.float32))
    Image.fromarray(mask).save(masks / "float.png")
    np.save(tmp_path / "val" / "images" / "float.npy", samples.astype(np.float32))
    Image.fromarray(mask).save(tmp_path / "val" / "masks" / "float.png")
    data = read_segmentation_dataset(tmp_path, reader=of_floats, max_missing=0.9)
    assert [pair.name for pair in data.pairs] == ["train/float.npy", "val/float.npy"]
    [broken] = [item.reason for item in data.skipped if item.path == "train/nan.npy"]
    assert broken.startswith("5120 of 5120 pixels are NaN or infinite; mark them as nodata")


def test_crops_of_bands_are_those_of_rgb_and_colors_stay_in_range() -> None:
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.random((BANDS, 50, 60), np.float32)) * 10000
    labels = torch.from_numpy(rng.integers(0, 3, (50, 60), np.uint8))
    bands = ChannelSamples(LIMITS)
    plain = SegmentAugment((64, 48), color=None, mean=(7.0,) * BANDS, channels=bands)
    colored = SegmentAugment((64, 48), color=ColorJitter(p=1.0), mean=(7.0,) * BANDS, channels=bands)
    of_rgb = SegmentAugment((64, 48), color=None)
    for seed in range(4):
        torch.manual_seed(seed)
        view, mask = plain(image, labels)
        torch.manual_seed(seed)
        _, mask_of_rgb = of_rgb((image[:3] / 40).to(torch.uint8), labels)
        torch.manual_seed(seed)
        changed, _ = colored(image, labels)
        assert torch.equal(mask, mask_of_rgb)
        assert view.dtype == torch.float32
        padding = (mask == VOID).all(1)
        assert (view[:, padding] == 7).all()
        kept = changed[:, ~padding]
        assert kept.min() >= 0
        assert kept.max() <= 10000
        assert not torch.equal(kept, view[:, ~padding])


def test_saturation_and_hue_change_nothing_but_colors() -> None:
    colors = ChannelRange.between((0.0,) * 3, (1000.0,) * 3, colors=True)
    assert len(ColorJitter().transforms(ChannelSamples(LIMITS))) == 2
    assert len(ColorJitter().transforms(ChannelSamples(colors))) == 4
    image = torch.rand(3, 20, 20) * 1000
    jitter, samples = ColorJitter(0, 0, 0.9, 0, 1), ChannelSamples(colors)
    augment = SegmentAugment((20, 20), (1, 1), hflip=0, color=jitter, channels=samples)
    torch.manual_seed(3)
    changed, _ = augment(image, torch.zeros(20, 20, dtype=torch.uint8))
    weights = torch.tensor([0.2989, 0.587, 0.114])[:, None, None]
    kept = ((changed > 1) & (changed < 999)).all(0)  # where nothing was cut off, saturation keeps the luminance
    assert kept.any()
    torch.testing.assert_close((weights * changed).sum(0)[kept], (weights * image).sum(0)[kept], rtol=1e-3, atol=0.5)
    assert (changed - image).abs().max() > 50


def test_classes_of_bands_are_learned(encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result, "save_predictions", lambda *_: None)
    rng = np.random.default_rng(0)
    for name, level in (("dark", 500), ("light", 6000)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(6):
            samples = rng.integers(level, level + 900, (40, 48, BANDS)).astype(np.uint16)
            write_bands(tmp_path / "data" / name / f"{index}.tif", samples)
    settings = {**SMALL, "train.steps": 20, "augment.crop_from": 72}
    for freeze in (True, False):
        run = tmp_path / f"run {freeze}"
        settings["train.freeze"] = freeze
        finetune("classify", tmp_path / "data", run, model=encoder, settings=settings)
        assert json.loads((run / "scores.json").read_text())["top1"] == 100
    for prediction in predict(run, tmp_path / "data" / "light", device="cpu"):
        assert prediction.probabilities is not None
        assert prediction.labels[prediction.probabilities.argmax()].name == "light"
    with pytest.raises(ValueError, match="RandAugment changes 8-bit RGB alone"):
        ClassifyAugment((16, 16), channels=ChannelSamples(LIMITS))


def test_objects_in_bands_are_trained_on_and_scored(encoder: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(4):
        samples, _ = band_blocks(rng)
        samples[16:48, 16:48] = 9000
        write_bands(tmp_path / f"{number}.tif", samples[..., : 4 if number == 3 else BANDS])
        images.append({"id": number, "file_name": f"{number}.tif", "width": 80, "height": 64})
        box = {"bbox": [16, 16, 32, 32], "area": 1024, "iscrowd": 0}
        annotations.append({"id": number + 1, "image_id": number, "category_id": 1, **box})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "field"}]}
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    detector = {"anchor_sizes": (16, 32, 64, 128, 256), "box_channels": 16, "train_boxes": 16}
    settings = {
        **{f"detector.{name}": value for name, value in detector.items()},
        **SMALL,
        "train.steps": 2,
        "train.batch_size": 2,
        "head.name": "faster-rcnn",
        "train.freeze": False,
        "data.images": str(tmp_path),
        "data.max_missing": 0.5,
        "data.val_split": "0.4",
    }
    run = finetune("detect", tmp_path / "boxes.json", tmp_path / "run", model=encoder, settings=settings)
    assert load_task_model(run).encoder.architecture.channels == BANDS
    [skipped] = read_json_lines(run / "errors.jsonl")
    assert skipped["reason"] == "4 channels of uint16, where the others have 5"
    assert "ap" in json.loads((run / "scores.json").read_text())
