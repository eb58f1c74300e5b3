"""A run's settings: frozen, typed, unknown keys rejected; defaults are the paper's (design.md, "Method, in numbers").

This module imports no torch, so that the command line can read it and show it at once.
"""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

PATCH = 16
"""Pixels along one side of a patch, for every architecture here."""

Arch = Literal["vit_test", "vit_mini", "vit_tiny", "vit_small", "vit_base"]
Precision = Literal["auto", "fp32", "bf16"]

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
BelowOne = Annotated[float, Field(ge=0.0, lt=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
PatchMultiple = Annotated[int, Field(gt=0, multiple_of=PATCH)]


class Section(BaseModel):
    """What every group of settings shares: immutable, and a misspelt key is an error, not a default."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelConfig(Section):
    """Encoder and heads."""

    arch: Arch = "vit_small"
    drop_path: BelowOne = 0.1
    """Highest rate of stochastic depth in the student; the teacher has none."""
    projector_dim: Positive = 768
    """Channels of the maps that the losses compare."""
    norm_before_heads: bool = True
    """Whether the heads see tokens after the encoder's final norm (the ADE20K preset: no)."""


class ViewsConfig(Section):
    """Crops, turns and photometric noise: one photograph in, G + L views out."""

    global_crops: Annotated[int, Field(ge=1)] = 2
    local_crops: Annotated[int, Field(ge=0)] = 8
    global_size: PatchMultiple = 224
    local_size: PatchMultiple = 96
    global_area: tuple[Fraction, Fraction] = (0.3, 1.0)
    local_area: tuple[Fraction, Fraction] = (0.1, 0.3)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    min_overlap: Annotated[float, Field(gt=0.0, le=1.0)] = 0.01
    """Least overlap of a local crop with every global crop, as a share of the photograph."""
    min_global_overlap: Annotated[float, Field(gt=0.0, le=1.0)] = 0.02
    jitter_strength: NonNegative = 1.0
    """Multiplies brightness 0.8, contrast 0.8, saturation 0.8, hue 0.2."""
    jitter_p: Fraction = 0.8
    grey_p: Fraction = 0.2
    blur_p: Fraction = 0.2
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    noise_std: NonNegative = 0.0
    """Gaussian noise, in units of the 0 to 1 range. The paper names it and gives no strength, so it is off."""

    @model_validator(mode="after")
    def _ranges_rise(self) -> "ViewsConfig":
        for name in ("global_area", "local_area", "aspect", "blur_sigma"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"views.{name} must be two positive numbers, the lower one first; got [{low}, {high}]")
        if max(self.min_overlap, self.min_global_overlap) > self.global_area[0]:
            raise ValueError(
                f"no overlap can be larger than the smallest global crop, views.global_area[0] = {self.global_area[0]}"
            )
        if 0.2 * self.jitter_strength > 0.5:
            raise ValueError("views.jitter_strength must be at most 2.5: hue can turn by half a circle and no more")
        return self


class LossConfig(Section):
    """Weights and sizes of the three losses."""

    correspondence: NonNegative = 0.5
    """alpha."""
    rotation: NonNegative = 0.5
    """beta."""
    global_region: Positive = 10
    """RoIAlign grid of an overlap seen by a global student view (cells a side)."""
    local_region: Positive = 4
    matched: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """K of the patch correspondence, as a share of the student's patches: 98 of 196, 18 of 36."""


class OptimConfig(Section):
    """AdamW and the schedules."""

    lr: NonNegative = 5e-4
    """Peak learning rate for 256 photographs a step; scaled with the photographs a step that the run really has."""
    final_lr: NonNegative = 1e-6
    warmup_epochs: NonNegative = 10.0
    weight_decay: NonNegative = 0.04
    final_weight_decay: NonNegative = 0.4
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.999)
    clip: NonNegative = 3.0
    """Largest gradient norm of one parameter; 0 switches clipping off."""
    momentum: Fraction = 0.996
    """Of the teacher's moving average, at the start; ends at `final_momentum`."""
    final_momentum: Fraction = 1.0


class TrainConfig(Section):
    """How long, how many at a time, what is kept."""

    epochs: Annotated[float, Field(gt=0)] = 100.0
    steps: Positive | None = None
    """Optimiser steps in place of epochs."""
    batch_size: Positive = 512
    """Photographs that one device takes at a time; a step sees batch_size x accumulate x devices of them."""
    accumulate: Positive = 1
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    precision: Precision = "auto"
    devices: Positive | Literal["auto"] = "auto"
    seed: Annotated[int, Field(ge=0)] = 0
    log_every: Positive = 10
    checkpoint_every: Positive = 500
    """Steps between checkpoints; one is also written at the end and when the run is interrupted."""
    keep_checkpoints: Positive = 2
    max_broken: Fraction = 0.05
    """Share of unreadable photographs above which the run stops."""
    check_photographs: Annotated[int, Field(ge=0)] = 20_000
    """How many photographs to decode before the first step; of a larger folder, a random sample of this size."""
    max_megapixels: Annotated[float, Field(gt=0, le=178.0)] = 178.0
    """Larger photographs are refused before they are decoded."""


class RunConfig(Section):
    """Everything that a run depends on, bar the photographs themselves."""

    preset: str = "coco"
    data: str = ""
    """The folder, or the text file of paths, that was trained on."""
    model: ModelConfig = ModelConfig()
    views: ViewsConfig = ViewsConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()


PRESETS: dict[str, dict[str, Any]] = {
    # The paper's COCO setting: the defaults above.
    "coco": {},
    "ade20k": {
        "model": {"norm_before_heads": False},
        "views": {"jitter_strength": 0.2},
        "loss": {"rotation": 0.25},
    },
    # ViT-S/16 on a laptop's CPU in minutes: small crops and batches, a quick teacher. It shows that the machinery
    # works on your photographs; it does not make a good encoder.
    "quick": {
        "views": {"global_size": 96, "local_size": 48, "local_crops": 4},
        "optim": {"lr": 2e-3, "warmup_epochs": 1.0, "momentum": 0.98},
        "train": {"epochs": 10.0, "batch_size": 16, "log_every": 1, "checkpoint_every": 50},
    },
}


def load_config(
    preset: str = "coco", file: Path | None = None, overrides: Mapping[str, Any] | None = None
) -> RunConfig:
    """Resolve the settings: preset, then file, then overrides by dotted key; the later wins.

    Args:
        preset: One of `PRESETS`. A file that names another preset wins over this, and an override `preset` over both.
        file: YAML of the shape of `config.yaml` in a run folder; it may hold any part of it.
        overrides: Dotted keys to values, e.g. `{"train.batch_size": 8}`.

    Raises:
        ValueError: An unknown preset or key, or a value out of range; the message names what is allowed.
    """
    from_file = _read_yaml(file) if file else {}
    overrides = overrides or {}
    preset = overrides.get("preset", from_file.get("preset", preset))
    if preset not in list(PRESETS):  # a list: a file may name something that has no hash
        raise ValueError(f"unknown preset {preset!r}: choose one of {', '.join(PRESETS)}")
    settings: dict[str, Any] = {"preset": preset}
    for layer in (PRESETS[preset], from_file, _nest(overrides)):
        settings = _merge(settings, layer)
    try:
        return RunConfig.model_validate(settings)
    except pydantic.ValidationError as error:
        raise ValueError(_explain(error)) from error


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """`["loss.rotation=0.25"]` to `{"loss.rotation": 0.25}`; values are read as YAML.

    Raises:
        ValueError: A pair without `=`, or a value that is not YAML.
    """
    overrides: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"--set takes key=value, for example --set loss.rotation=0.25; got {pair!r}")
        try:
            overrides[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"--set {pair!r}: the value is not readable as YAML") from error
    return overrides


