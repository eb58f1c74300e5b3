"""Graphs that take samples of any channels as files have them: clipped and normalized inside, in every format."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from helpers.fake_triton import infer, read_config
from helpers.task_models import task_spec
from helpers.weights import save_random
from PIL import Image

import gtsa_kit
from gtsa_kit.cli.export import export
from gtsa_kit.cli.support.info_rows import rows
from gtsa_kit.embedding.dataset import read_dataset
from gtsa_kit.embedding.options import EmbedOptions
from gtsa_kit.embedding.run import embed_folder
from gtsa_kit.export.inspect_file import inspect_file
from gtsa_kit.export.manifest import read_manifest
from gtsa_kit.export.tolerances import TOLERANCES
from gtsa_kit.export.triton.config import ServingOptions
from gtsa_kit.export.triton.models import open_artifact, repository_models
from gtsa_kit.export.triton.repository import write_repository
from gtsa_kit.models.architecture import ARCHITECTURES
from gtsa_kit.models.checkpoint_import import open_weights
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.encoder_spec import EncoderSpec
from gtsa_kit.models.preprocessing import Preprocessing, Samples
from gtsa_kit.models.task_model import TaskModel, save_task_model

pytestmark = pytest.mark.usefixtures("traces")

BANDS, SIZE = 5, (32, 48)
LOW, HIGH = (100.5, 0.0, 50.25, 1000.0, 9.75), (3000.5, 40000.0, 60000.25, 65535.0, 20000.0)
MEAN, STD = (1500.0, 9000.0, 30000.0, 40000.0, 8000.0), (500.0, 7000.0, 9000.0, 10000.0, 4000.0)


def stated(dtype: str) -> Preprocessing:
    """Return the preprocessing of a model whose samples are clipped to percentiles."""
    scale = {"uint8": 256, "uint16": 1, "float32": 1000}[dtype]
    low, high, mean, std = (tuple(value / scale for value in values) for values in (LOW, HIGH, MEAN, STD))
    if dtype == "uint8":  # mean and std are of samples / 255
        mean, std = (tuple(value / 255 for value in values) for values in (mean, std))
    return Preprocessing(64, mean=mean, std=std, samples=Samples(dtype, low, high, clip=True, colors=False))


def samples_of(dtype: str, count: int, height: int, width: int) -> np.ndarray:
    """Return noise (count, H, W, N) over all of the type, beyond the limits of every channel."""
    values = np.random.default_rng(0).integers(0, 65536, (count, height, width, BANDS))
    return {"uint8": values // 256, "uint16": values, "float32": values / 1000}[dtype].astype(dtype)


def expected_input(samples: np.ndarray, dtype: str) -> np.ndarray:
    """Clip and normalize samples (..., H, W, N) in float64 to (..., N, H, W)."""
    own = stated(dtype)
    values = samples.astype(np.float64).clip(own.samples.low, own.samples.high) / (255 if dtype == "uint8" else 1)
    return np.moveaxis((values - own.mean) / own.std, -1, -3)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of random weights for samples of a type."""
    root = tmp_path_factory.mktemp("runs")

    def folder(dtype: str) -> Path:
        path = root / dtype
        if not path.exists():
            path.mkdir()
            save_random(path, EncoderSpec(ARCHITECTURES["vit_test"].with_channels(BANDS), stated(dtype)))
        return path

    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a folder of smooth images of a type."""
    root = tmp_path_factory.mktemp("images")

    def folder(dtype: str) -> Path:
        path = root / dtype
        path.mkdir(exist_ok=True)
        for number, coarse in enumerate(samples_of(dtype, 4, 5, 6)):
            np.save(path / f"{number}.npy", np.kron(coarse, np.ones((9, 9, 1))).astype(dtype))
        return path

    return folder


@pytest.fixture(scope="module")
def exported(
    run: Callable[[str], Path], images: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Return the file of a format, precision, type of samples and input, with the size fixed."""
    root = tmp_path_factory.mktemp("exported")

    def make(file_format: str, input_type: str, dtype: str = "uint16", precision: str = "fp32") -> Path:
        if file_format == "openvino":
            pytest.importorskip("openvino", reason="OpenVINO is not installed")
        folder = root / f"{file_format}-{input_type}-{dtype}-{precision}"
        if folder.exists():
            return next(path for path in folder.iterdir() if path.suffix not in (".json", ".bin"))
        folder.mkdir()
        return gtsa_kit.export(
            run(dtype),
            format=file_format,
            out=folder,
            precision=precision,
            size=SIZE,
            input=input_type,
            images=images(dtype),
            calibrate=images(dtype) if precision == "int8" else None,
        )

    return make


