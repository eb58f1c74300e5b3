"""Export of a head alone: its file, its parity gate, its manifest."""

from collections.abc import Callable
from dataclasses import asdict
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch

from gtsa_kit.export.formats.onnx_file import embed_manifest
from gtsa_kit.export.formats.onnx_head import export_onnx_head
from gtsa_kit.export.manifest import Manifest, write_manifest
from gtsa_kit.export.parity_cases import ParityCase, parity_cases
from gtsa_kit.export.parity_images import ParityImages
from gtsa_kit.export.parity_report import ParityReport
from gtsa_kit.export.pipeline import bind_manifest
from gtsa_kit.export.runtime.head_runner import HeadRunner
from gtsa_kit.export.source import Source
from gtsa_kit.export.spec import ANY_BATCH, LOGITS, ExportOptions, Range
from gtsa_kit.export.task_comparison import compare_task_output, in_logits, logits_std
from gtsa_kit.export.task_parity import REFERENCE
from gtsa_kit.export.tolerances import TASK_TOLERANCES
from gtsa_kit.files import staged
from gtsa_kit.models.outputs import Features
from gtsa_kit.models.task_model import TaskModel

PRECISIONS = ("fp32", "fp16")
"""Precisions of heads that are exported alone."""


def check_head_options(source: Source, options: ExportOptions) -> TaskModel:
    """Return the task model of a source whose head is to be exported alone.

    Raises:
        ValueError: It is an encoder, or an option is not for heads.
    """
    if source.task is None:
        raise ValueError(f"{source.path} is an encoder, which has no head; omit --part")
    if options.precision not in PRECISIONS:
        raise ValueError(f"a head alone is exported in {' or '.join(PRECISIONS)}, got {options.precision}")
    if options != ExportOptions(precision=options.precision, opset=options.opset):
        raise ValueError(
            "a head takes features of any batch and size and gives logits; omit --size, --min-size, --max-size, "
            "--batch, --layers, --class-token, --input, --output and --keep-float"
        )
    return source.task


def export_head_artifact(
    source: Source,
    path: Path,
    options: ExportOptions,
    images: ParityImages,
    on_case: Callable[[int, int], None] = lambda *_: None,
) -> Manifest:
    """Write the head of a fine-tuned run as an ONNX file, and run its parity gate on features of the float32 encoder.

    Args:
        source: Source with a task model.
        path: The file to write.
        options: Precision and opset.
        images: Images for the gate.
        on_case: Called by the gate with (cases done, all cases).

    Returns:
        The manifest with the parity report.

    Raises:
        ValueError: There is no head, it takes maps that exported encoders do not give, or an option is not for heads.
    """
    model = check_head_options(source, options)
    with staged(path) as work:
        manifest = bind_manifest(export_onnx_head(model, options, work), work, source)
        manifest = write_manifest(work, manifest)
        report = check_head_parity(model, HeadRunner(work), images, on_case)
        manifest = write_manifest(work, manifest.model_copy(update={"parity": report}))
        embed_manifest(work, manifest)
    return manifest


def check_head_parity(
    model: TaskModel, runner: HeadRunner, images: ParityImages, on_case: Callable[[int, int], None] = lambda *_: None
) -> ParityReport:
    """Compare logits of an exported head with those of the model's own head, on features of its float32 encoder."""
    model = model.to("cpu").float().eval()
    patch = model.encoder.architecture.patch
    side = Range(patch, None, patch)
    cases, differences = parity_cases(ANY_BATCH, side, side), []
    std = 0.0
    for done, case in enumerate(cases, 1):
        features, expected = _reference(model, images, case)
        std = std or max(logits_std(expected), 1e-12)
        tolerance = in_logits(TASK_TOLERANCES[runner.manifest.precision], std)
        names = list(islice(cycle(images.names), case.batch))
        differences.append(compare_task_output(LOGITS, expected, runner(features), case, tolerance, names))
        on_case(done, len(cases))
    return ParityReport(
        reference=REFERENCE,
        runtime="ONNX Runtime, CPUExecutionProvider",
        images=images.origin,
        tolerance={**asdict(tolerance), "logits_std": std},
        passed=all(difference.passed for difference in differences),
        differences=tuple(differences),
    )


def _reference(model: TaskModel, images: ParityImages, case: ParityCase) -> tuple[Features, np.ndarray]:
    """Return the features of a batch, as numpy arrays, and the logits of the model's head on them."""
    size, preprocessing = (case.height, case.width), model.encoder.preprocessing
    batch = np.stack([preprocessing(image, size) for image in islice(cycle(images.images), case.batch)])
    with torch.inference_mode():
        images_in = torch.from_numpy(batch)
        features = model.encoder(images_in)
        logits = model.head(*model.features(images_in))
    layers = {layer: values.numpy() for layer, values in features.layers.items()}
    return Features(features.embedding.numpy(), features.feature_map.numpy(), layers), logits.numpy()
