"""Metadata beside weights: gtsa-kit's own JSON files, or a config.json of transformers or timm."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import pydantic
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from gtsa_kit.models.encoder import INTERPOLATIONS, Architecture, Preprocessing

RUN_FILE: Final = "encoder.safetensors"
"""Weights file of a run, with an encoder.json beside it."""
HUB_FILES: Final = ("model.safetensors", "pytorch_model.bin")
"""Names of weights files beside a config.json."""
EXPORT_FILE: Final = "gtsa.json"
"""Report that `gtsa export` writes into a folder for another framework."""

ColorStats = tuple[float, float, float]
"""Mean or standard deviation of red, green and blue, 0 to 1."""
Positive = Annotated[int, Field(gt=0)]


@dataclass(frozen=True)
class CheckpointMetadata:
    """Properties of a checkpoint that its weights do not contain; None if unknown."""

    is_run: bool = False
    """True if a run of gtsa-kit wrote the weights."""
    heads: int | None = None
    """Number of attention heads."""
    norm_eps: float | None = None
    qkv_bias: bool = True
    size: int | None = None
    """Side of the square input images, in pixels."""
    mean: ColorStats | None = None
    std: ColorStats | None = None
    interpolation: str | None = None
    """Key of `models.encoder.INTERPOLATIONS`."""


class _Lenient(BaseModel):
    """Base of models of JSON files: only the fields are read, other keys are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class _OwnConfig(_Lenient):
    schema_version: Literal[1] = Field(validation_alias=AliasChoices("schema", "schema_version"))
    architecture: Architecture
    preprocessing: Preprocessing
    files: tuple[str, ...] = ()


class _TransformersConfig(_Lenient):
    num_attention_heads: Positive | None = None
    layer_norm_eps: Annotated[float, Field(gt=0)] = 1e-12
    hidden_act: str = "gelu"
    qkv_bias: bool = True


class _TransformersProcessor(_Lenient):
    image_mean: ColorStats | None = None
    image_std: ColorStats | None = None
    resample: int | None = None


class _TimmArgs(_Lenient):
    num_heads: Positive | None = None
    qkv_bias: bool = True


class _TimmPretrained(_Lenient):
    mean: ColorStats | None = None
    std: ColorStats | None = None
    interpolation: str | None = None


class _TimmConfig(_TimmPretrained):
    """config.json of timm; older files have the keys of `pretrained_cfg` at the top level."""

    model_args: _TimmArgs = _TimmArgs()
    pretrained_cfg: _TimmPretrained | None = None


# Keys are the names of timm, and the numbers of PIL that transformers stores. Others get the default.
_INTERPOLATIONS: Final[Mapping[str | None, str]] = {name.split(",")[0]: name for name in INTERPOLATIONS}
_RESAMPLES: Final[Mapping[int | None, str]] = {int(number): name for name, number in INTERPOLATIONS.items()}

Model = TypeVar("Model", bound=BaseModel)


def read_metadata(weights: Path) -> CheckpointMetadata:
    """Read the metadata beside a weights file; without any, every field has its default.

    Raises:
        ValueError: A metadata file is invalid, or describes a network that `Encoder` does not compute.
    """
    config, export = (weights.with_name(name) for name in ("config.json", EXPORT_FILE))
    if is_run_file(weights):
        return replace(_from_own(_parse(_OwnConfig, weights.with_name("encoder.json"))), is_run=True)
    if weights.name in HUB_FILES and config.exists():
        is_timm = not {"architecture", "pretrained_cfg"}.isdisjoint(_read_json(config))
        return _from_timm(config) if is_timm else _from_transformers(config)
    if export.exists():
        report = _parse(_OwnConfig, export)
        return _from_own(report) if weights.name in report.files else CheckpointMetadata()
    return CheckpointMetadata()


def is_run_file(weights: Path) -> bool:
    """Return whether a file is the encoder of a run, with the encoder.json that gtsa-kit wrote beside it.

    Raises:
        ValueError: The encoder.json is not readable.
    """
    run = weights.with_name("encoder.json")
    return weights.name == RUN_FILE and run.exists() and "gtsa_kit" in _read_json(run)


def _from_own(config: _OwnConfig) -> CheckpointMetadata:
    architecture, preprocessing = config.architecture, config.preprocessing
    return CheckpointMetadata(
        heads=architecture.heads,
        norm_eps=architecture.norm_eps,
        size=preprocessing.size,
        mean=preprocessing.mean,
        std=preprocessing.std,
        interpolation=preprocessing.interpolation,
    )


def _from_timm(path: Path) -> CheckpointMetadata:
    config = _parse(_TimmConfig, path)
    preprocessing = config.pretrained_cfg or config
    return CheckpointMetadata(
        heads=config.model_args.num_heads,
        qkv_bias=config.model_args.qkv_bias,
        mean=preprocessing.mean,
        std=preprocessing.std,
        interpolation=_INTERPOLATIONS.get(preprocessing.interpolation),
    )


def _from_transformers(path: Path) -> CheckpointMetadata:
    config = _parse(_TransformersConfig, path)
    if config.hidden_act != "gelu":
        raise ValueError(f"{path} says hidden_act is {config.hidden_act!r}; gtsa-kit's encoders compute gelu only")
    processor = path.with_name("preprocessor_config.json")
    preprocessing = _parse(_TransformersProcessor, processor) if processor.exists() else _TransformersProcessor()
    return CheckpointMetadata(
        heads=config.num_attention_heads,
        norm_eps=config.layer_norm_eps,
        qkv_bias=config.qkv_bias,
        mean=preprocessing.image_mean,
        std=preprocessing.image_std,
        interpolation=_RESAMPLES.get(preprocessing.resample),
    )


def _read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: The file cannot be read or is not a JSON object.
    """
    try:
        return pydantic.TypeAdapter(dict[str, Any]).validate_json(path.read_bytes())
    except (OSError, pydantic.ValidationError) as error:
        raise ValueError(f"{path} is not a readable JSON object; copy it again") from error


def _parse(model: type[Model], path: Path) -> Model:
    try:
        return model.model_validate(_read_json(path))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{path} is invalid: {key}: {first['msg']}") from error
