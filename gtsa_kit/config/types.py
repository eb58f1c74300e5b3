"""Types of settings, and the base of their sections."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

PATCH = 16
"""Patch size in pixels of all encoders that start from random weights."""

Arch = Literal["vit_test", "vit_mini", "vit_tiny", "vit_small", "vit_base", "vit_large"]
Precision = Literal["auto", "fp32", "bf16"]
Positions = Literal["antialiased", "bicubic", "offset"]
"""Ways to resample position embeddings; see `models.positions.POSITIONS`."""
RunArch = Literal[Arch, "init"]
"""Architecture of a run: init is that of the weights that it starts from."""
MethodName = Literal["gtsa", "dino", "mocov3"]

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
BelowOne = Annotated[float, Field(ge=0.0, lt=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
AboveZero = Annotated[float, Field(gt=0.0)]


class Section(BaseModel):
    """Base of all sections: immutable, and an unknown key is an error. Docstrings of settings are their meanings."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
