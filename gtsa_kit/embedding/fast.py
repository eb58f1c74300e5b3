"""An int8 file of a model for embedding, used only if images keep their neighbors with it.

The file is written once beside the weights, calibrated on images of the job, and opened again by later jobs. Each new
job compares it with the model on images of its own.
"""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np

from gtsa_kit.data.entries import Entry, Source, read_entry
from gtsa_kit.data.image_files import with_channels
from gtsa_kit.data.image_io import ImageError, decode_image
from gtsa_kit.data.sources import open_source as open_images
from gtsa_kit.embedding.extract import extract_features
from gtsa_kit.embedding.folder import JOB
from gtsa_kit.embedding.job import plan_job
from gtsa_kit.embedding.locations import absolute_location
from gtsa_kit.embedding.options import EmbedOptions
from gtsa_kit.embedding.rows import FeatureRow
from gtsa_kit.export import Runner
from gtsa_kit.export.formats.content import open_manifest
from gtsa_kit.export.formats.quantize import Calibration
from gtsa_kit.export.input_types import samples_input
from gtsa_kit.export.parity_images import MAX_IMAGES, ParityImages
from gtsa_kit.export.pipeline import CALIBRATION_IMAGES, export_artifact
from gtsa_kit.export.source import Source as ModelSource
from gtsa_kit.export.source import open_source
from gtsa_kit.export.spec import SUFFIX, ExportOptions
from gtsa_kit.models.channel_images import filled_samples, reader_of
from gtsa_kit.models.preprocessing import InputImage, Preprocessing

MIN_AGREEMENT: Final = 0.999
"""Least agreement of neighbors, see `NeighborAgreement.agreement`, with which the int8 file is used."""
COMPARED_IMAGES: Final = 256
"""Images whose neighbors are compared, at most."""
NEIGHBORS: Final = 10
"""Neighbors of each image."""
MIN_IMAGES: Final = 3 * NEIGHBORS
"""Images below which neighbors say too little."""


@dataclass(frozen=True)
class NeighborAgreement:
    """Neighbors of images by the vectors of a model, and by those of its int8 file."""

    images: int
    """Number of images that were compared."""
    agreement: float
    """1 minus the mean distance that is lost: how much lower the cosine of the ten neighbors that the file finds is, by
    the model's own vectors, than that of the ten nearest. With 1 they are as near, whether the same images or not."""
    same_nearest: float
    """Share of images whose nearest neighbor is the same image."""


@dataclass(frozen=True)
class FastModel:
    """The model that a fast job runs, and the reason."""

    path: Path
    """The int8 file, or the model itself if the file can't be used."""
    runner: Runner
    """The same, opened."""
    about: str
    """Reason with its figures, in one line."""


def choose_fast_model(
    source: str,
    model: Path,
    options: EmbedOptions,
    runner: Runner,
    open_file: Callable[[Path], Runner],
    on_step: Callable[[str], None] = lambda _: None,
) -> FastModel:
    """Return the int8 file of a model, made if there is none, if images of the job keep their neighbors with it.

    Args:
        source: The images; see `data.sources.open_source`.
        model: A run folder, weights, or a float32 ONNX file.
        options: Options of the job.
        runner: The opened model.
        open_file: Called once with the int8 file, if there is one to compare.
        on_step: Called with a line before each step that takes time.

    Raises:
        ValueError: The model is a file that can't be exported again, or the file beside it is of other weights.
    """
    images = open_images(absolute_location(source))
    sample = sample_entries(images, CALIBRATION_IMAGES + COMPARED_IMAGES, not runner.preprocessing.is_rgb)
    if len(sample) < MIN_IMAGES:
        return FastModel(model, runner, f"not used: {len(sample)} images are too few to compare neighbors")
    path = fast_path(model)
    if path.exists():
        check_reusable(path, runner, options)
    else:
        on_step(f"writing {path} in int8, once")
        write_fast_file(model, path, images, sample[:CALIBRATION_IMAGES], options)
    report = open_manifest(path).manifest.parity
    if report is None or not report.passed:
        return FastModel(model, runner, f"not used: {path} did not pass the parity gate")
    compared = sample[CALIBRATION_IMAGES:] if len(sample) >= CALIBRATION_IMAGES + MIN_IMAGES else sample
    on_step(f"comparing neighbors of {len(compared)} images")
    fast = open_file(path)
    neighbors = compare_neighbors(*(vectors_of(one, model, compared, images, options) for one in (runner, fast)))
    if neighbors.images < MIN_IMAGES:
        return FastModel(
            model, runner, f"not used: {neighbors.images} readable images are too few to compare neighbors"
        )
    measured = (
        f"the ten neighbors of an image agree to {neighbors.agreement:.5f} ({MIN_AGREEMENT} needed), the nearest is "
        f"the same for {100 * neighbors.same_nearest:.0f}%, on {neighbors.images} images"
    )
    if neighbors.agreement < MIN_AGREEMENT:
        return FastModel(model, runner, f"not used: {measured}")
    return FastModel(path, fast, f"{path.name} is used: {measured}")


def fast_path(model: Path) -> Path:
    """Return the path of a model's int8 file: beside its weights, for OpenVINO if that is installed."""
    suffix = SUFFIX["openvino" if find_spec("openvino") else "onnx"]
    return model / f"encoder-int8{suffix}" if model.is_dir() else model.with_name(f"{model.stem}-int8{suffix}")


