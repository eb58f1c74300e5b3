"""Which artifact is the fastest here: export those that may be, keep those that hold parity, measure, take the best."""

import importlib.util
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from gtsa_kit.export.backends import import_openvino, skills
from gtsa_kit.export.bench import OpenFile, Shape, Speed, compare_speed
from gtsa_kit.export.manifest import Manifest, manifest_path
from gtsa_kit.export.parity import ParityImages
from gtsa_kit.export.pipeline import export_artifact
from gtsa_kit.export.source import Source
from gtsa_kit.export.spec import OFFERED, SUFFIX, Options, Precision

BATCH, SECONDS = 8, 2.0


@dataclass(frozen=True)
class Candidate:
    """A format and a precision that may be the fastest on this machine."""

    form: str
    precision: Precision

    def __str__(self) -> str:
        return f"{self.form} {self.precision}"


@dataclass(frozen=True)
class Choice:
    """What was taken, and what it was chosen from."""

    path: Path
    manifest: Manifest
    speeds: tuple[Speed, ...]
    failed: tuple[Candidate, ...]
    """Those that did not hold parity."""


def candidates(precision: Precision | None = None, form: str | None = None) -> list[Candidate]:
    """What may be the fastest here, of one precision or format if they are given.

    Without a precision: float32, and the halved one that the hardware computes in. int8 is never taken unasked: it
    needs photographs, and is less exact.
    """
    if torch.cuda.is_available():
        likely = [("torchscript", "fp16"), ("onnx", "fp16"), ("onnx", "fp32")]
    else:
        vino = importlib.util.find_spec("openvino") is not None
        bf16 = "BF16" in skills(import_openvino()) if vino else bool(torch.cpu._is_avx512_bf16_supported())
        likely = [("openvino", "bf16")] * (vino and bf16) + [("torchscript", "bf16")] * bf16
        likely += [("openvino", "fp32")] * vino + [("onnx", "fp32")]
    if precision:
        likely = [(name, precision) for name in dict.fromkeys(name for name, _ in likely) if precision in OFFERED[name]]
    found = [Candidate(name, kind) for name, kind in likely if form in (None, name)]  # type: ignore[arg-type]
    return found or [Candidate(form or "onnx", precision or "fp32")]


def export_fastest(
    source: Source,
    folder: Path,
    options: Options,
    of: list[Candidate],
    images: ParityImages,
    on_step: Callable[[str], None] = lambda _: None,
) -> Choice | None:
    """Export every candidate, measure those that hold parity at batch 8, and keep the fastest in `folder`.

    Args:
        source: What to export.
        folder: Gets `encoder` plus the suffix of the format that was taken.
        options: Their precision is each candidate's.
        of: See `candidates`.
        images: Photographs for the gate and the measurement.
        on_step: Told what is being done.

    Returns:
        None if no candidate held parity.
    """
    work = folder / ".fastest.tmp"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        made: dict[Candidate, tuple[Path, Manifest]] = {}
        for candidate in of:
            on_step(f"exporting {candidate}")
            path = work / str(candidate).replace(" ", "_") / f"encoder{SUFFIX[candidate.form]}"
            manifest = export_artifact(
                source, candidate.form, path, replace(options, precision=candidate.precision), images
            )
            made[candidate] = path, manifest
        good = {c: m for c, m in made.items() if m[1].parity and m[1].parity.passed}
        if not good:
            return None
        on_step("measuring")
        speeds = _measure({c: path for c, (path, _) in good.items()}, options, images) if len(good) > 1 else ()
        best = max(speeds, key=lambda speed: speed.images_per_second).name if speeds else str(next(iter(good)))
        path, manifest = next(found for candidate, found in good.items() if str(candidate) == best)
        failed = tuple(candidate for candidate in made if candidate not in good)
        return Choice(_move(path, folder), manifest, tuple(speeds), failed)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _measure(paths: dict[Candidate, Path], options: Options, images: ParityImages) -> list[Speed]:
    shape = Shape(options.batch.clamp(BATCH), options.height.clamp(224), options.width.clamp(224))
    return compare_speed({str(c): OpenFile(path) for c, path in paths.items()}, [shape], images, SECONDS)


def _move(path: Path, folder: Path) -> Path:
    """An artifact with all that belongs to it; the file that people open comes last."""
    weights = path.with_suffix(".bin")
    for file in (weights, manifest_path(path), path):
        if file.exists():
            os.replace(file, folder / file.name)
    return folder / path.name
