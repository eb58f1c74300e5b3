"""Building the manifest of an encoder and export options; it needs torch, which reading a manifest does not."""

from gtsa_kit.export.layout import arrange
from gtsa_kit.export.manifest import Manifest
from gtsa_kit.export.manifest_records import AxisRange, TensorSpec
from gtsa_kit.export.spec import CLASS_TOKEN, EMBEDDING, INPUT, ExportOptions
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.weights import describe_encoder


def build_manifest(
    encoder: Encoder, file_format: str, options: ExportOptions, target: dict[str, str], source_sha256: str
) -> Manifest:
    """Build the manifest of an artifact, without a parity report.

    Args:
        encoder: The encoder that is exported.
        file_format: One of `FORMATS`, or "pytorch" for the encoder itself.
        options: Precision, sizes, layers and input type.
        target: Versions and settings of the runtime, by name.
        source_sha256: SHA-256 of the source weights.
    """
    architecture = encoder.architecture
    options = options.in_patches(architecture.patch)
    description = describe_encoder(architecture, encoder.preprocessing)
    ranges = {"batch": options.batch, "height": options.height, "width": options.width}
    axes: dict[str, int | str] = {name: r.min if r.fixed else name for name, r in ranges.items()}
    patch = architecture.patch
    grid = tuple(axes[n] // patch if isinstance(axes[n], int) else f"{n}/{patch}" for n in ("height", "width"))  # type: ignore[operator]
    batch, height, width = axes["batch"], axes["height"], axes["width"]
    vector, feature_map = (batch, architecture.width), (batch, architecture.width, *grid)
    shapes = {name: vector if name in (EMBEDDING, CLASS_TOKEN) else feature_map for name in options.outputs}
    return Manifest(
        format=file_format,
        precision=options.precision,
        target=target,
        source_sha256=source_sha256,
        architecture=description["architecture"],
        dim=architecture.width,
        preprocessing=description["preprocessing"],
        inputs=(
            TensorSpec(
                name=INPUT,
                dtype=options.input,
                shape=arrange(options.layout, batch, height, width),
                layout=options.layout,
            ),
        ),
        outputs=tuple(TensorSpec(name=name, dtype="float32", shape=shape) for name, shape in shapes.items()),
        axes={name: AxisRange(min=r.min, max=r.max, multiple_of=r.step) for name, r in ranges.items() if not r.fixed},
    )
