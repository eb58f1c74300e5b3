"""Loop of fine-tuning, for all tasks; the only module of this package that calls backward and the optimizer's step."""

import time
from typing import Any

import torch
from torch import Tensor

from gtsa_kit.config.finetune import resolved
from gtsa_kit.data.entries import Entry
from gtsa_kit.data.samples import seed_step
from gtsa_kit.models.encoder import normalize
from gtsa_kit.models.task_model import save_task_model
from gtsa_kit.tasks.evaluate import evaluate
from gtsa_kit.tasks.frozen import FeatureBatch
from gtsa_kit.tasks.objective import class_loss, pixel_loss
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
        loss = forward_backward(state)

        number = state.step + 1
        score_due = number == state.steps or number % score_every == 0
        log_due = score_due or number == 1 or number % train.log_every == 0
        save_due = score_due or number % train.checkpoint_every == 0
        # Reading a value makes the host wait for an accelerator; there only logged and saved steps do it.
        if log_due or save_due or state.fabric.device.type == "cpu":
            minutes = (time.monotonic() - saved_time) / 60
            flags = (callback.should_stop(), minutes >= train.checkpoint_minutes)
            loss, (stopping, minutes_due) = reduce_over_processes(state.fabric, loss.reshape(1), flags)
            save_due |= stopping or minutes_due
            record_unreadable(state, logger)
            if not torch.isfinite(loss).all():
                raise RunFailedError(_not_finite_message(f"the loss of step {number}", state))

        update_weights(state)

        scores = measure(state, callback) if score_due else {}
        metrics = collect_metrics(state, float(loss), lr, throughput, scores) if log_due else None
        if metrics and logger:
            logger.log_step(metrics)
        if save_due:
            save(state, logger)
            saved_time = time.monotonic()
        callback.on_step_end(state.step, metrics)
    return state.step == state.steps


def forward_backward(state: FinetuneState) -> Tensor:
    """Accumulate gradients over the micro-steps of one step; return the mean loss."""
    accumulate = state.config.train.accumulate
    mean = torch.zeros((), device=state.fabric.device)
    for micro in range(accumulate):
        inputs, labels = next_batch(state, micro)
        seed_step(state.config.train.seed, state.step, micro)
        with state.fabric.no_backward_sync(state.wrapped, enabled=micro < accumulate - 1):
            loss = compute_loss(state, state.wrapped(*inputs), labels)
            state.fabric.backward(loss / accumulate)
        mean = mean + loss.detach() / accumulate
    return mean


def compute_loss(state: FinetuneState, logits: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of a batch; logits of pixels are resized to the labels."""
    if state.data.task == "classify":
        return class_loss(logits, labels, state.class_weights, state.config.augment.smoothing)
    height, width = labels.shape[-2:]
    return pixel_loss(state.model.resize(logits, (height, width)), labels, state.class_weights)


def next_batch(state: FinetuneState, micro: int) -> tuple[tuple[Tensor, ...], Tensor]:
    """Return inputs and labels of the next micro-batch on the device: features, or normalized images."""
    batch = next(state.batches)
    if batch is None:
        last = state.batches.unreadable[-1]
        source = state.config.data.source
        raise RunFailedError(f"no more images can be read; check that {source} exists: {last.name}: {last.reason}")
    device = state.fabric.device
    labels = batch.labels.to(device, non_blocking=True)
    if isinstance(batch, FeatureBatch):
        return tuple(array.to(device, non_blocking=True) for array in batch.inputs), labels
    images = normalize(batch.images.to(device, non_blocking=True), state.model.encoder.preprocessing)
    if state.mixer is not None:
        images, labels = state.mixer(images, labels, state.step, micro, state.fabric.global_rank)
    return (images,), labels


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
        "images": state.images,
        "batch": state.batch,
        "frozen": state.config.train.freeze,
        "encoder_sha256": state.start_digest,
        "scores": plain_scores(state.best["scores"], state.data.labels),
        "settings": state.config.model_dump(mode="json"),
    }


def collect_metrics(
    state: FinetuneState, loss: float, lr: float, throughput: ThroughputMeter, scores: dict[str, float]
) -> FinetuneMetrics:
    """Build the metrics row of the step just finished."""
    images_per_second, data_wait = throughput.read(state.step, state.batches.waited)
    epoch = state.step * state.batch / state.images
    return FinetuneMetrics(state.step, epoch, loss, lr, images_per_second, data_wait, throughput.seconds, scores)


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
