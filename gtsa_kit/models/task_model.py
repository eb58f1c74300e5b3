"""Task models: an encoder with a head, and their files `model.safetensors` and `model.json`."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, get_args

import safetensors
import safetensors.torch
import torch.nn.functional as F
from torch import Tensor, nn

from gtsa_kit.files import write_json
from gtsa_kit.models.architecture import Architecture, check_layers
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.encoder_spec import EncoderSpec
from gtsa_kit.models.heads import ClassHead, FpnHead, LinearHead, Pyramid
from gtsa_kit.models.pyramid import LEVELS
from gtsa_kit.models.weights import describe_encoder, save_weights

Task = Literal["segment", "classify"]
HEADS: Final[Mapping[Task, tuple[str, ...]]] = {"segment": ("fpn", "linear"), "classify": ("linear",)}
"""Heads of each task, the default first."""
MODEL: Final = "model.safetensors"
"""File of a fine-tuned model in its run folder; `model.json` lies beside it."""


@dataclass(frozen=True)
class Label:
    """A class of a task."""

    id: int
    """Value that means the class in the user's data: of pixels in masks (colors as 0xRRGGBB), else the class number."""
    name: str
    color: tuple[int, int, int]
    """Color in pictures, RGB 0 to 255."""


@dataclass(frozen=True)
class TaskSpec:
    """Everything that determines a task model but its encoder and its weights."""

    task: Task
    labels: tuple[Label, ...]
    """Classes by class number."""
    head: str
    """One of `HEADS`."""
    layers: tuple[int, ...] = ()
    """Blocks whose maps the head takes; none for the last feature map, or the embedding for classes."""
    final_norm: bool = True
    """True if these features are after the encoder's final norm, as exported encoders give them."""
    pyramid: Pyramid = "flat"
    """Strides of the maps in the head fpn."""
    channels: int = 128
    """Channels of the head fpn before its classifier."""
    dropout: float = 0.1
    """Rate of dropout before the classifier of the head fpn, 0 to 1."""
    short_side: int | None = None
    """Short side of an input in pixels, where images keep their aspect ratio; None stretches them to the square of the
    preprocessing."""

    def __post_init__(self) -> None:
        """Raise `ValueError` for a task or head that does not exist, or layers that the head can't take."""
        if self.task not in HEADS or self.head not in HEADS[self.task]:
            heads = ", ".join(HEADS.get(self.task, ()))
            raise ValueError(f"no head {self.head!r} for the task {self.task!r}; heads: {heads or 'none'}")
        if self.head == "fpn" and len(self.layers) != LEVELS:
            raise ValueError(f"the head fpn takes the maps of {LEVELS} blocks, got {self.layers}")
        if self.task == "classify" and self.layers:
            raise ValueError(f"a head for classes takes the embedding, got the blocks {self.layers}")
        if self.pyramid not in get_args(Pyramid):
            raise ValueError(f"the pyramid is {' or '.join(get_args(Pyramid))}, got {self.pyramid!r}")

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.labels)

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for model.json, checkpoints and manifests."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "TaskSpec":
        """Build from a dictionary with what `to_dict` returns.

        Raises:
            ValueError: A field is missing or has a wrong value.
        """
        try:
            fields = {name: content[name] for name in cls.__dataclass_fields__}
            labels = tuple(Label(int(x["id"]), str(x["name"]), tuple(x["color"])) for x in fields["labels"])
            return cls(**{**fields, "labels": labels, "layers": tuple(fields["layers"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"the description of the task is damaged: {error!r}; train the model again") from error


class TaskOutput(NamedTuple):
    """Outputs of a task model for a batch of images of H x W pixels: numpy arrays from runners."""

    logits: Any
    """Logits (B, K, H, W) float32 of pixels, (B, K) of classes; None for a graph that gives the mask alone."""
    mask: Any = None
    """Class numbers of pixels, (B, H, W) uint8; None for a graph that gives logits."""


class TaskModel(nn.Module):
    """Encoder and head: normalized images (B, 3, H, W) to logits, (B, K, H, W) of pixels or (B, K) of classes."""

    def __init__(self, encoder: Encoder, spec: TaskSpec) -> None:
        """Put a new head with random weights on an encoder; its attribute `layers` becomes that of the head.

        Raises:
            ValueError: The head takes maps of blocks that the encoder does not have.
        """
        super().__init__()
        check_layers(spec.layers, encoder.architecture)
        self.encoder, self.spec = encoder, spec
        encoder.layers = tuple(sorted(set(spec.layers)))
        width = encoder.architecture.width
        self.head: nn.Module
        if spec.task == "classify":
            self.head = ClassHead(width, spec.classes)
        elif spec.head == "fpn":
            self.head = FpnHead(width, spec.classes, spec.pyramid, spec.channels, spec.dropout)
        else:
            self.head = LinearHead(width, spec.classes, max(1, len(spec.layers)))

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits; height and width of the images are multiples of the patch size."""
        height, width = images.shape[-2:]
        return self.resize(self.head(*self.features(images)), (height, width))

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the inputs of the head: maps (B, D, h, w) in the order of `spec.layers`, or the embedding (B, D)."""
        features = self.encoder(images, final_norm=self.spec.final_norm)
        if self.spec.task == "classify":
            return (features.embedding,)
        return tuple(features.layers[layer] for layer in self.spec.layers) or (features.feature_map,)

    def resize(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Resize logits of pixels (B, K, h, w) to the size of the input; leave those of classes as they are."""
        if self.spec.task == "classify":
            return logits
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def encoder_of(model: Encoder | TaskModel) -> Encoder:
    """Return an encoder, or that of a task model."""
    return model.encoder if isinstance(model, TaskModel) else model


def head_layers(architecture: Architecture, task: Task, head: str) -> tuple[int, ...]:
    """Return the blocks whose maps a head takes by default: for fpn the last one of each quarter of the depth."""
    if task == "classify" or head != "fpn":
        return ()
    return tuple(-(-(i + 1) * architecture.depth // LEVELS) - 1 for i in range(LEVELS))


def is_task_run(path: Path) -> bool:
    """Return whether a path is a run folder with a fine-tuned model, or the file of one."""
    file = path / MODEL if path.is_dir() else path
    return file.name == MODEL and file.exists() and file.with_suffix(".json").exists()


def save_task_model(run_dir: Path, model: TaskModel, summary: Mapping[str, Any]) -> Path:
    """Write model.safetensors and model.json to a run folder; return the path of the first.

    Args:
        run_dir: Run folder.
        model: Model whose weights are saved in float32, under `encoder.` (timm's key names) and `head.`.
        summary: Description of the training, stored in model.json under `training`.
    """
    path = run_dir / MODEL
    save_weights(path, task_weights(model))
    description = describe_encoder(model.encoder.architecture, model.encoder.preprocessing)
    write_json(path.with_suffix(".json"), description | {"task": model.spec.to_dict(), "training": dict(summary)})
    return path


def task_weights(model: TaskModel) -> dict[str, Tensor]:
    """Return the weights of a task model by the keys of model.safetensors."""
    weights = {f"encoder.{name}": value for name, value in model.encoder.vit.state_dict().items()}
    return weights | {f"head.{name}": value for name, value in model.head.state_dict().items()}


def load_task_model(path: Path) -> TaskModel:
    """Open the model of a run folder, or its file model.safetensors, in evaluation mode.

    Raises:
        ValueError: There is no such model, or its files are damaged or do not fit each other.
    """
    file = path / MODEL if path.is_dir() else path
    if not is_task_run(path):
        raise ValueError(f"{path} holds no fine-tuned model ({MODEL} and its .json); make one with: gtsa finetune")
    try:
        content = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
        spec, encoder_spec = TaskSpec.from_dict(content["task"]), EncoderSpec.from_dict(content)
        weights = safetensors.torch.load_file(file)
    except (OSError, KeyError, TypeError, json.JSONDecodeError, safetensors.SafetensorError) as error:
        raise ValueError(f"{file} or its .json is damaged: {error!r}; train the model again") from error
    model = TaskModel(encoder_spec.build(), spec)
    load_task_weights(model, weights, file)
    return model.eval()


def load_task_weights(model: TaskModel, weights: Mapping[str, Tensor], origin: Path) -> None:
    """Load weights by the keys of model.safetensors.

    Raises:
        ValueError: Keys are missing, unexpected or of another shape.
    """
    prefixes = {"encoder.": model.encoder.vit, "head.": model.head}
    if other := [name for name in weights if not name.startswith(tuple(prefixes))]:
        raise ValueError(f"{origin} has the key {other[0]}, which is of neither the encoder nor the head")
    for prefix, module in prefixes.items():
        own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        try:
            module.load_state_dict(own, strict=True)
        except RuntimeError as error:
            raise ValueError(f"{origin} does not fit its .json: {error}") from error
