"""Scores of the model of a run on its validation images, in all of its processes."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
import torch.distributed

from gtsa_kit.data.image_files import bounded_map
from gtsa_kit.hardware import available_cores
from gtsa_kit.models.task_model import TaskModel
from gtsa_kit.tasks.frozen import FrozenFeatures
from gtsa_kit.tasks.inputs import image_input, input_policy
from gtsa_kit.tasks.scoring import Scorer, make_scorer
from gtsa_kit.tasks.state import FinetuneCallback, FinetuneState
from gtsa_kit.tasks.task_data import TaskData, open_labeled, validation_images


def evaluate(state: FinetuneState, callback: FinetuneCallback) -> dict[str, Any]:
    """Return the scores of the model in float32 on the validation images, which the processes share."""
    was_training = state.trained.training
    state.model.eval()
    rank, world = state.fabric.global_rank, state.fabric.world_size
    images = validation_images(state.data)
    own = list(range(len(images)))[rank::world]
    scorer = make_scorer(state.data.task, state.model.spec.classes)
    if state.val_features is not None:
        logits = logits_of_features(state.model, state.val_features, own)
    else:
        logits = logits_of_images(state.model, state.data, [images[i] for i in own])
    add_all(scorer, state.data, [images[i] for i in own], logits, callback)
    state.trained.train(was_training)
    if world > 1:
        gathered: list[Any] = [None] * world
        torch.distributed.all_gather_object(gathered, scorer)
        scorer = make_scorer(state.data.task, state.model.spec.classes)
        for part in gathered:
            scorer.merge(part)
    return scorer.scores()


def score_model(
    model: TaskModel, data: TaskData, images: Sequence[int], callback: FinetuneCallback | None = None
) -> dict[str, Any]:
    """Return the scores of a model in evaluation mode on labeled images, in this process."""
    scorer = make_scorer(data.task, model.spec.classes)
    add_all(scorer, data, images, logits_of_images(model, data, images), callback or FinetuneCallback())
    return scorer.scores()


def add_all(
    scorer: Scorer, data: TaskData, images: Sequence[int], logits: Iterator[np.ndarray], callback: FinetuneCallback
) -> None:
    """Add images to a scorer, with their labels."""
    for done, (index, own) in enumerate(zip(images, logits, strict=True), start=1):
        scorer.add(own, data.label(index))
        callback.on_progress("scoring", done, len(images))


def logits_of_images(model: TaskModel, data: TaskData, images: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield the logits of images, (K, h, w) at the size of the input or (K,); decoding runs ahead in threads."""
    policy, device = input_policy(model.spec, model.encoder), next(model.parameters()).device

    def read(index: int) -> np.ndarray:
        return image_input(open_labeled(data, index), policy, model.encoder)

    with ThreadPoolExecutor(available_cores()) as pool, torch.no_grad():
        for pixels in bounded_map(pool, read, images, window=4):
            yield model(torch.from_numpy(pixels)[None].to(device))[0].float().cpu().numpy()


def logits_of_features(model: TaskModel, features: FrozenFeatures, items: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield the logits of items of a frozen encoder, as `logits_of_images` does of images."""
    device, patch = next(model.head.parameters()).device, model.encoder.architecture.patch
    with torch.no_grad():
        for item in items:
            inputs = [array.to(device) for array in features.file.read([item])]
            size = tuple(patch * side for side in inputs[0].shape[2:])
            logits = model.head(*inputs)
            yield model.resize(logits, size)[0].float().cpu().numpy()  # type: ignore[arg-type]
