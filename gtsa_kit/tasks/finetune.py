"""Loop of fine-tuning, for all tasks; the only module of this package that calls backward and the optimizer's step."""

import time
from typing import Any

import torch
from torch import Tensor

from gtsa_kit.config.finetune import resolved
from gtsa_kit.data.detect_augment import DetectBatch
from gtsa_kit.data.entries import Entry
from gtsa_kit.data.samples import seed_step
from gtsa_kit.models.encoder import normalize
from gtsa_kit.models.eomt import UPSCALE, EomtHead
from gtsa_kit.models.task_model import save_task_model
from gtsa_kit.tasks.evaluate import evaluate
from gtsa_kit.tasks.frozen import FeatureBatch
from gtsa_kit.tasks.objective import Targets, class_loss, pixel_loss
from gtsa_kit.tasks.query_loss import class_targets, instance_targets, query_loss
from gtsa_kit.tasks.scoring import plain_scores
from gtsa_kit.tasks.state import SCORE_NAMES, FinetuneCallback, FinetuneMetrics, FinetuneState
from gtsa_kit.training.checkpoint import save_checkpoint
from gtsa_kit.training.optim import clip_grad_norm_per_parameter, set_hyperparameters
from gtsa_kit.training.run_logger import RunLogger, ThroughputMeter
from gtsa_kit.training.trainer import RunFailedError, reduce_over_processes


def fit(state: FinetuneState, logger: RunLogger | None, callback: FinetuneCallback) -> bool:
    """Train from `state.step` to the end; return False if the callback stopped the run, after a checkpoint.

    Raises:
        RunFailedError: A loss or weight is not finite, or no image can be read.
    """
    train = state.config.train
    score_every = resolved(train.eval_every)
    throughput = ThroughputMeter(state.batch, state.step)
    saved_time, stopping = time.monotonic(), False
    state.wrapped.train()
    while state.step < state.steps and not stopping:
        lr = float(state.lr[state.step])
        set_hyperparameters(state.optimizer, lr, state.config.optim.weight_decay)
        losses = forward_backward(state)

        number = state.step + 1
        score_due = number == state.steps or number % score_every == 0
        log_due = score_due or number == 1 or number % train.log_every == 0
        save_due = score_due or number % train.checkpoint_every == 0
        # Reading a value makes the host wait for an accelerator; there only logged and saved steps do it.
        if log_due or save_due or state.fabric.device.type == "cpu":
            minutes = (time.monotonic() - saved_time) / 60
            flags = (callback.should_stop(), minutes >= train.checkpoint_minutes)
            values, (stopping, minutes_due) = reduce_over_processes(
                state.fabric, torch.stack([*losses.values()]), flags
            )
            losses = dict(zip(losses, values, strict=True))
            save_due |= stopping or minutes_due
            record_unreadable(state, logger)
            if not torch.isfinite(losses["loss"]):
                raise RunFailedError(_not_finite_message(f"the loss of step {number}", state))

        update_weights(state)

        scores = measure(state, callback) if score_due else {}
        metrics = collect_metrics(state, losses, lr, throughput, scores) if log_due else None
        if metrics and logger:
            logger.log_step(metrics)
        if save_due:
            save(state, logger)
            saved_time = time.monotonic()
        callback.on_step_end(state.step, metrics)
    return state.step == state.steps


def forward_backward(state: FinetuneState) -> dict[str, Tensor]:
    """Accumulate gradients over the micro-steps of one step; return the mean loss, and its parts by name."""
    accumulate = state.config.train.accumulate
    means: dict[str, Tensor] = {}
    for micro in range(accumulate):
        inputs, labels, sizes = next_batch(state, micro)
        seed_step(state.config.train.seed, state.step, micro)
        with state.fabric.no_backward_sync(state.wrapped, enabled=micro < accumulate - 1):
            losses = compute_losses(state, inputs, labels, sizes)
            state.fabric.backward(losses["loss"] / accumulate)
        for name, loss in losses.items():
            means[name] = means.get(name, 0) + loss.detach() / accumulate
    return means


def compute_losses(
    state: FinetuneState, inputs: tuple[Tensor, ...], labels: Any, sizes: list[tuple[int, int]]
) -> dict[str, Tensor]:
    """Return the loss of a batch and, for a detector, its parts; logits of pixels are resized to the labels."""
    if isinstance(state.model.head, EomtHead):
        return query_losses(state, inputs, labels)
    if state.data.task == "detect":
        with state.fabric.autocast():  # with one process, Fabric does so for `forward` alone
            parts: dict[str, Tensor] = state.wrapped.losses(*inputs, image_sizes=sizes, targets=Targets(labels))
        return {"loss": torch.stack([*parts.values()]).sum(), **parts}
    logits = state.wrapped(*inputs)
    if state.data.task == "classify":
        return {"loss": class_loss(logits, labels, state.class_weights, state.config.augment.smoothing)}
    height, width = labels.shape[-2:]
    return {"loss": pixel_loss(state.model.resize(logits, (height, width)), labels, state.class_weights)}