@pytest.mark.parametrize(
    ("file_format", "input_type", "dtype", "precision"),
    [
        ("torchscript", "uint16", "uint16", "fp32"),
        ("pt2", "uint16", "uint16", "fp32"),
        ("onnx", "uint16", "uint16", "fp32"),
        ("onnx", "uint16", "uint16", "int8"),
        ("onnx", "float32-samples", "uint16", "fp32"),
        ("openvino", "uint16", "uint16", "fp32"),
        ("openvino", "uint16", "uint16", "int8"),
        ("torchscript", "uint16", "uint16", "fp16"),
        ("torchscript", "float32-samples", "float32", "fp32"),
        ("torchscript", "uint8", "uint8", "bf16"),
        ("torchscript", "float32-samples", "uint8", "fp32"),
    ],
)
def test_samples_are_clipped_and_normalized_in_the_graph(
    file_format: str,
    input_type: str,
    dtype: str,
    precision: str,
    exported: Callable[..., Path],
    run: Callable[[str], Path],
) -> None:
    path = exported(file_format, input_type, dtype, precision)
    runner, samples = gtsa_kit.load(path, "cpu"), samples_of(dtype, 3, *SIZE)
    encoder = open_weights(run(dtype)).encoder
    with torch.inference_mode():
        expected = encoder(torch.from_numpy(expected_input(samples, dtype).astype(np.float32)))
    actual = runner(samples.astype(input_type.removesuffix("-samples")))
    tolerance = TOLERANCES[precision]
    np.testing.assert_allclose(actual.embedding, expected.embedding, atol=tolerance.max_abs)
    assert np.abs(actual.feature_map - expected.feature_map.numpy()).mean() < tolerance.mean_abs
    (images,), report = runner.manifest.inputs, runner.manifest.parity
    assert (images.dtype, images.samples) == (input_type.removesuffix("-samples"), True)
    assert runner.manifest.input_type == input_type
    assert images.shape == ("batch", *SIZE, BANDS)
    assert report is not None
    assert report.passed
    assert report.images == f"4 images of {dtype}"


def test_images_are_prepared_and_embedded_as_from_the_weights(
    exported: Callable[..., Path], run: Callable[[str], Path], images: Callable[[str], Path], tmp_path: Path
) -> None:
    """A graph gets the samples that the float32 encoder gets, so that rounding adds no difference."""
    folder, vectors = images("uint16"), {}
    files = {"run": run("uint16")} | {name: exported("onnx", name) for name in ("float32", "uint16", "float32-samples")}
    for name, model in files.items():
        embed_folder(folder, model, tmp_path / name, EmbedOptions(size=SIZE))
        vectors[name] = {row.path: row.embedding for row in read_dataset(tmp_path / name)}
        assert set(vectors[name]) == {f"{number}.npy" for number in range(4)}
    image = np.load(folder / "2.npy")
    for name, model in files.items():
        runner = gtsa_kit.load(model, "cpu")
        prepared = runner.prepare(image, SIZE)
        np.testing.assert_allclose(runner(prepared[None]).embedding[0], vectors["run"]["2.npy"], atol=2e-5)
        for path, vector in vectors["run"].items():
            np.testing.assert_allclose(vectors[name][path], vector, atol=2e-5)
    clipped = image.astype(np.float32).clip(*np.array([LOW, HIGH], np.float32))
    uint16 = gtsa_kit.load(files["uint16"], "cpu")
    assert uint16.prepare(image).dtype == np.uint16
    np.testing.assert_array_equal(uint16.prepare(image), uint16.prepare(clipped))
    with pytest.raises(ValueError, match=r"takes 5 channels of uint16, and this is an array \(9, 9, 5\) of uint8"):
        uint16.prepare(np.zeros((9, 9, BANDS), np.uint8))
    assert gtsa_kit.verify(files["uint16"], images=folder).passed
    assert ("input", "images  uint16 (batch, 32, 48, 5): samples, normalized in the graph") in list(
        rows(inspect_file(files["uint16"]))
    )


def test_types_that_a_model_has_not_are_refused(
    run: Callable[[str], Path], images: Callable[[str], Path], tiny_run: Path, tmp_path: Path
) -> None:
    options = {"out": tmp_path, "format": "torchscript"}
    with pytest.raises(ValueError, match=r"takes 5 channels of uint16, not of uint8; use --input uint16, --input"):
        gtsa_kit.export(run("uint16"), input="uint8", images=images("uint16"), **options)
    with pytest.raises(ValueError, match=r"takes 5 channels of float32, not of uint16; use --input float32-samples"):
        gtsa_kit.export(run("float32"), input="uint16", images=images("float32"), **options)
    with pytest.raises(ValueError, match=r"takes 3 channels of uint8, not of uint16; use --input uint8"):
        gtsa_kit.export(tiny_run, input="uint16", **options)
    with pytest.raises(ValueError, match=r"--input takes float32 or uint8 or uint16 or float32-samples, got 'int16'"):
        gtsa_kit.export(tiny_run, input="int16", **options)
    assert not list(tmp_path.iterdir())


