"""What the files beside foreign weights say of them: our own JSON, or a config.json of Hugging Face or of timm."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import pydantic
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from gtsa_kit.models.encoder import INTERPOLATIONS, Architecture, Preprocessing

RUN_FILE: Final = "encoder.safetensors"
"""What a run writes, with an encoder.json beside it."""
HUB_FILES: Final = ("model.safetensors", "pytorch_model.bin")
"""Names that weights have beside a config.json."""
EXPORT_FILE: Final = "gtsa.json"
"""What `gtsa export` writes into a folder for another framework."""

Color = tuple[float, float, float]
Positive = Annotated[int, Field(gt=0)]


@dataclass(frozen=True)
class Sidecar:
    """What is known of weights from elsewhere; None where nothing is said."""

    ours: bool = False
    """Written by a run of gtsa-kit."""
    heads: int | None = None
    norm_eps: float | None = None
    qkv_bias: bool = True
    size: int | None = None
    mean: Color | None = None
    std: Color | None = None
    interpolation: str | None = None
    """In our words."""


class _Lenient(BaseModel):
    """The keys that matter here; others may be there."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class _Ours(_Lenient):
    schema_version: Literal[1] = Field(validation_alias=AliasChoices("schema", "schema_version"))
    architecture: Architecture
    preprocessing: Preprocessing
    files: tuple[str, ...] = ()


class _HubConfig(_Lenient):
    num_attention_heads: Positive | None = None
    layer_norm_eps: Annotated[float, Field(gt=0)] = 1e-12
    hidden_act: str = "gelu"
    qkv_bias: bool = True


class _HubProcessor(_Lenient):
    image_mean: Color | None = None
    image_std: Color | None = None
    resample: int | None = None


class _TimmArgs(_Lenient):
    num_heads: Positive | None = None
    qkv_bias: bool = True


class _TimmPretrained(_Lenient):
    mean: Color | None = None
    std: Color | None = None
    interpolation: str | None = None


class _TimmConfig(_TimmPretrained):
    """Older files have the keys of `pretrained_cfg` at the top."""

    model_args: _TimmArgs = _TimmArgs()
    pretrained_cfg: _TimmPretrained | None = None


# By the names of timm, and by the numbers of PIL that transformers keeps; for others we take our own.
_INTERPOLATIONS: Final[Mapping[str | None, str]] = {name.split(",")[0]: name for name in INTERPOLATIONS}
_RESAMPLES: Final[Mapping[int | None, str]] = {int(number): name for name, number in INTERPOLATIONS.items()}

Model = TypeVar("Model", bound=BaseModel)


def read_sidecar(weights: Path) -> Sidecar:
    """Read what stands beside `weights`; an empty `Sidecar` where nothing does.

    Raises:
        ValueError: A file is there and is not understood, or it describes a network that computes something else.
    """
    run, config, export = (weights.with_name(name) for name in ("encoder.json", "config.json", EXPORT_FILE))
    if weights.name == RUN_FILE and run.exists() and "gtsa_kit" in _read(run):
        return replace(_from_ours(_parse(_Ours, run)), ours=True)
    if weights.name in HUB_FILES and config.exists():
        is_timm = not {"architecture", "pretrained_cfg"}.isdisjoint(_read(config))
        return _from_timm(config) if is_timm else _from_hub(config)
    if export.exists():
        said = _parse(_Ours, export)
        return _from_ours(said) if weights.name in said.files else Sidecar()
    return Sidecar()


def _from_ours(said: _Ours) -> Sidecar:
    about, images = said.architecture, said.preprocessing
    return Sidecar(
        heads=about.heads,
        norm_eps=about.norm_eps,
        size=images.size,
        mean=images.mean,
        std=images.std,
        interpolation=images.interpolation,
    )


def _from_timm(config: Path) -> Sidecar:
    said = _parse(_TimmConfig, config)
    images = said.pretrained_cfg or said
    return Sidecar(
        heads=said.model_args.num_heads,
        qkv_bias=said.model_args.qkv_bias,
        mean=images.mean,
        std=images.std,
        interpolation=_INTERPOLATIONS.get(images.interpolation),
    )


def _from_hub(config: Path) -> Sidecar:
    said = _parse(_HubConfig, config)
    if said.hidden_act != "gelu":
        raise ValueError(f"{config} says hidden_act is {said.hidden_act!r}; encoders here compute gelu only")
    processor = config.with_name("preprocessor_config.json")
    images = _parse(_HubProcessor, processor) if processor.exists() else _HubProcessor()
    return Sidecar(
        heads=said.num_attention_heads,
        norm_eps=said.layer_norm_eps,
        qkv_bias=said.qkv_bias,
        mean=images.image_mean,
        std=images.image_std,
        interpolation=_RESAMPLES.get(images.resample),
    )


def _read(path: Path) -> dict[str, Any]:
    """The JSON object in a file, else `ValueError`."""
    try:
        return pydantic.TypeAdapter(dict[str, Any]).validate_json(path.read_bytes())
    except (OSError, pydantic.ValidationError) as error:
        raise ValueError(f"{path} is not a readable JSON object; copy it again") from error


def _parse(model: type[Model], path: Path) -> Model:
    try:
        return model.model_validate(_read(path))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{path} is not understood: {where}: {first['msg']}") from error
