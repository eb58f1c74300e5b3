"""Types of settings, and the base of their sections."""

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

PATCH = 16
"""Patch size in pixels of all encoders that start from random weights."""

Arch = Literal["vit_test", "vit_micro", "vit_mini", "vit_tiny", "vit_small", "vit_base", "vit_large"]
Precision = Literal["auto", "fp32", "bf16"]
Positions = Literal["antialiased", "bicubic", "offset"]
"""Ways to resample position embeddings; see `models.positions.POSITIONS`."""
RunArch = Literal[Arch, "init"]
"""Architecture of a run: init is that of the weights that it starts from."""
MethodName = Literal["gtsa", "dino", "mocov3"]
LoggerName = Literal["tensorboard", "wandb", "mlflow"]

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
BelowOne = Annotated[float, Field(ge=0.0, lt=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
AboveZero = Annotated[float, Field(gt=0.0)]


def _logger_names(value: Any) -> Any:
    """Return the names of loggers in a text such as "tensorboard,wandb" or "none", or in a list, each once."""
    names = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if names == ["none"]:
        return ()
    if not isinstance(names, list | tuple) or any(name not in get_args(LoggerName) for name in names):
        choices = ", ".join(get_args(LoggerName))
        raise ValueError(f"train.logger can't be {value!r}; choose {choices}, several with commas, or none")
    return tuple(dict.fromkeys(names))


Loggers = Annotated[tuple[LoggerName, ...], BeforeValidator(_logger_names)]
"""Loggers of a run, without repetitions."""


class Section(BaseModel):
    """Base of all sections: immutable, and an unknown key is an error. Docstrings of settings are their meanings."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
