"""JSON files beside weights, and the metadata that is read from them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict

from gtsa_kit.files import first_problem
from gtsa_kit.models.architecture import Architecture
from gtsa_kit.models.preprocessing import Preprocessing

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
    activation: str | None = None
    """One of `models.architecture.ACTIVATIONS`."""
    stated_biases: Mapping[str, bool] = field(default_factory=dict)
    """Biases of layers that exist or not, by the file's own names; those of rotary ViTs."""
    rope_theta: float | None = None
    """Longest period of rotary positions."""
    size: int | None = None
    """Side of the square input images, in pixels."""
    own_preprocessing: Preprocessing | None = None
    """Preprocessing of weights of gtsa-kit, which state all of it."""
    mean: ColorStats | None = None
    std: ColorStats | None = None
    interpolation: str | None = None
    """Key of `models.encoder.INTERPOLATIONS`."""
    embedding: str | None = None
    """Kind of embedding, one of `models.architecture.EMBEDDINGS`."""
    embedding_reason: str = ""
    embedding_file: str = ""
    """Name of the file that says how the weights of another tool are pooled."""
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
    return parse_content(model, read_json(path), path)


def parse_content(model: type[Model], content: Mapping[str, Any], path: Path) -> Model:
    """Read the content of a JSON object as a model; see `parse`.

    Raises:
        ValueError: A field is invalid.
    """
    try:
        return model.model_validate({name: value for name, value in content.items() if value is not None})
    except pydantic.ValidationError as error:
        raise ValueError(f"{path} is invalid: {first_problem(error)}") from error
