"""Preprocessing in the preprocessor_config.json of transformers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, NamedTuple

from pydantic import BeforeValidator, Field

from gtsa_kit.models.checkpoint_import.families import COLORS
from gtsa_kit.models.checkpoint_import.sidecar_fields import PROCESSOR
from gtsa_kit.models.checkpoint_import.sidecar_files import ColorStats, Lenient, parse, read_json
from gtsa_kit.models.preprocessing import INTERPOLATIONS

Color = Annotated[ColorStats, BeforeValidator(lambda value: (value,) * 3 if isinstance(value, int | float) else value)]
"""Values of red, green and blue, or one value for all."""
LEVELS: Final = 255
"""Largest value of a color in a file."""
_RESAMPLES: Final[Mapping[int, str]] = {int(number): name for name, number in INTERPOLATIONS.items()}
_SUFFIXES: Final = ("ImageProcessor", "ImageProcessorFast", "ImageProcessorPil", "FeatureExtractor")
_DEFAULTS: Final[Mapping[str, tuple[str, int]]] = {
    "ViT": ("0.5", 2),
    "DeiT": ("0.5", 3),
    "Bit": ("of OpenAI's CLIP", 3),
    "CLIP": ("of OpenAI's CLIP", 3),
    "Siglip": ("0.5", 3),
    "DINOv3ViT": ("of ImageNet", 2),
}
"""Key of `COLORS` and number of the interpolation that are the defaults of a processor, by the start of its name."""
PROCESSORS: Final = {start + end: defaults for start, defaults in _DEFAULTS.items() for end in _SUFFIXES}
"""Defaults of the processors that are known, by their names."""
OWN_PROCESSORS: Final = {
    "dinov2": "BitImageProcessor",
    "dinov2_with_registers": "BitImageProcessor",
    "dinov3_vit": "DINOv3ViTImageProcessorFast",
    "clip_vision_model": "CLIPImageProcessor",
    "siglip_vision_model": "SiglipImageProcessor",
    "deit": "DeiTImageProcessor",
}
"""Processors that transformers takes for a model type where the file names none; for others the one of ViT."""


class _Processor(Lenient):
    do_rescale: bool = True
    rescale_factor: Annotated[float, Field(gt=0)] = 1 / LEVELS
    do_normalize: bool = True
    image_mean: Color | None = None
    image_std: Color | None = None
    resample: int | None = None
    offset: bool = False
    image_processor_type: str | None = None
    feature_extractor_type: str | None = None


class ProcessorMetadata(NamedTuple):
    """Preprocessing that a file states; None if unknown."""

    mean: ColorStats | None = None
    std: ColorStats | None = None
    interpolation: str | None = None
    remarks: tuple[str, ...] = ()


def read_processor(path: Path, model_type: str) -> ProcessorMetadata:
    """Read mean and std for colors of 0 to 1, the interpolation, and remarks.

    transformers computes (color * rescale_factor - mean) / std of colors of 0 to 255; gtsa-kit divides them by 255
    first, so another factor is folded into mean and std.

    Args:
        path: A preprocessor_config.json; without one nothing is known.
        model_type: Model type of the config.json beside it.

    Raises:
        ValueError: The file is invalid, or describes a preprocessing that gtsa-kit does not compute.
    """
    if not path.exists():
        return ProcessorMetadata()
    PROCESSOR.check(read_json(path), path)
    config = parse(_Processor, path)
    own = OWN_PROCESSORS.get(model_type, "ViTImageProcessor")
    kind = config.image_processor_type or config.feature_extractor_type or own
    _check_processor_type(config, kind, path)
    colors, default = PROCESSORS.get(kind, ("0.5", 0))
    resample = default if config.resample is None else config.resample
    if resample not in _RESAMPLES:
        listed = " or ".join(f"{number} ({name.split(',')[0]})" for number, name in _RESAMPLES.items())
        raise ValueError(f"{path} says resample is {resample}; gtsa-kit resizes by {listed}")
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if config.do_normalize:
        mean, std = config.image_mean or COLORS[colors][0], config.image_std or COLORS[colors][1]
    factor = (config.rescale_factor if config.do_rescale else 1.0) * LEVELS
    remarks = [] if config.do_normalize else ["do_normalize is false"]
    if abs(factor - 1) > 1e-6:
        value = f"rescale_factor {config.rescale_factor:.6g}" if config.do_rescale else "do_rescale is false"
        mean, std = _divide(mean, factor), _divide(std, factor)
        remarks.append(f"{value}, folded into mean and std")
    if config.offset:
        remarks.append(f"offset is ignored, as {kind} does")
    return ProcessorMetadata(mean, std, _RESAMPLES[resample], tuple(remarks))


def _divide(color: ColorStats, factor: float) -> ColorStats:
    red, green, blue = color
    return red / factor, green / factor, blue / factor


def _check_processor_type(config: _Processor, kind: str, path: Path) -> None:
    """Raise `ValueError` if a value is left to the defaults of a processor whose defaults gtsa-kit does not know."""
    if config.offset and kind.removeprefix("ViT") not in _SUFFIXES:
        raise ValueError(f"{path} says offset is true for {kind}, which gtsa-kit does not compute; it must be false")
    if kind in PROCESSORS:
        return
    required = ("image_mean", "image_std", "resample") if config.do_normalize else ("resample",)
    if missing := [name for name in required if getattr(config, name) is None]:
        raise ValueError(f"{path} leaves {missing[0]} to the default of {kind}, which gtsa-kit does not know; add it")
