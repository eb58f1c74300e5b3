"""Which artifact is the fastest here: export those that may be, keep those that hold parity, measure, take the best."""

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
from gtsa_kit.export.manifest import Manifest, manifest_path
from gtsa_kit.export.parity_images import ParityImages
from gtsa_kit.export.pipeline import export_artifact
from gtsa_kit.export.source import Source
from gtsa_kit.export.spec import SUFFIX, SUPPORTED_PRECISIONS, ExportOptions, Precision

BATCH, SECONDS = 8, 2.0


@dataclass(frozen=True)
class Candidate:
    """A format and a precision that may be the fastest on this machine."""

    form: str
    precision: Precision

    def __str__(self) -> str:
        return f"{self.form} {self.precision}"


@dataclass(frozen=True)
class Autoselection:
    """What was taken, and what it was chosen from."""

    path: Path
    manifest: Manifest
    speeds: tuple[Speed, ...]
    failed: tuple[Candidate, ...]
    """Those that did not hold parity."""


def candidates(precision: Precision | None = None) -> list[list[Candidate]]:
    """What may be the fastest here, in rounds: another round is for when nothing of the one before holds parity.

    Without a precision: first the halved one that the hardware computes in, then float32. int8 is never taken unasked:
    it needs images, and is less exact.
    """
    vino = importlib.util.find_spec("openvino") is not None
    if torch.cuda.is_available():
        rounds = [[("torchscript", "fp16"), ("onnx", "fp16")], [("torchscript", "fp32"), ("onnx", "fp32")]]
    else:
        rounds = [[*[("openvino", "fp32")] * vino, ("onnx", "fp32")]]
        if "BF16" in cpu_capabilities(import_openvino()) if vino else torch.cpu._is_avx512_bf16_supported():
            rounds.insert(0, [*[("openvino", "bf16")] * vino, ("torchscript", "bf16")])
    if precision:
        forms = dict.fromkeys(form for some in rounds for form, _ in some)
        rounds = [[(form, precision) for form in forms if precision in SUPPORTED_PRECISIONS[form]]]
    return [[Candidate(form, kind) for form, kind in some] for some in rounds]  # type: ignore[arg-type]


def autoselect(
    source: Source,
    folder: Path,
    options: ExportOptions,
    rounds: list[list[Candidate]],
    images: ParityImages,
    calibration: Calibration | None = None,
    on_step: Callable[[str, int, int], None] = lambda *_: None,
) -> Autoselection | None:
    """Export the candidates of a round, measure those that hold parity at batch 8, and keep the fastest in `folder`.

    Args:
        source: What to export.
        folder: Gets `encoder` plus the suffix of the format that was taken.
        options: Their precision is each candidate's.
        rounds: See `candidates`.
        images: Images for the gate and the measurement.
        calibration: Images for int8.
        on_step: Told what is being done, how many steps of the round are done, and how many there are.

    Returns:
        None if no candidate held parity.
    """
    work = folder / ".fastest.tmp"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    made: dict[Candidate, tuple[Path, Manifest]] = {}
    try:
        for of in rounds:
            for done, candidate in enumerate(of):
                on_step(f"exporting {candidate}", done, len(of) + 1)
                path = work / str(candidate).replace(" ", "_") / f"encoder{SUFFIX[candidate.form]}"
                asked = replace(options, precision=candidate.precision)
                made[candidate] = path, export_artifact(source, candidate.form, path, asked, images, calibration)
            good = {c: path for c, (path, manifest) in made.items() if manifest.parity and manifest.parity.passed}
            if good:
                on_step("measuring", len(of), len(of) + 1)
                speeds = _measure(good, options, images) if len(good) > 1 else []
                best = max(speeds, key=lambda speed: speed.images_per_second).name if speeds else ""
                taken = next(candidate for candidate in good if best in ("", str(candidate)))
                failed = tuple(candidate for candidate in made if candidate not in good)
                return Autoselection(_move(good[taken], folder), made[taken][1], tuple(speeds), failed)
        return None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _measure(paths: dict[Candidate, Path], options: ExportOptions, images: ParityImages) -> list[Speed]:
    shape = BatchShape(options.batch.clamp(BATCH), options.height.clamp(224), options.width.clamp(224))
    return compare_speed({str(c): OpenFile(path) for c, path in paths.items()}, [shape], images, SECONDS)


def _move(path: Path, folder: Path) -> Path:
    """An artifact with all that belongs to it; the file that people open comes last."""
    weights = path.with_suffix(".bin")
    for file in (weights, manifest_path(path), path):
        if file.exists():
            os.replace(file, folder / file.name)
    return folder / path.name
