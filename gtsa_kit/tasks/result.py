"""Result of a fine-tuning run: scores.json and predictions.png of the best model."""

from collections.abc import Mapping
from typing import Any

import torch

from gtsa_kit.files import write_json
from gtsa_kit.models.pictures import to_picture
from gtsa_kit.models.task_model import TaskModel, load_task_model
from gtsa_kit.tasks.evaluate import outputs_of_images
from gtsa_kit.tasks.object_pictures import draw_objects
from gtsa_kit.tasks.pictures import Example, draw_classes, draw_masks, save_predictions
from gtsa_kit.tasks.scoring import plain_scores, scorer_for
from gtsa_kit.tasks.state import FinetuneCallback, FinetuneState
from gtsa_kit.tasks.task_data import open_labeled, validation_images

PICTURED = {"segment": 4, "classify": 12, "detect": 4}
"""Number of validation images in predictions.png."""
DRAWN_BY = {"segment": draw_masks, "classify": draw_classes, "detect": draw_objects}
"""Function that draws them."""


def write_result(state: FinetuneState, callback: FinetuneCallback) -> None:
    """Write scores.json and predictions.png of the best model of a run."""
    write_json(state.run_dir / "scores.json", score_report(state))
    images = validation_images(state.data)
    count = min(PICTURED[state.data.task], len(images))
    chosen = [images[i * (len(images) - 1) // max(1, count - 1)] for i in range(count)]
    columns = {"prediction": load_task_model(state.run_dir)}
    if state.config.train.freeze and state.data.task != "detect":  # a new detector finds nothing
        columns = {"before training": _untrained(state), **columns}
    preprocessing = state.model.encoder.preprocessing
    examples = [
        Example(state.data.name(index), to_picture(open_labeled(state.data, index), preprocessing), label, {})
        for index in chosen
        for label in [state.data.label(index)]
    ]
    for name, model in columns.items():
        scorer = scorer_for(model.spec)
        for done, output in enumerate(outputs_of_images(model, state.data, chosen)):
            examples[done].predictions[name] = scorer.add(output, examples[done].truth)
            callback.on_progress("drawing", done + 1, count)
    save_predictions(DRAWN_BY[state.data.task](examples, state.data.labels), state.run_dir / "predictions.png")


def score_report(state: FinetuneState) -> dict[str, Any]:
    """Return the content of scores.json."""
    assert state.best is not None
    spec, report = state.model.spec, state.data.report
    scores: Mapping[str, Any] = plain_scores(state.best["scores"], state.data.labels)
    return {
        "task": spec.task,
        "metric": state.main_score,
        **scores,
        "step": state.best["step"],
        "steps": state.step,
        "planned_steps": state.steps,
        "seed": state.config.train.seed,
        "weights": state.config.model.weights or f"random {state.config.model.random}",
        "head": f"{spec.head}, pyramid {spec.pyramid}" if spec.head == "fpn" else spec.head,
        "frozen": state.config.train.freeze,
        "train_images": report.train.images,
        "val_images": report.val.images,
        "data": state.config.data.source,
        "split": report.split,
    }


def _untrained(state: FinetuneState) -> TaskModel:
    """Return the frozen encoder with the head of step 0."""
    torch.manual_seed(state.config.train.seed)
    return TaskModel(state.model.encoder, state.model.spec).to(state.fabric.device).eval()