def query_losses(state: FinetuneState, inputs: tuple[Tensor, ...], labels: Any) -> dict[str, Tensor]:
    """Return the loss of the head eomt and, for instances, its parts."""
    assert isinstance(state.model.head, EomtHead)
    state.model.head.anneal(state.step / state.steps)
    predictions = state.wrapped(*inputs)
    if state.data.task != "detect":
        parts = query_loss(predictions, class_targets(labels), state.query_criterion)
        return {"loss": torch.stack([*parts.values()]).sum()}
    factor = state.model.encoder.architecture.patch / UPSCALE
    size = [round(side * factor) for side in predictions[0].masks.shape[-2:]]
    parts = query_loss(predictions, instance_targets(labels, size), state.query_criterion)
    return {"loss": torch.stack([*parts.values()]).sum(), **parts}


def next_batch(state: FinetuneState, micro: int) -> tuple[tuple[Tensor, ...], Any, list[tuple[int, int]]]:
    """Return inputs, labels and, for a detector, sizes of the images of the next micro-batch, on the device.

    Inputs are features, or normalized images.
    """
    batch = next(state.batches)
    if batch is None:
        last = state.batches.unreadable[-1]
        source = state.config.data.source
        raise RunFailedError(f"no more images can be read; check that {source} exists: {last.name}: {last.reason}")
    if isinstance(batch, FeatureBatch):
        return *to_device((batch.inputs, batch.labels), state.fabric.device), batch.sizes
    if isinstance(batch, DetectBatch):
        images, labels = to_device((batch.images, batch.targets), state.fabric.device)
        return (normalize(images, state.model.encoder.preprocessing),), labels, list(map(tuple, batch.sizes.tolist()))
    images, labels = to_device((batch.images, batch.labels), state.fabric.device)
    images = normalize(images, state.model.encoder.preprocessing)
    if state.mixer is not None:
        images, labels = state.mixer(images, labels, state.step, micro, state.fabric.global_rank)
    return (images,), labels, []


def to_device(value: Any, device: torch.device) -> Any:
    """Return tensors, and tuples, lists and dictionaries of them, on a device."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {name: to_device(item, device) for name, item in value.items()}
    return type(value)(to_device(item, device) for item in value)


def update_weights(state: FinetuneState) -> None:
    """Clip gradients, update the weights, and increment `state.step`."""
    clip_grad_norm_per_parameter(state.trained, state.config.optim.clip_grad_norm)
    state.optimizer.step()
    state.optimizer.zero_grad()
    state.step += 1


def measure(state: FinetuneState, callback: FinetuneCallback) -> dict[str, float]:
    """Score the model on the validation images; keep it in the run folder if it is the best one so far."""
    scores = evaluate(state, callback)
    best = state.best["scores"][state.main_score] if state.best else None
    score = scores[state.main_score]
    if best is None or score >= best or best != best:  # NaN if all masks are void; of equal ones the later counts
        state.best = {"step": state.step, "scores": scores}
        if state.fabric.is_global_zero:
            save_task_model(state.run_dir, state.model, summary(state))
    return {name: value for name, value in scores.items() if name in SCORE_NAMES}


def summary(state: FinetuneState) -> dict[str, Any]:
    """Return the description of the training for model.json; an interrupted run has the same one."""
    assert state.best is not None
    return {
        "weights": "best",
        "step": state.best["step"],
        "steps": state.steps,
        "extensions": [list(extension) for extension in state.extensions],
        "images": state.images,
        "batch": state.batch,
        "frozen": state.config.train.freeze,
        "encoder_sha256": state.start_digest,
        "scores": plain_scores(state.best["scores"], state.data.labels),
        "settings": state.config.model_dump(mode="json"),
    }


def collect_metrics(
    state: FinetuneState, losses: dict[str, Tensor], lr: float, throughput: ThroughputMeter, scores: dict[str, float]
) -> FinetuneMetrics:
    """Build the metrics row of the step just finished."""
    images_per_second, data_wait = throughput.read(state.step, state.batches.waited)
    epoch = state.step * state.batch / state.images
    parts = {name: float(loss) for name, loss in losses.items()}
    rates = lr, images_per_second, data_wait, throughput.seconds
    return FinetuneMetrics(state.step, epoch, parts.pop("loss"), *rates, scores, parts)


def save(state: FinetuneState, logger: RunLogger | None) -> None:
    """Write a checkpoint from the first process; raise `RunFailedError` instead if a weight is not finite."""
    if not torch.stack([parameter.isfinite().all() for parameter in state.trained.parameters()]).all():
        raise RunFailedError(_not_finite_message(f"a weight after step {state.step}", state))
    if logger:
        logger.sync()
        save_checkpoint(state.run_dir, state.step, state.checkpoint_content(), state.config.train.keep_checkpoints)
        logger.draw_curves_if_due()


def record_unreadable(state: FinetuneState, logger: RunLogger | None) -> None:
    """Move the newly unreadable images to errors.jsonl."""
    unreadable: list[Entry] = state.batches.unreadable
    if unreadable and logger:
        logger.add_unreadable(unreadable)
    unreadable.clear()


def _not_finite_message(subject: str, state: FinetuneState) -> str:
    """Return the message of the error for a loss or weight that is not finite."""
    return (
        f"{subject} is not finite; checkpoints in {state.run_dir / 'checkpoints'} are kept. Try --precision fp32 "
        f"--resume, or a new run with a lower learning rate: --set optim.lr={state.lr.max() / 2:g}"
    )
