"""JSON files beside weights, and the metadata that is read from them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict

from gtsa_kit.files import first_problem
from gtsa_kit.models.architecture import Architecture

ColorStats = tuple[float, float, float]
"""Mean or standard deviation of red, green and blue, for colors of 0 to 1."""


@dataclass(frozen=True)
class CheckpointMetadata:
    """Properties of a checkpoint that its weights do not contain; None if unknown."""

    is_run: bool = False
    """True if a run of gtsa-kit wrote the weights."""
    is_recorded: bool = False
    """True if gtsa-kit wrote the architecture beside the weights or into their file, so that it is used as it is."""
    heads: int | None = None
    """Number of attention heads."""
    norm_eps: float | None = None
    architecture: Architecture | None = None
    """Architecture, if the file names it; the size of the grid is that of the weights."""
    grid: tuple[int, int] | None = None
    """Rows and columns of position embeddings."""
    resampling: str | None = None
    """Way to resample position embeddings, one of `models.positions.RESAMPLINGS`."""
    qkv_bias: bool = True
    activation: str = "gelu"
    """One of `models.architecture.ACTIVATIONS`."""
    size: int | None = None
    """Side of the square input images, in pixels."""
    mean: ColorStats | None = None
    std: ColorStats | None = None
    interpolation: str | None = None
    """Key of `models.encoder.INTERPOLATIONS`."""
    sizes: Mapping[str, Any] = field(default_factory=dict)
    """Sizes that the file states and that the weights determine, by the file's own names."""
    assumed: tuple[str, ...] = ()
    """Values that the file leaves open."""
    remarks: tuple[str, ...] = ()
    """Unusual values of the file that are used."""


class Lenient(BaseModel):
    """Base of models of JSON files: only the fields are read; `sidecar_fields` checks the other keys."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


Model = TypeVar("Model", bound=BaseModel)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: The file cannot be read or is not a JSON object.
    """
    try:
        return pydantic.TypeAdapter(dict[str, Any]).validate_json(path.read_bytes())
    except (OSError, pydantic.ValidationError) as error:
        raise ValueError(f"{path} is not a readable JSON object; copy it again") from error


def parse(model: type[Model], path: Path) -> Model:
    """Read a JSON object as a model.

    Raises:
        ValueError: The file is not a JSON object, or a field is invalid.
    """
    content = {name: value for name, value in read_json(path).items() if value is not None}
    try:
        return model.model_validate(content)
    except pydantic.ValidationError as error:
        raise ValueError(f"{path} is invalid: {first_problem(error)}") from error
