"""Predictions for scenes of N channels: windows, nodata, masks with the position of the image, bounded memory."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.band_images import NODATA, band_blocks, write_band_encoder, write_bands
from helpers.folder_digests import folder_digests
from helpers.task_models import LABELS, save_random_task, task_spec
from PIL import Image

from gtsa_kit.data.channels.image import ChannelImage
from gtsa_kit.data.entries import Entry
from gtsa_kit.data.label_map import VOID, read_mask_values
from gtsa_kit.data.sources import FileSource
from gtsa_kit.embedding.progress import JobProgress
from gtsa_kit.export.open_options import LoadOptions
from gtsa_kit.export.source import open_source
from gtsa_kit.files import read_json_lines
from gtsa_kit.models.channel_images import reader_of
from gtsa_kit.models.task_model import TaskModel, save_task_model
from gtsa_kit.models.task_spec import TaskSpec
from gtsa_kit.progress import Note
from gtsa_kit.tasks import geotiff
from gtsa_kit.tasks.predict import predict
from gtsa_kit.tasks.predict_job import predict_folder
from gtsa_kit.tasks.predict_plan import PredictOptions
from gtsa_kit.tasks.predictor import Predictor, open_predictor
from gtsa_kit.tasks.scene import Scene
from gtsa_kit.tasks.tiles import Tiling, tiled_mask

tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed")
pytest.importorskip("imagecodecs", reason="imagecodecs is not installed")

TRANSFORM = (10.0, 0.0, 399960.0, 0.0, -10.0, 5000040.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    encoder = open_source(write_band_encoder(folder / "encoder")).encoder
    save_task_model(folder, TaskModel(encoder, TaskSpec("segment", LABELS, "linear", short_side=64)), {"steps": 0})
    return folder


@pytest.fixture(scope="module")
def predictor(model: Path) -> Predictor:
    return open_predictor(model, LoadOptions("cpu"))


def big_scene(height: int = 150, width: int = 210) -> np.ndarray:
    """Return samples (H, W, BANDS) without data in the upper left corner, which two windows lie in."""
    rng = np.random.default_rng(3)
    samples = np.concatenate([band_blocks(rng, (160, 112))[0] for _ in range(2)], axis=1)[:height, :width].copy()
    samples[:70, :90] = NODATA
    return samples


def write_geotiff(path: Path, samples: np.ndarray, **profile: Any) -> None:
    rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")
    height, width, count = samples.shape
    stated = {"driver": "GTiff", "height": height, "width": width, "count": count, "dtype": samples.dtype.name}
    stated |= {"crs": "EPSG:32633", "transform": rasterio.Affine(*TRANSFORM), "nodata": NODATA}
    with rasterio.open(path, "w", **{**stated, **profile}) as dataset:
        dataset.write(np.moveaxis(samples, -1, 0))


@pytest.mark.parametrize("layout", [{"tiled": True, "blockxsize": 64, "blockysize": 64}, {"interleave": "pixel"}])
def test_windows_of_a_scene_give_the_mask_of_the_whole_array(
    layout: dict[str, Any], predictor: Predictor, tmp_path: Path
) -> None:
    samples = big_scene()
    write_geotiff(tmp_path / "a.tif", samples, **layout)
    reader = reader_of(predictor.runner.preprocessing)
    scene = Scene(FileSource(tmp_path), Entry("a.tif", str(tmp_path / "a.tif")), reader)
    valid = (samples != NODATA).all(-1)
    expected = tiled_mask(reader.filled(ChannelImage(samples, reader.layout, valid)), predictor, Tiling(64, 16), 2)
    mask = tiled_mask(scene, predictor, Tiling(64, 16), 2)
    assert (mask[~valid] == VOID).all()
    assert len(np.unique(expected[valid])) > 1
    assert (mask[valid] == expected[valid]).mean() > 0.999  # windows without data are left out of the batches


def test_masks_have_the_position_of_their_image(model: Path, tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")
    (tmp_path / "in" / "sub").mkdir(parents=True)
    samples = big_scene()
    write_geotiff(tmp_path / "in" / "scene.tif", samples)
    write_geotiff(tmp_path / "in" / "sub" / "full.tif", samples[80:], nodata=None, height=70)
    np.save(tmp_path / "in" / "array.npy", samples[80:])
    for number, options in enumerate([{"tile": 64}, {}]):
        out = tmp_path / f"out{number}"
        predict_folder(model, tmp_path / "in", out, PredictOptions(**options))
        with (
            rasterio.open(tmp_path / "in" / "scene.tif") as image,
            rasterio.open(out / "masks" / "scene.tif.tif") as mask,
        ):
            assert (mask.crs, mask.transform, mask.bounds) == (image.crs, image.transform, image.bounds)
            written, missing = mask.read(1), mask.read_masks(1) == 0
            np.testing.assert_array_equal(missing, (samples == NODATA).all(-1))
            np.testing.assert_array_equal(written[missing], mask.nodata)
            assert set(np.unique(written[~missing])) <= {label.id for label in LABELS}
            assert mask.colormap(1)[3][:3] == (128, 64, 128)
        with rasterio.open(out / "masks" / "sub" / "full.tif.tif") as mask:
            assert mask.nodata is None
            assert mask.crs.to_epsg() == 32633
        assert Image.open(out / "masks" / "array.npy.png").mode == "P"
        read = read_mask_values(out / "masks" / "scene.tif.tif", as_color=False)
        np.testing.assert_array_equal(read.values, written)
        assert read.nodata == 255


def test_masks_of_rgb_have_the_position_of_their_image_too(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")
    save_random_task(tmp_path, task_spec("linear"))
    (tmp_path / "in").mkdir()
    samples = np.random.default_rng(0).integers(0, 256, (50, 70, 3)).astype(np.uint8)
    write_geotiff(tmp_path / "in" / "a.tif", samples, nodata=None, photometric="RGB")
    tifffile.imwrite(tmp_path / "in" / "b.tif", samples)
    predict_folder(tmp_path, tmp_path / "in", tmp_path / "out", PredictOptions(short_side=32))
    with (
        rasterio.open(tmp_path / "in" / "a.tif") as image,
        rasterio.open(tmp_path / "out" / "masks" / "a.tif.tif") as mask,
    ):
        assert (mask.crs, mask.transform, mask.shape) == (image.crs, image.transform, image.shape)
    assert (tmp_path / "out" / "masks" / "b.tif.png").exists()


def test_shares_are_those_of_pixels_with_data(model: Path, tmp_path: Path) -> None:
    samples = big_scene()
    (tmp_path / "in").mkdir()
    write_bands(tmp_path / "in" / "plain.tif", samples, nodata=True)
    for name, options in {"whole": {"rle": True, "overlay": True}, "tiled": {"tile": 64, "overlay": True}}.items():
        out = tmp_path / name
        predict_folder(model, tmp_path / "in", out, PredictOptions(**options))
        [header, row] = (out / "predictions.csv").read_text().splitlines()
        assert sum(map(float, row.split(",")[5:])) == pytest.approx(1, abs=1e-4)
        mask = np.asarray(Image.open(out / "masks" / "plain.tif.png"))
        np.testing.assert_array_equal(mask == 255, (samples == NODATA).all(-1))
        with Image.open(out / "overlays" / "plain.tif.jpg") as overlay:
            assert overlay.width == samples.shape[1]
        assert header.startswith("path,sha256,mask")
    areas = [row["area"] for row in read_json_lines(tmp_path / "whole" / "rle.jsonl")]
    assert sum(areas) == (samples != NODATA).all(-1).sum()


def test_what_does_not_fit_is_listed(model: Path, tmp_path: Path) -> None:
    samples = big_scene()
    (tmp_path / "in").mkdir()
    write_bands(tmp_path / "in" / "four.tif", samples[..., :4])
    write_bands(tmp_path / "in" / "none.tif", np.full_like(samples, NODATA), nodata=True)
    np.save(tmp_path / "in" / "float.npy", samples[:60].astype(np.float32))
    write_bands(tmp_path / "in" / "good.tif", samples, nodata=True)
    write_bands(tmp_path / "in" / "large.tif", np.tile(samples, (2, 2, 1)))
    expected = {
        "float.npy": "5 channels of float32, where the model takes 5 channels of uint16",
        "four.tif": "4 channels of uint16, where the model takes 5 channels of uint16",
        "none.tif": "no pixel holds data",
    }
    for name, options in {"whole": {}, "tiled": {"tile": 64}}.items():
        out = tmp_path / name
        predict_folder(model, tmp_path / "in", out, PredictOptions(**options, max_pixels=120_000))
        reasons = {row["path"]: row["reason"] for row in read_json_lines(out / "errors.jsonl")}
        assert "above the limit of 0" in reasons.pop("large.tif")
        assert reasons == expected
        assert len((out / "predictions.csv").read_text().splitlines()) == 2


def test_a_job_of_scenes_that_is_cut_gives_the_same_files(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    for number in range(3):
        write_geotiff(tmp_path / "in" / f"{number}.tif", big_scene(height=100 + number))
    predict_folder(model, tmp_path / "in", tmp_path / "whole", PredictOptions(tile=64))

    class CutError(BaseException):
        pass

    def cut(progress: JobProgress) -> None:
        if progress.done == 2:
            raise CutError

    with pytest.raises(CutError):
        predict_folder(model, tmp_path / "in", tmp_path / "cut", PredictOptions(tile=64), cut)
    predict_folder(model, tmp_path / "in", tmp_path / "cut", PredictOptions(tile=64, resume=True))
    assert folder_digests(tmp_path / "cut") == folder_digests(tmp_path / "whole")
    monkeypatch.setattr("gtsa_kit.tasks.predict_plan.has_rasterio", lambda: False)
    with pytest.raises(ValueError, match="geotiff"):
        predict_folder(model, tmp_path / "in", tmp_path / "cut", PredictOptions(tile=64, resume=True))


def test_without_rasterio_a_line_says_why_masks_have_no_position(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_geotiff(tmp_path / "a.tif", big_scene())
    monkeypatch.setattr(geotiff, "has_rasterio", lambda: False)
    with pytest.warns(Note, match="without a position, as rasterio is not installed; pip install 'gtsa-kit"):
        predict_folder(model, tmp_path / "a.tif", tmp_path / "out", PredictOptions())
    assert (tmp_path / "out" / "masks" / "a.tif.png").exists()


def test_predictions_in_python_are_those_of_the_job(model: Path, tmp_path: Path) -> None:
    write_bands(tmp_path / "a.tif", big_scene(), nodata=True)
    one, two = predict(model, tmp_path / "a.tif", tile=64, device="cpu"), predict(model, [tmp_path / "a.tif"], tile=64)
    for prediction in (*one, *two):
        assert prediction.mask is not None
        assert ((prediction.mask == VOID) == (big_scene() == NODATA).all(-1)).all()


def test_memory_depends_on_the_windows(predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The samples that a longer scene has more are not in memory together."""
    monkeypatch.setattr("gtsa_kit.tasks.tiles.BAND_BYTES", 1 << 20)
    reader, peaks, sizes = reader_of(predictor.runner.preprocessing), [], []
    for length in (256, 256, 2560):  # the first one also imports what it needs
        samples = np.tile(big_scene(128, 128), (length // 128, 4, 1))
        path = tmp_path / f"{length}.tif"
        write_geotiff(path, samples, tiled=True, blockxsize=128, blockysize=128, nodata=None)
        sizes.append(samples.nbytes)
        del samples
        tracemalloc.start()
        tiled_mask(Scene(FileSource(tmp_path), Entry(path.name, str(path)), reader), predictor, Tiling(128, 0), 4)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] - peaks[1] < (sizes[2] - sizes[1]) / 4
