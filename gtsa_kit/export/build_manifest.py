"""Building the manifest of a model and export options; it needs torch, which reading a manifest does not."""

from dataclasses import asdict
from typing import Any

from gtsa_kit.export.layout import arrange
from gtsa_kit.export.manifest import Manifest
from gtsa_kit.export.manifest_records import AxisRange, HeadRecord, LabelRecord, TensorSpec
from gtsa_kit.export.spec import BOXES, CLASS_TOKEN, EMBEDDING, INPUT, LABELS, LOGITS, MASK, MASKS, ExportOptions
from gtsa_kit.models.detector_spec import MASK_SIZE, DetectorSpec
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.task_model import TaskModel, encoder_of
from gtsa_kit.models.weights import describe_encoder, weights_digest


def build_manifest(
    model: Encoder | TaskModel, file_format: str, options: ExportOptions, target: dict[str, str], source_sha256: str
) -> Manifest:
    """Build the manifest of an artifact, without a parity report.

    Args:
        model: The encoder or task model that is exported.
        file_format: One of `FORMATS`, or "pytorch" for the model itself.
        options: Options of `task_graph.options_for` the model.
        target: Versions and settings of the runtime, by name.
        source_sha256: SHA-256 of the source weights.
    """
    encoder = encoder_of(model)
    options = options.in_patches(encoder.architecture.patch)
    description = describe_encoder(encoder.architecture, encoder.preprocessing)
    ranges = {"batch": options.batch, "height": options.height, "width": options.width}
    axes: dict[str, int | str] = {name: r.min if r.fixed else name for name, r in ranges.items()}
    manifest = Manifest(
        format=file_format,
        precision=options.precision,
        target=target,
        source_sha256=source_sha256,
        architecture=description["architecture"],
        dim=encoder.architecture.width,
        preprocessing=description["preprocessing"],
        inputs=(
            TensorSpec(
                name=INPUT,
                dtype=options.dtype,
                shape=arrange(
                    options.layout, axes["batch"], axes["height"], axes["width"], encoder.architecture.channels
                ),
                layout=options.layout,
                samples=options.takes_samples,
            ),
        ),
        outputs=_output_specs(model, options, axes),
        axes={name: AxisRange(min=r.min, max=r.max, multiple_of=r.step) for name, r in ranges.items() if not r.fixed},
    )
    return describe_task(manifest, model, options) if isinstance(model, TaskModel) else manifest


def describe_task(manifest: Manifest, model: TaskModel, options: ExportOptions) -> Manifest:
    """Add the task, the labels and the head to a manifest."""
    spec = model.spec
    head = HeadRecord(
        name=spec.head,
        layers=spec.layers,
        final_norm=spec.final_norm,
        pyramid=spec.pyramid if spec.head == "fpn" else None,
        weights_sha256=weights_digest(dict(model.head.state_dict())),
    )
    labels = tuple(LabelRecord.model_validate(asdict(one)) for one in spec.labels)
    return manifest.model_copy(
        update={
            "kind": "task",
            "task": spec.task,
            "labels": labels,
            "label_masks": spec.label_masks,
            "output": options.output,
            "short_side": spec.short_side,
            "long_side": spec.long_side,
            "crop_from": spec.crop_from,
            "head": head,
            **(_describe_detector(model, spec.detector) if spec.detector else {}),
        }
    )


def _describe_detector(model: TaskModel, spec: DetectorSpec) -> dict[str, Any]:
    """Return the fields of a manifest that say how to read detections."""
    return {
        "box_format": "xyxy, input pixels",
        "mask_format": f"probability, {MASK_SIZE} x {MASK_SIZE} inside the box" if spec.masks else None,
        "score_threshold": spec.score_threshold,
        "max_detections": spec.max_detections,
        "size_multiple": model.encoder.architecture.patch,
    }


def _output_specs(
    model: Encoder | TaskModel, options: ExportOptions, axes: dict[str, int | str]
) -> tuple[TensorSpec, ...]:
    architecture = encoder_of(model).architecture
    batch, height, width = axes["batch"], axes["height"], axes["width"]
    if isinstance(model, TaskModel) and model.spec.detector:
        count = model.spec.detector.max_detections
        shapes = {BOXES: (batch, count, 4), MASKS: (batch, count, MASK_SIZE, MASK_SIZE)}
        dtypes = {LABELS: "int32"}
        return tuple(
            TensorSpec(name=name, dtype=dtypes.get(name, "float32"), shape=shapes.get(name, (batch, count)))
            for name in options.outputs
        )
    if isinstance(model, TaskModel):
        classes = model.spec.classes
        logits = (batch, classes) if model.spec.task == "classify" else (batch, classes, height, width)
        if options.output == MASK:
            return (TensorSpec(name=MASK, dtype="uint8", shape=(batch, height, width)),)
        return (TensorSpec(name=LOGITS, dtype="float32", shape=logits),)
    patch = architecture.patch
    grid = tuple(n // patch if isinstance(n, int) else f"{n}/{patch}" for n in (height, width))
    vector, feature_map = (batch, architecture.width), (batch, architecture.width, *grid)
    shapes = {name: vector if name in (EMBEDDING, CLASS_TOKEN) else feature_map for name in options.outputs}
    return tuple(TensorSpec(name=name, dtype="float32", shape=shape) for name, shape in shapes.items())