def test_rgb_is_taken_as_float32_samples(tiny_run: Path, tmp_path: Path) -> None:
    size, image = (32, 32), Image.effect_noise((40, 50), 64).convert("RGB")
    vectors = []
    for input_type in ("uint8", "float32-samples"):
        out = tmp_path / f"{input_type}.ts"
        gtsa_kit.export(tiny_run, format="torchscript", out=out, size=size, input=input_type)
        runner = gtsa_kit.load(out, "cpu")
        vectors.append(runner(runner.prepare(image)[None]).embedding)
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)


def test_tensorrt_takes_the_samples_as_float32(
    exported: Callable[..., Path], run: Callable[[str], Path], images: Callable[[str], Path], tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx has no wheel for this machine")
    options = {"format_name": "trt", "runtime": "tensorrt-rtx", "out": tmp_path, "images": images("uint16")}
    for source, message in ((run("uint16"), "the graph"), (exported("onnx", "uint16"), "encoder.onnx")):
        with pytest.raises(ValueError, match=f"TensorRT has no uint16, and {message} takes images of it; use --input"):
            export(source, input_type="uint16", **options)
    assert not list(tmp_path.iterdir())
    export(exported("onnx", "float32-samples"), precision="fp32", batch="1:2:2", **options)
    manifest = read_manifest(tmp_path / "encoder.engine")
    assert manifest.engine is not None
    assert manifest.engine.profile == ((1, *SIZE, BANDS), (2, *SIZE, BANDS), (2, *SIZE, BANDS))
    assert manifest.input_type == "float32-samples"


def test_triton_serves_the_samples(exported: Callable[..., Path], tmp_path: Path) -> None:
    """A file of normalized images gets a preprocessing model; all answers are those of the float32 encoder's graph."""
    samples, normal = samples_of("uint16", 3, *SIZE), exported("onnx", "float32")
    expected = gtsa_kit.load(normal, "cpu")(expected_input(samples, "uint16").astype(np.float32)).embedding
    for artifact, name, input_type, models in (
        (normal, "ensemble", "uint16", 3),
        (normal, "converted", "float32-samples", 3),
        (exported("onnx", "uint16"), "whole", "uint16", 1),
    ):
        parts = repository_models(artifact, open_artifact(artifact), ServingOptions(name), input_type)  # type: ignore[arg-type]
        assert len(parts) == models
        for folder in write_repository(tmp_path, parts):
            config = read_config(folder)
            for warmup in config.model_warmup:
                assert list(warmup.inputs["images"].dims)[-1 if config.input[0].dims[-1] == BANDS else 0] == BANDS
        sent = samples.astype(input_type.removesuffix("-samples"))
        actual = infer(tmp_path, name, {"images": sent})["embedding"]
        np.testing.assert_allclose(actual, expected, atol=1e-4)
    kinds = {onnx.TensorProto.UINT16, onnx.TensorProto.FLOAT}
    graphs = [
        onnx.load(tmp_path / f"{name}_preprocess" / "1" / "model.onnx").graph for name in ("ensemble", "converted")
    ]
    assert {graph.input[0].type.tensor_type.elem_type for graph in graphs} == kinds
    with pytest.raises(ValueError, match="takes images of uint16 as it is; omit --input"):
        repository_models(
            exported("onnx", "uint16"), open_artifact(exported("onnx", "uint16")), ServingOptions(), "float32-samples"
        )


def test_task_models_take_the_samples(images: Callable[[str], Path], tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = Encoder(ARCHITECTURES["vit_test"].with_channels(BANDS), preprocessing=stated("uint16"))
    model = TaskModel(encoder, task_spec("linear")).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    (tmp_path / "run").mkdir()
    save_task_model(tmp_path / "run", model, {"steps": 0})
    options = {"format": "torchscript", "size": SIZE, "images": images("uint16"), "input": "uint16"}
    runner = gtsa_kit.load(gtsa_kit.export(tmp_path / "run", out=tmp_path / "model.ts", **options), "cpu")
    samples = samples_of("uint16", 2, *SIZE)
    with torch.inference_mode():
        expected = model(torch.from_numpy(expected_input(samples, "uint16").astype(np.float32)))
    assert runner(samples).logits.shape == (2, 5, *SIZE)
    np.testing.assert_allclose(runner(samples).logits, expected, atol=1e-4)
    assert runner.manifest.parity is not None
    assert runner.manifest.parity.passed
