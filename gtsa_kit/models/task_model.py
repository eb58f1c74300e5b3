"""Task models: an encoder with a head, and their files `model.safetensors` and `model.json`."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch.nn.functional as F
from torch import Tensor, nn

from gtsa_kit.files import write_json
from gtsa_kit.models.architecture import check_layers
from gtsa_kit.models.detections import Detections
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.encoder_spec import EncoderSpec
from gtsa_kit.models.eomt import UPSCALE, EomtHead
from gtsa_kit.models.heads import ClassHead, FpnHead, LinearHead
from gtsa_kit.models.query_detections import query_detections
from gtsa_kit.models.run_folder import MODEL, is_task_run
from gtsa_kit.models.task_spec import TaskSpec
from gtsa_kit.models.weights import describe_encoder, save_weights


class TaskModel(nn.Module):
    """Encoder and head: normalized images (B, 3, H, W) to logits, or to detections.

    Logits are (B, K, H, W) of pixels, or (B, K) of classes.
    """

    def __init__(self, encoder: Encoder, spec: TaskSpec) -> None:
        """Put a new head with random weights on an encoder; its attribute `layers` becomes that of the head.

        Raises:
            ValueError: The head takes maps of blocks that the encoder does not have.
        """
        super().__init__()
        check_layers(spec.layers, encoder.architecture)
        self.encoder, self.spec = encoder, spec
        encoder.layers = tuple(sorted(set(spec.layers)))
        width, patch = encoder.architecture.width, encoder.architecture.patch
        self.head: nn.Module
        if spec.task == "classify":
            self.head = ClassHead(width, spec.classes)
        elif spec.head == "eomt":
            self.head = _move_blocks(encoder, spec)
        elif spec.detector:
            from gtsa_kit.models.detector import DetectorHead  # torchvision takes seconds

            self.head = DetectorHead(width, spec.classes, patch, spec.detector)
        elif spec.head == "fpn":
            self.head = FpnHead(width, spec.classes, spec.pyramid, spec.channels, spec.dropout)
        else:
            self.head = LinearHead(width, spec.classes, max(1, len(spec.layers)))

    def forward(self, images: Tensor) -> Tensor | Detections:
        """Compute logits or detections; height and width of the images are multiples of the patch size."""
        height, width = images.shape[-2:]
        return self.run_head(self.features(images), (height, width))

    def run_head(self, features: Sequence[Tensor], size: tuple[int, int]) -> Tensor | Detections:
        """Compute logits or detections from what `features` returns for images of a size (height, width)."""
        if self.spec.detector and self.spec.head != "eomt":
            detections: Detections = self.head(*features, image_size=size)
            return detections
        outputs = self.head(*features)
        if self.spec.head == "eomt" and self.training:
            return outputs  # type: ignore[no-any-return]
        if self.spec.detector:
            return query_detections(outputs, self.spec.detector, self.encoder.architecture.patch / UPSCALE)
        return self.resize(outputs, size)

    def losses(
        self, images: Tensor, image_sizes: Sequence[tuple[int, int]], targets: Iterable[Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Compute the losses of a detector; see `DetectorHead.losses`."""
        losses: dict[str, Tensor] = self.head.losses(*self.features(images), image_sizes=image_sizes, targets=targets)  # type: ignore[operator]
        return losses

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


def _move_blocks(encoder: Encoder, spec: TaskSpec) -> EomtHead:
    """Build the head eomt; the last blocks of an encoder that still has them become the head's."""
    kept = spec.layers[0] + 1
    head = EomtHead(encoder.architecture, spec.classes, spec.blocks, instances=spec.task == "detect")
    if encoder.architecture.depth == kept + spec.blocks:
        head.take_blocks(encoder.vit.blocks, encoder.vit.norm)
        encoder.keep_blocks(kept)
    return head


def encoder_of(model: Encoder | TaskModel) -> Encoder:
    """Return an encoder, or that of a task model."""
    return model.encoder if isinstance(model, TaskModel) else model


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