def dump_config(config: RunConfig) -> str:
    """The settings as YAML that `load_config` reads back to an equal object."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read the settings file {file}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not readable as YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"{file} must hold keys and values, as config.yaml in a run folder does")
    return content


def _nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, leaf = key.split(".")
        room = nested
        for parent in parents:
            room = room.setdefault(parent, {})
            if not isinstance(room, dict):
                raise ValueError(f"setting {key!r} lies inside another setting that has a value already")
        room[leaf] = value
    return nested


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(merged.get(key), Mapping) and isinstance(value, Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _known_keys(section: type[BaseModel] = RunConfig, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, field in section.model_fields.items():
        keys.append(prefix + name)
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            keys += _known_keys(inner, f"{prefix}{name}.")
    return keys


_ALTERNATIVES = {"constrained-int", "literal['auto']"}
"""What pydantic puts behind the key of a setting that is a number or "auto"."""


def _explain(error: pydantic.ValidationError) -> str:
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"] if part not in _ALTERNATIVES)
        if problem["type"] == "extra_forbidden":
            near = _nearest(key)
            lines.append(f"unknown setting {key!r}" + (f"; did you mean {' or '.join(near)}?" if near else ""))
        elif problem["type"] == "value_error":  # raised here, and names its key
            lines.append(str(problem["ctx"]["error"]))
        elif key:
            lines.append(f"setting {key}: {problem['msg']} (got {problem['input']!r})")
        else:
            lines.append(str(problem["msg"]))
    return "; ".join(dict.fromkeys(lines))


def _nearest(key: str) -> list[str]:
    known = _known_keys()
    leaf = key.rsplit(".", 1)[-1]
    by_leaf = [k for k in known if k.rsplit(".", 1)[-1] == leaf]
    return by_leaf or difflib.get_close_matches(key, known, n=2, cutoff=0.6)
