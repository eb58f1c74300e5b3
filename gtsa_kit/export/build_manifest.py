"""What an encoder and its options mean for the manifest. Apart from it, so that reading a manifest needs no torch."""

from gtsa_kit.config import PATCH
from gtsa_kit.export.manifest import AxisRange, Manifest, TensorSpec
from gtsa_kit.export.spec import EMBEDDING, FEATURE_MAP, INPUT, ExportOptions, layer_output
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.weights import describe_encoder


def build_manifest(
    encoder: Encoder, form: str, options: ExportOptions, target: dict[str, str], source_sha256: str
) -> Manifest:
    """The manifest of an artifact, before its parity is known."""
    about = encoder.architecture
    facts = describe_encoder(about, encoder.preprocessing)
    ranges = {"batch": options.batch, "height": options.height, "width": options.width}
    axes: dict[str, int | str] = {name: r.min if r.fixed else name for name, r in ranges.items()}
    grid = tuple(axes[n] // PATCH if isinstance(axes[n], int) else f"{n}/{PATCH}" for n in ("height", "width"))  # type: ignore[operator]
    shape = (axes["batch"], 3, axes["height"], axes["width"])
    maps = (FEATURE_MAP, *(layer_output(layer) for layer in options.layers))
    return Manifest(
        format=form,
        precision=options.precision,
        target=target,
        source_sha256=source_sha256,
        architecture=facts["architecture"],
        dim=about.width,
        preprocessing=facts["preprocessing"],
        inputs=(
            TensorSpec(
                name=INPUT,
                dtype=options.input,
                shape=(shape[0], *shape[2:], 3) if options.input == "uint8" else shape,
            ),
        ),
        outputs=(
            TensorSpec(name=EMBEDDING, dtype="float32", shape=(axes["batch"], about.width)),
            *(TensorSpec(name=name, dtype="float32", shape=(axes["batch"], about.width, *grid)) for name in maps),
        ),
        axes={
            name: AxisRange(min=r.min, max=r.max, multiple_of=1 if name == "batch" else PATCH)
            for name, r in ranges.items()
            if not r.fixed
        },
    )
