"""Scores of the model of a run on its validation images, in all of its processes."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
import torch.distributed

from gtsa_kit.data.image_files import bounded_map
from gtsa_kit.hardware import available_cores
from gtsa_kit.models.detections import Detections
from gtsa_kit.models.outputs import TaskOutput
from gtsa_kit.models.task_model import TaskModel
from gtsa_kit.tasks.detections import to_detections
from gtsa_kit.tasks.frozen import FrozenFeatures
from gtsa_kit.tasks.inputs import image_input, input_policy
from gtsa_kit.tasks.scoring import Scorer, scorer_for
from gtsa_kit.tasks.state import FinetuneCallback, FinetuneState
from gtsa_kit.tasks.task_data import TaskData, open_labeled, validation_images


def evaluate(state: FinetuneState, callback: FinetuneCallback) -> dict[str, Any]:
    """Return the scores of the model in float32 on the validation images, which the processes share."""
    was_training = state.trained.training
    state.model.eval()
    rank, world = state.fabric.global_rank, state.fabric.world_size
    images = validation_images(state.data)
    own = list(range(len(images)))[rank::world]
    scorer = scorer_for(state.model.spec)
    if state.val_features is not None:
        outputs = outputs_of_features(state.model, state.val_features, own)
    else:
        outputs = outputs_of_images(state.model, state.data, [images[i] for i in own])
    add_all(scorer, state.data, [images[i] for i in own], outputs, callback)
    state.trained.train(was_training)
    if world > 1:
        gathered: list[Any] = [None] * world
        torch.distributed.all_gather_object(gathered, scorer)
        scorer = scorer_for(state.model.spec)
        for part in gathered:
            scorer.merge(part)
    return scorer.scores()


def score_model(
    model: TaskModel, data: TaskData, images: Sequence[int], callback: FinetuneCallback | None = None
) -> dict[str, Any]:
    """Return the scores of a model in evaluation mode on labeled images, in this process."""
    scorer = scorer_for(model.spec)
    add_all(scorer, data, images, outputs_of_images(model, data, images), callback or FinetuneCallback())
    return scorer.scores()


def add_all(
    scorer: Scorer, data: TaskData, images: Sequence[int], outputs: Iterator[Any], callback: FinetuneCallback
) -> None:
    """Add images to a scorer, with their labels."""
    for done, (index, own) in enumerate(zip(images, outputs, strict=True), start=1):
        scorer.add(own, data.label(index))
        callback.on_progress("scoring", done, len(images))


def outputs_of_images(model: TaskModel, data: TaskData, images: Sequence[int]) -> Iterator[Any]:
    """Yield the outputs of images, see `to_output`; decoding runs ahead in threads."""
    policy, device = input_policy(model.spec, model.encoder), next(model.parameters()).device

    def read(index: int) -> np.ndarray:
        return image_input(open_labeled(data, index), policy, model.encoder)

    with ThreadPoolExecutor(available_cores()) as pool, torch.no_grad():
        for index, pixels in zip(images, bounded_map(pool, read, images, window=4), strict=True):
            outputs = model(torch.from_numpy(pixels)[None].to(device))
            yield to_output(outputs, pixels.shape[1:], data.size(index))


def outputs_of_features(model: TaskModel, features: FrozenFeatures, items: Sequence[int]) -> Iterator[Any]:
    """Yield the outputs of items of a frozen encoder, as `outputs_of_images` does of images."""
    device = next(model.head.parameters()).device
    with torch.no_grad():
        for item in items:
            inputs = [array.to(device) for array in features.file.read([item])]
            size = features.input_size(item) if features.data.task != "classify" else (0, 0)
            outputs = model.run_head(inputs, size)
            yield to_output(outputs, size, features.data.size(features.items[item].image))


def to_output(outputs: Any, input_size: tuple[int, ...], image_size: tuple[int, int]) -> Any:
    """Return the output for the one image of a batch: logits as an array, or the detections in pixels of the image.

    Args:
        outputs: Output of `TaskModel`.
        input_size: (height, width) of the input.
        image_size: (width, height) of the image.
    """
    if not isinstance(outputs, Detections):
        return outputs[0].float().cpu().numpy()
    arrays = (None if values is None else values[0].cpu().numpy() for values in outputs)
    boxes, scores, labels, masks = arrays
    output = TaskOutput(boxes=boxes, scores=scores, labels=labels, masks=masks)
    return to_detections(output, (input_size[0], input_size[1]), (image_size[1], image_size[0]), 0.0)