def model_of_job(out: Path, model: Path) -> Path | None:
    """Return the int8 file if a job in a folder was begun with it, else the model, and None without a job."""
    if not (out / JOB).exists():
        return None
    record = json.loads((out / JOB).read_text(encoding="utf-8"))
    path = fast_path(model)
    return path if str(path.absolute()) == record["model"]["path"] else model


def sample_entries(images: Source, count: int, channels: bool = False) -> list[Entry]:
    """Return up to `count` images of a source, chosen at random but the same ones each time.

    With `channels`, formats count that are read with all of their channels alone.
    """
    generator, chosen = random.Random(0), []
    listed = with_channels(images.entries()) if channels else images.entries()
    for number, entry in enumerate(entry for entry in listed if not entry.reason):
        if number < count:
            chosen.append(entry)
        elif (position := generator.randrange(number + 1)) < count:
            chosen[position] = entry
    generator.shuffle(chosen)
    return chosen


def write_fast_file(model: Path, path: Path, images: Source, sample: Sequence[Entry], options: EmbedOptions) -> None:
    """Export a model in int8, with its parity report.

    Raises:
        ValueError: The model can't be exported, or no image can be read.
    """
    source: ModelSource = open_source(model, options.load.import_options)
    preprocessing = source.encoder.preprocessing
    read = list(iter_images(images, sample, options.max_pixels, preprocessing))
    if not read:
        raise ValueError("no image can be read, so that --fast can't set the ranges of int8; omit it")
    pictures = [image for _, image in read]
    origin = f"{len(read)} images of the first job with --fast"
    parity = ParityImages(pictures[:MAX_IMAGES], origin, [name for name, _ in read[:MAX_IMAGES]])
    export = ExportOptions(
        precision="int8",
        input=samples_input(preprocessing),
        layers=options.load.layers,
        class_token=options.load.class_token,
    )
    file_format = next(name for name, suffix in SUFFIX.items() if suffix == path.suffix)
    export_artifact(source, file_format, path, export, parity, Calibration(pictures, origin))


def iter_images(
    images: Source, sample: Sequence[Entry], max_pixels: int, preprocessing: Preprocessing
) -> Iterator[tuple[str, InputImage]]:
    """Yield the readable images of a sample with their names, upright and with the channels of a model."""
    reader = reader_of(preprocessing, max_pixels)
    for entry in sample:
        with suppress(ImageError):
            content, path = read_entry(images, entry), Path(entry.name)
            if preprocessing.is_rgb:
                yield entry.name, decode_image(content, path, max_pixels).image
            else:
                yield entry.name, filled_samples(reader(content, entry.name), preprocessing)


def check_reusable(path: Path, runner: Runner, options: EmbedOptions) -> None:
    """Raise `ValueError` unless a file that exists is the int8 file of the opened model, with the outputs of a job."""
    manifest = open_manifest(path).manifest
    expected = (*options.load.layers, *(["class_token"] if options.load.class_token else []))
    has = {*manifest.layers, *(["class_token"] if manifest.has_class_token else [])}
    problem = ""
    if manifest.source_sha256 != runner.manifest.source_sha256 or manifest.precision != "int8":
        problem = "is not the int8 file of this model"
    elif missing := [str(one) for one in expected if one not in has]:
        problem = f"lacks outputs of this job ({', '.join(missing)})"
    if problem:
        raise ValueError(f"{path} {problem}; delete it, and --fast writes it anew")


def vectors_of(
    runner: Runner, model: Path, sample: Sequence[Entry], images: Source, options: EmbedOptions
) -> dict[str, np.ndarray]:
    """Return the vectors (D,) of the readable images of a sample by their names, as the job computes them."""
    vectors_alone = replace(options, dense=False, load=replace(options.load, layers=()))
    job = plan_job("", model, vectors_alone, runner)
    results = extract_features(sample, images, runner, job.preprocessor, job.plan)
    return {row.path: row.embedding.astype(np.float32) for row in results if isinstance(row, FeatureRow)}


def compare_neighbors(exact: dict[str, np.ndarray], fast: dict[str, np.ndarray]) -> NeighborAgreement:
    """Compare the neighbors by two kinds of vectors of the same images, by cosine."""
    names = sorted(exact.keys() & fast.keys())
    if len(names) < MIN_IMAGES:
        return NeighborAgreement(len(names), 0.0, 0.0)
    cosines, own = (_cosines(np.stack([one[name] for name in names])) for one in (exact, fast))
    expected, neighbors = (np.argsort(-each, axis=1, kind="stable")[:, :NEIGHBORS] for each in (cosines, own))
    nearest, reached = (np.take_along_axis(cosines, each, axis=1).mean() for each in (expected, neighbors))
    return NeighborAgreement(
        len(names), 1 - float(nearest - reached), float((expected[:, 0] == neighbors[:, 0]).mean())
    )


def _cosines(vectors: np.ndarray) -> np.ndarray:
    """Return the cosines (N, N) of vectors (N, D), with -1 of each to itself."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    cosines: np.ndarray = unit @ unit.T
    np.fill_diagonal(cosines, -1.0)
    return cosines
