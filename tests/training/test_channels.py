"""Runs on images of other channels than 8-bit RGB: what is found, measured, trained, kept, resumed and refused."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers.commands import TINY
from PIL import Image
from rich.console import Console

import gtsa_kit
from gtsa_kit.cli.support.training_display import print_summary
from gtsa_kit.config import load_config
from gtsa_kit.data.augment import Views
from gtsa_kit.data.image_files import list_images
from gtsa_kit.data.multicrop import MultiCropDataset
from gtsa_kit.export.runtime.profile import OptimalShape
from gtsa_kit.export.spec import ANY_BATCH, ANY_SIZE, ExportOptions
from gtsa_kit.export.tensorrt.source_graph import read_graph_file
from gtsa_kit.files import read_json_lines
from gtsa_kit.models.architecture import ARCHITECTURES, create_vit
from gtsa_kit.models.checkpoint_import import open_weights
from gtsa_kit.models.encoder import normalize
from gtsa_kit.models.input_channels import adapt_patch_kernel
from gtsa_kit.training.channels import image_reader, resolve_channels
from gtsa_kit.training.checkpoint import load_checkpoint
from gtsa_kit.training.trainer import TrainerCallback

tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed")
pytest.importorskip("imagecodecs", reason="imagecodecs is not installed")

BANDS = 5
SETTINGS = {**TINY, "train.steps": 2, "train.max_unreadable": 0.5, "channels.count": "auto"}


class Notices(TrainerCallback):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def on_notice(self, message: str) -> None:
        self.messages.append(message)


def scene(seed: int, count: int = BANDS) -> np.ndarray:
    """Return (H, W, count) uint16 that differs in mean and spread between the bands."""
    rng = np.random.default_rng(seed)
    smooth = np.kron(rng.random((6, 7, count)), np.ones((12, 12, 1)))
    return (200 * np.arange(1, count + 1) + 1500 * smooth).astype(np.uint16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bands")
    for number in range(8):
        bands = np.moveaxis(scene(number), -1, 0)
        nodata = {"extratags": [(42113, "s", 0, "0", True)]} if number == 3 else {}
        bands[:, :20, :30] *= number != 3
        tifffile.imwrite(folder / f"{number}.tif", bands, photometric="minisblack", compression="zlib", **nodata)
    np.save(folder / "8.npy", scene(8))
    np.save(folder / "four.npy", scene(9, 4))
    np.save(folder / "deep.npy", scene(9).astype(np.float32))
    return folder


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "bands"
    return gtsa_kit.pretrain(folder, out, settings=SETTINGS)


def test_channels_are_found_and_measured_once(run: Path, folder: Path) -> None:
    stated = yaml.safe_load((run / "config.yaml").read_text())["channels"]
    assert (stated["count"], stated["dtype"], stated["colors"]) == (BANDS, "uint16", False)
    pixels = [scene(number).reshape(-1, BANDS) for number in range(9)]
    pixels[3] = scene(3)[np.pad(np.zeros((20, 30), bool), ((0, 52), (0, 54)), constant_values=True)]
    flat = np.concatenate(pixels).astype(np.float64)
    expected = {"mean": flat.mean(0), "std": flat.std(0), "low": flat.min(0), "high": flat.max(0)}
    for name, values in expected.items():
        np.testing.assert_allclose(stated[name], values, rtol=1e-9)


def test_other_channels_and_depths_are_listed_with_what_they_have(run: Path) -> None:
    reasons = {row["path"]: row["reason"] for row in read_json_lines(run / "errors.jsonl")}
    assert reasons == {
        "four.npy": "4 channels of uint16, where the others have 5",
        "deep.npy": "samples of float32, where the others have uint16",
    }


def test_the_encoder_takes_the_channels_and_says_so(run: Path, folder: Path) -> None:
    described = json.loads((run / "encoder.json").read_text())
    assert described["architecture"]["timm_kwargs"]["in_chans"] == BANDS
    assert described["preprocessing"]["samples"]["dtype"] == "uint16"
    for path in (run, run / "encoder.safetensors", run / "checkpoints" / "last"):
        encoder = open_weights(path).encoder
        assert encoder.architecture.channels == BANDS
        assert encoder.vit.patch_embed.proj.weight.shape[1] == BANDS
    assert encoder.preprocessing == open_weights(run).encoder.preprocessing
    pixels = torch.from_numpy(scene(1)[:64, :64].astype(np.float32)).permute(2, 0, 1)[None]
    stated = encoder.preprocessing
    expected = (scene(1)[:64, :64] - np.array(stated.mean)) / np.array(stated.std)
    np.testing.assert_allclose(normalize(pixels, stated)[0].permute(1, 2, 0), expected, atol=1e-4)
    assert encoder(normalize(pixels, stated)).embedding.isfinite().all()


@torch.no_grad()
def test_timm_loads_the_encoder_with_the_arguments_of_the_summary(run: Path) -> None:
    import timm

    out = io.StringIO()
    print_summary(run, Console(file=out, width=300))
    assert f"loads in timm with in_chans={BANDS}" in out.getvalue()
    encoder = open_weights(run).encoder
    arguments = {**encoder.architecture.timm_kwargs, "in_chans": BANDS, "global_pool": "avg", "fc_norm": False}
    name, file = encoder.architecture.timm_model, str(run / "encoder.safetensors")
    model = timm.create_model(name, num_classes=0, checkpoint_path=file, **arguments).eval()
    images = torch.randn(1, BANDS, 224, 224, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(images), encoder(images).embedding, rtol=0, atol=1e-5)


def test_pictures_of_a_run_show_three_channels(run: Path) -> None:
    with Image.open(run / "monitor" / "images.png") as strip:
        assert strip.mode == "RGB"
        assert np.asarray(strip).std() > 10
    assert (run / "report.html").exists()


def test_a_run_resumes_with_what_it_has_measured(run: Path, folder: Path, tmp_path: Path) -> None:
    twice = gtsa_kit.pretrain(folder, tmp_path / "twice", settings=SETTINGS)
    (folder / "later.npy").write_bytes(b"changes no list of a run")
    try:
        for options in ({}, {"channels.count": "auto"}):
            steps = {"train.steps": load_checkpoint(twice)["step"] + 1}  # type: ignore[index]
            gtsa_kit.pretrain(folder, twice, settings={**options, **steps}, resume=True)
    finally:
        (folder / "later.npy").unlink()
    before, after = (yaml.safe_load((path / "config.yaml").read_text())["channels"] for path in (run, twice))
    assert before == after
    with pytest.raises(ValueError, match="has 5 channels; choose another --out for 4"):
        gtsa_kit.pretrain(folder, twice, settings={"channels.count": 4, "train.steps": 9}, resume=True)


def test_scenes_are_read_by_windows(tmp_path: Path) -> None:
    """Scenes above the limit of size train, and no nodata is in any window that is used."""
    folder = tmp_path / "scenes"
    folder.mkdir()
    for seed in range(4):
        bands = np.random.default_rng(seed).integers(100, 4000, (5, 320, 400)).astype(np.uint16)
        bands[:, np.tri(320, 400, -100, bool)] = 0
        options = {"tile": (64, 64), "compression": "zlib", "extratags": [(42113, "s", 0, "0", True)]}
        tifffile.imwrite(folder / f"{seed}.tif", bands, photometric="minisblack", planarconfig="separate", **options)
    small = {**SETTINGS, "train.max_megapixels": 0.05, "train.steps": 1}
    with pytest.raises(ValueError, match="no image could be measured"):
        gtsa_kit.pretrain(folder, tmp_path / "whole", settings=small)
    config = load_config(overrides={"data": str(folder), **small, "channels.scene_window": 96})
    resolved = resolve_channels(config)
    assert min(resolved.channels.low or ()) >= 100
    reader, listed = image_reader(resolved), list_images(str(folder))
    dataset = MultiCropDataset(listed.source, listed.entries, resolved.views, 0, reader)
    for t in range(8):
        sample = dataset[t]
        assert not sample.unreadable
        assert isinstance(sample.content, Views)
        assert sample.content.boxes.max() <= 96
        assert sample.content.global_images.min() >= 100
        assert torch.equal(sample.content.global_images, dataset[t].content.global_images)  # type: ignore[union-attr]
    run = gtsa_kit.pretrain(folder, tmp_path / "run", settings={**small, "channels.scene_window": 96})
    assert read_json_lines(run / "errors.jsonl") == []


@pytest.mark.parametrize("count", ["auto", 3])
def test_8_bit_rgb_is_rgb(count: object, images: Path) -> None:
    """The run with --channels for such images is the one without."""
    overrides = {"data": str(images), "channels.count": count}
    assert resolve_channels(load_config(overrides=overrides)) == load_config(overrides={"data": str(images)})


@pytest.mark.parametrize("count", [1, 3, 4, 13])
def test_weights_for_rgb_take_channels_as_timm_does(count: int) -> None:
    from timm.models import adapt_input_conv

    kernel = torch.randn(8, 3, 4, 4)
    torch.testing.assert_close(adapt_patch_kernel(kernel, count), adapt_input_conv(count, kernel.clone()))


def test_a_vit_for_channels_is_that_of_timm() -> None:
    import timm

    architecture = ARCHITECTURES["vit_test"].with_channels(6)
    torch.manual_seed(0)
    ours = create_vit(architecture).state_dict()
    torch.manual_seed(0)
    theirs = timm.create_model(architecture.timm_model, num_classes=0, **architecture.timm_kwargs).state_dict()
    assert ours["patch_embed.proj.weight"].shape == (64, 6, 16, 16)
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
    assert architecture.with_channels(3) == ARCHITECTURES["vit_test"]


def test_a_run_starts_from_weights_for_rgb(tiny_run: Path, folder: Path, tmp_path: Path) -> None:
    notices = Notices()
    settings = {**SETTINGS, "train.steps": 1, "channels.count": BANDS}
    del settings["model.arch"]
    out = gtsa_kit.pretrain(folder, tmp_path / "run", init=tiny_run, settings=settings, callback=notices)
    text = "\n".join(notices.messages)
    assert "the patch kernel of 3 colors was repeated for 5 channels, as timm does" in text
    assert "5 channels of uint16, samples from" in text
    kernel = open_weights(tiny_run).encoder.vit.patch_embed.proj.weight
    import safetensors.torch

    initial = safetensors.torch.load_file(out / "initial.safetensors")["patch_embed.proj.weight"]
    assert torch.equal(initial, adapt_patch_kernel(kernel, BANDS))


def test_what_takes_rgb_alone_refuses_in_a_sentence(run: Path, images: Path, folder: Path, tmp_path: Path) -> None:
    four = {**{key: value for key, value in SETTINGS.items() if key != "model.arch"}, "channels.count": 4}
    with pytest.raises(ValueError, match=r"and a run without --channels reads 8-bit RGB alone"):
        gtsa_kit.pretrain(images, tmp_path / "rgb", init=run, settings={"train.steps": 1})
    with pytest.raises(ValueError, match=r"takes 5 channels, and the run has 4; start from weights for RGB"):
        gtsa_kit.pretrain(folder, tmp_path / "four", init=run, settings=four)
    from gtsa_kit.evaluation.models import open_models

    with pytest.raises(ValueError, match="and this evaluation reads 8-bit RGB alone"):
        open_models([run], [], 0, "cpu")
    with pytest.raises(ValueError, match="takes 5 channels of uint16, and this is an RGB image"):
        open_weights(run).encoder.preprocessing(Image.new("RGB", (8, 8)))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"channels.count": 13}, r"no image of .* has 13 channels \(seen: 9 of 5 channels of uint16, 1 of"),
        ({"channels.count": "auto", "channels.dtype": "uint8"}, "has channels of uint8"),
        ({"channels.count": 0}, "channels.count"),
        ({"channels.percentiles": [1, 99]}, "channels.count is rgb, which has no other settings"),
        ({"channels.count": 5, "channels.percentiles": [99, 1]}, "two numbers of 0 to 100, ascending"),
        ({"channels.count": 5, "channels.mean": [1, 2, 3, 4, 5]}, "belong together"),
        ({"channels.count": 5, "train.augment_on": "device"}, "8-bit RGB alone; omit it"),
        ({"channels.count": 5, "train.probe": "labeled"}, "train.probe takes images of 8-bit RGB alone"),
        ({"channels.count": 5, "init.mean": [0, 0, 0]}, "init.mean and init.std are for RGB"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, object], reason: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=reason):
        resolve_channels(load_config(overrides={"data": str(folder), **settings}))


def test_percentiles_limit_what_a_model_sees(folder: Path) -> None:
    overrides = {"data": str(folder), "channels.count": BANDS, "channels.percentiles": [5, 95]}
    channels = resolve_channels(load_config(overrides=overrides)).channels
    whole = resolve_channels(load_config(overrides={"data": str(folder), "channels.count": BANDS})).channels
    assert all(a < b for a, b in zip(whole.low or (), channels.low or (), strict=True))
    assert all(a > b for a, b in zip(whole.high or (), channels.high or (), strict=True))


def test_folders_are_embedded_as_the_reference_says(run: Path, folder: Path, tmp_path: Path) -> None:
    from gtsa_kit.embedding.dataset import read_dataset
    from gtsa_kit.embedding.options import EmbedOptions
    from gtsa_kit.embedding.run import embed_folder

    embed_folder(folder, run, tmp_path / "out", EmbedOptions(size=(64, 64), dense=True))
    rows = {row.path: row for row in read_dataset(tmp_path / "out")}
    assert set(rows) == {*(f"{number}.tif" for number in range(8)), "8.npy"}
    errors = {row["path"]: row["reason"] for row in read_dataset(tmp_path / "out").errors()}
    assert errors["four.npy"] == "4 channels of uint16, where the model takes 5 channels of uint16"
    encoder = open_weights(run).encoder
    mean, std = (np.array(value)[:, None, None] for value in (encoder.preprocessing.mean, encoder.preprocessing.std))
    for name, number in (("8.npy", 8), ("2.tif", 2), ("3.tif", 3)):
        bands = torch.from_numpy(scene(number).astype(np.float64)).permute(2, 0, 1)
        if number == 3:
            bands[:, :20, :30] = torch.from_numpy(mean)
        resized = torch.nn.functional.interpolate(bands[None], (64, 64), mode="bicubic", antialias=True)[0]
        resized = resized.round().clamp(0, 65535)  # as Pillow rounds 8-bit RGB
        with torch.inference_mode():
            expected = encoder(((resized - torch.from_numpy(mean)) / torch.from_numpy(std))[None].float())
        np.testing.assert_allclose(rows[name].embedding, expected.embedding[0], atol=2e-4)
        np.testing.assert_allclose(rows[name].maps["feature_map"], expected.feature_map[0], atol=5e-3)


@pytest.mark.parametrize("file_format", ["onnx", "torchscript", "pt2", "openvino"])
def test_exports_take_the_channels_and_pass_the_gate_on_the_files_of_the_run(
    file_format: str, run: Path, folder: Path, tmp_path: Path
) -> None:
    if file_format == "openvino":
        pytest.importorskip("openvino", reason="OpenVINO is not installed")
    path = gtsa_kit.export(run, format=file_format, out=tmp_path, size=None if file_format == "onnx" else (64, 64))
    runner = gtsa_kit.load(path, "cpu")
    report = runner.manifest.parity
    assert report is not None
    assert report.passed
    assert report.images == f"7 images of {folder.name}"
    assert runner.manifest.channels == BANDS
    assert runner.preprocessing == open_weights(run).encoder.preprocessing
    with pytest.raises(ValueError, match=r"images must be \(batch, 5, height, width\) with"):
        runner(np.zeros((1, 3, 64, 64), np.float32))
    if file_format == "onnx":
        assert gtsa_kit.verify(path).passed
        engine = read_graph_file(path).restrict(ANY_BATCH, ANY_SIZE, ANY_SIZE).bounded(OptimalShape(), 224)
        assert engine.shape(2, 64, 96) == (2, BANDS, 64, 96)
        with pytest.raises(ValueError, match="takes 5 channels, and its training images are not there; name a folder"):
            gtsa_kit.export(path, format="torchscript", out=tmp_path / "again.ts")
        again = gtsa_kit.export(path, format="torchscript", out=tmp_path / "again.ts", images=folder, size=(64, 64))
        assert gtsa_kit.load(again, "cpu").manifest.channels == BANDS


def test_calibration_reads_files_of_the_channels(run: Path, folder: Path) -> None:
    from gtsa_kit.export.formats.quantize import calibration_batches
    from gtsa_kit.export.pipeline import read_calibration

    preprocessing = open_weights(run).encoder.preprocessing
    calibration = read_calibration(folder, preprocessing)
    assert calibration.origin == f"9 images of {folder.name}"
    shapes = {
        batch.shape[:2] for batch in calibration_batches(calibration, preprocessing, ExportOptions(channels=BANDS))
    }
    assert {channels for _, channels in shapes} == {BANDS}
    assert sum(len(batch) for batch in calibration_batches(calibration, preprocessing, ExportOptions())) == 9
