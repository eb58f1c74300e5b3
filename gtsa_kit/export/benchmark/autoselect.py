"""Automatic choice of a format: export the candidates, keep those that pass the parity gate, take the fastest."""

import importlib.util
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from gtsa_kit.export.benchmark.compare import BatchShape, OpenFile, Speed, compare_speed
from gtsa_kit.export.formats.openvino_library import cpu_capabilities, import_openvino
from gtsa_kit.export.formats.quantize import Calibration
from gtsa_kit.export.manifest import Manifest, manifest_path, write_manifest
from gtsa_kit.export.parity_images import ParityImages
from gtsa_kit.export.pipeline import export_artifact
from gtsa_kit.export.source import Source
from gtsa_kit.export.spec import SUFFIX, SUPPORTED_PRECISIONS, ExportOptions, Precision
from gtsa_kit.export.task_graph import options_for

BATCH = 8
"""Batch size at which candidates are measured."""
SECONDS = 2.0
"""Measured time of each candidate."""


@dataclass(frozen=True)
class ExportCandidate:
    """Format and precision that may be the fastest on this machine."""

    file_format: str
    precision: Precision

    def __str__(self) -> str:
        return f"{self.file_format} {self.precision}"


@dataclass(frozen=True)
class Autoselection:
    """Artifact that was chosen, and the measurements behind the choice."""

    path: Path
    manifest: Manifest
    speeds: tuple[Speed, ...]
    failed: tuple[ExportCandidate, ...]
    """Candidates that failed the parity gate."""


def candidates(precision: Precision | None = None) -> list[list[ExportCandidate]]:
    """Return the candidates for this machine in rounds; a round runs only if nothing of the previous one passed.

    Without a precision, the first round is the half precision that the hardware computes in, the second is float32.
    int8 is never chosen unless requested: it needs calibration images and is less exact.
    """
    has_openvino = importlib.util.find_spec("openvino") is not None
    if torch.cuda.is_available():
        rounds = [[("torchscript", "fp16"), ("onnx", "fp16")], [("torchscript", "fp32"), ("onnx", "fp32")]]
    else:
        rounds = [[*[("openvino", "fp32")] * has_openvino, ("onnx", "fp32")]]
        if "BF16" in cpu_capabilities(import_openvino()) if has_openvino else torch.cpu._is_avx512_bf16_supported():
            rounds.insert(0, [*[("openvino", "bf16")] * has_openvino, ("torchscript", "bf16")])
    if precision:
        formats = dict.fromkeys(name for pairs in rounds for name, _ in pairs)
        rounds = [[(name, precision) for name in formats if precision in SUPPORTED_PRECISIONS[name]]]
    return [[ExportCandidate(name, kind) for name, kind in pairs] for pairs in rounds]  # type: ignore[arg-type]


def autoselect(
    source: Source,
    folder: Path,
    options: ExportOptions,
    rounds: list[list[ExportCandidate]],
    images: ParityImages,
    calibration: Calibration | None = None,
    on_step: Callable[[str, int, int], None] = lambda *_: None,
) -> Autoselection | None:
    """Export the candidates of a round, measure those that pass the gate at batch 8, and keep the fastest in `folder`.

    Args:
        source: Encoder to export.
        folder: Output folder; it gets the name of the source plus the suffix of the chosen format.
        options: Export options; the precision comes from each candidate.
        rounds: Candidates (see `candidates`).
        images: Images for the parity gate and the measurement.
        calibration: Images for int8.
        on_step: Called with the current step, the steps of the round that are done, and their number.

    Returns:
        The choice, or None if no candidate passed the gate.
    """
    options = options_for(source.model, options)
    work = folder / ".autoselect.tmp"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    exported: dict[ExportCandidate, tuple[Path, Manifest]] = {}
    try:
        for group in rounds:
            for done, candidate in enumerate(group):
                on_step(f"exporting {candidate}", done, len(group) + 1)
                exported[candidate] = _export(source, candidate, work, options, images, calibration)
            passed = {c: path for c, (path, m) in exported.items() if m.parity and m.parity.passed}
            if passed:
                on_step("measuring", len(group), len(group) + 1)
                chosen, speeds = _fastest(passed, options, images)
                failed = tuple(candidate for candidate in exported if candidate not in passed)
                path = _move(passed[chosen], folder)
                manifest = write_manifest(path, exported[chosen][1])  # the relative path of the source is another one
                return Autoselection(path, manifest, speeds, failed)
        return None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _export(
    source: Source,
    candidate: ExportCandidate,
    folder: Path,
    options: ExportOptions,
    images: ParityImages,
    calibration: Calibration | None,
) -> tuple[Path, Manifest]:
    path = folder / str(candidate).replace(" ", "_") / f"{source.stem}{SUFFIX[candidate.file_format]}"
    options = replace(options, precision=candidate.precision)
    return path, export_artifact(source, candidate.file_format, path, options, images, calibration)


def _fastest(
    paths: dict[ExportCandidate, Path], options: ExportOptions, images: ParityImages
) -> tuple[ExportCandidate, tuple[Speed, ...]]:
    """Return the fastest candidate and the measurements; a single candidate is not measured."""
    if len(paths) == 1:
        return next(iter(paths)), ()
    shape = BatchShape(options.batch.clamp(BATCH), options.height.clamp(224), options.width.clamp(224))
    speeds = compare_speed({str(c): OpenFile(path) for c, path in paths.items()}, [shape], images, SECONDS)
    best = max(speeds, key=lambda speed: speed.images_per_second).name
    return next(candidate for candidate in paths if str(candidate) == best), tuple(speeds)


def _move(path: Path, folder: Path) -> Path:
    """Move an artifact and the files that belong to it; the file that users open moves last."""
    weights = path.with_suffix(".bin")
    for file in (weights, manifest_path(path), path):
        if file.exists():
            os.replace(file, folder / file.name)
    return folder / path.name
