"""Training loop; the only module of this package that calls backward and the optimizer's step."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gtsa_kit.config import RunConfig
from gtsa_kit.data.augment import Views
from gtsa_kit.data.batched_augment import DecodedBatch, apply_augmentations_batched
from gtsa_kit.data.entries import Entry
from gtsa_kit.data.samples import seed_step
from gtsa_kit.methods.base import TrainSchedule
from gtsa_kit.methods.collapse_metrics import effective_rank, feature_std
from gtsa_kit.training.checkpoint import save_checkpoint
from gtsa_kit.training.fabric import Fabric
from gtsa_kit.training.optim import (
    clip_grad_norm_per_parameter,
    set_hyperparameters,
)
from gtsa_kit.training.run_logger import RunLogger, StepMetrics, ThroughputMeter
from gtsa_kit.training.state import TrainState


class RunFailedError(RuntimeError):
    """Raised when a run cannot continue; its last checkpoint is kept."""


class TrainerCallback:
    """Training callbacks; the CLI overrides the ones it displays."""

    def on_scan(self, done: int, total: int) -> None:
        """Report that `done` of `total` images were decoded by the check before training."""

    def on_notice(self, message: str) -> None:
        """Report a sentence about the run; train.log holds it too."""

    def on_train_start(self, schedule: TrainSchedule, config: RunConfig, step: int, device: str) -> None:
        """Report that the loop starts after `step` finished steps."""

    def on_step_end(self, step: int, metrics: StepMetrics | None) -> None:
        """Report that `step` steps are finished; `metrics` is None unless the step was logged."""

    def should_stop(self) -> bool:
        """Return whether to save a checkpoint and stop after this step."""
        return False


class StepOutput(NamedTuple):
    """Losses and outputs of one optimizer step."""

    names: tuple[str, ...]
    """Column names of `means`: "loss", then the method's terms."""
    means: Tensor
    """Loss and terms averaged over the micro-steps, (1 + T,)."""
    outputs: Any
    """Method outputs of the last micro-step."""
    views: Views
    """Views of the last micro-step."""


def fit(state: TrainState, logger: RunLogger | None, callback: TrainerCallback) -> bool:
    """Train from `state.step` to the end and write a checkpoint; return False if the callback stopped the run.

    Raises:
        RunFailedError: A loss or weight is not finite, or too many images are unreadable.
    """
    config, schedule, device = state.config, state.schedule, state.fabric.device
    throughput = ThroughputMeter(schedule.batch, state.step)
    saved_step, saved_time, stopping = state.step, time.monotonic(), False
    state.wrapped.train()
    while state.step < schedule.steps and not stopping:
        schedule_values = state.schedules.at(state.step)
        set_hyperparameters(state.optimizer, schedule_values["lr"], schedule_values["weight_decay"])
        output = forward_backward(state, schedule_values)

        number = state.step + 1
        log_due = number in (1, schedule.steps) or number % config.train.log_every == 0
        save_due = number == schedule.steps or number % config.train.checkpoint_every == 0
        # Reading a value makes the host wait for an accelerator; there only logged and saved steps do it.
        if log_due or save_due or device.type == "cpu":
            minutes = (time.monotonic() - saved_time) / 60
            flags = (callback.should_stop(), minutes >= config.train.checkpoint_minutes)
            means, (stopping, minutes_due) = reduce_over_processes(state.fabric, output.means, flags)
            save_due |= stopping or minutes_due
            output = output._replace(means=means)
            record_unreadable(state, logger)
            if not torch.isfinite(means).all():
                raise RunFailedError(_not_finite_message(f"the loss of step {number}", state, saved_step))

        update_weights(state, schedule_values)

        metrics = collect_metrics(state, output, schedule_values, throughput) if log_due else None
        if metrics and logger:
            logger.log_step(metrics)
        if save_due:
            save(state, logger, saved_step)
            saved_step, saved_time = state.step, time.monotonic()
        callback.on_step_end(state.step, metrics)
    return state.step == schedule.steps


def forward_backward(state: TrainState, schedule_values: dict[str, float]) -> StepOutput:
    """Accumulate gradients over the micro-steps of one step: views, student and teacher, loss, backward pass."""
    accumulate = state.config.train.accumulate
    state.model.student.encoder_frozen = state.step < state.schedule.frozen
    means = torch.zeros((), device=state.fabric.device)
    for micro in range(accumulate):
        views = next_views(state)
        seed_step(state.config.train.seed, state.step, micro)
        with state.fabric.no_backward_sync(state.wrapped, enabled=micro < accumulate - 1):
            outputs = state.wrapped(views)
            total, terms = state.model.loss(outputs, views, schedule_values)
            state.fabric.backward(total / accumulate + zero_for_frozen(state))
        means = means + torch.stack([total, *terms.values()]).detach() / accumulate
    return StepOutput(("loss", *terms), means, outputs, views)


def zero_for_frozen(state: TrainState) -> Tensor | float:
    """Return 0, for several processes with a gradient of 0 for each parameter of a frozen encoder.

    Distributed training waits for a gradient of every parameter.
    """
    if state.fabric.world_size == 1 or not state.model.student.encoder_frozen:
        return 0.0
    trained = [parameter for parameter in state.model.student.encoder.parameters() if parameter.requires_grad]
    return 0 * torch.stack([parameter.sum() for parameter in trained]).sum()


def update_weights(state: TrainState, schedule_values: dict[str, float]) -> None:
    """Clip gradients, update the student, then the teacher, and increment `state.step`.

    While the encoder is frozen the teacher stands still, its heads included: heads that are new on both sides would
    otherwise follow each other to a constant output.
    """
    frozen = state.step < state.schedule.frozen
    state.model.after_backward(state.step, state.schedule)
    clip_grad_norm_per_parameter(state.model, state.config.optim.clip_grad_norm)
    state.optimizer.step()
    state.optimizer.zero_grad()
    if not frozen:
        state.model.update_teacher(schedule_values["teacher_momentum"])
        state.initial_share *= schedule_values["teacher_momentum"]
    state.step += 1


def next_views(state: TrainState) -> Views:
    """Return the next micro-batch on the device; with `augment_on=device` its views are made there."""
    batch = next(state.batches)
    if batch is None:
        last = state.batches.unreadable[-1]
        source = state.config.data
        raise RunFailedError(f"no more images can be read; check that {source} exists: {last.name}: {last.reason}")
    if isinstance(batch, DecodedBatch):
        return apply_augmentations_batched(batch, state.config.views, state.fabric.device)
    return batch.to(state.fabric.device)


def reduce_over_processes(fabric: Fabric, means: Tensor, flags: Sequence[bool]) -> tuple[Tensor, list[bool]]:
    """Average losses over processes; each returned flag is true if it is so in any process."""
    if fabric.world_size == 1:
        return means, list(flags)
    reduced: Any = fabric.all_reduce(torch.cat([means, means.new_tensor([*map(float, flags)])]), reduce_op="mean")
    return reduced[: -len(flags)], [bool(flag > 0) for flag in reduced[-len(flags) :]]


def collect_metrics(
    state: TrainState, output: StepOutput, schedule_values: dict[str, float], throughput: ThroughputMeter
) -> StepMetrics:
    """Build the metrics row of the step just finished; collapse metrics use this process's images only."""
    images_per_second, data_wait = throughput.read(state.step, state.batches.waited)
    tokens = output.outputs.tokens.movedim(2, -1).flatten(0, -2)  # (B, G, D, h, w) to (B * G * h * w, D)
    terms = dict(zip(output.names, output.means.tolist(), strict=True))
    terms |= state.model.extra_metrics(output.outputs, output.views)
    return StepMetrics(
        step=state.step,
        epoch=state.step * state.schedule.batch / state.schedule.images,
        loss=terms.pop("loss"),
        terms=terms,
        feature_std=feature_std(tokens),
        effective_rank=effective_rank(tokens),
        schedules=schedule_values,
        images_per_second=images_per_second,
        data_wait=data_wait,
        seconds=throughput.seconds,
    )


def save(state: TrainState, logger: RunLogger | None, saved_step: int) -> None:
    """Write a checkpoint from the first process; raise `RunFailedError` instead if a weight is not finite."""
    finite = torch.stack([parameter.isfinite().all() for parameter in state.model.parameters()]).all()
    if not finite:
        raise RunFailedError(_not_finite_message(f"a weight after step {state.step}", state, saved_step))
    if logger:
        logger.sync()
        content = state.checkpoint_content() | {"optimizer": state.optimizer.state_dict()}
        save_checkpoint(state.run_dir, state.step, content, state.config.train.keep_checkpoints)
        drawn = logger.draw_curves_if_due()
        if state.monitor:
            state.monitor.record(state.step)
            if drawn:
                state.monitor.report()
    state.fabric.barrier()


def record_unreadable(state: TrainState, logger: RunLogger | None) -> None:
    """Add images that any process failed to read since the last call to errors.jsonl, and check the limit."""
    per_process: list[list[Entry]] = [state.batches.unreadable]
    if state.fabric.world_size > 1:
        per_process = [[]] * state.fabric.world_size
        torch.distributed.all_gather_object(per_process, state.batches.unreadable)
    state.batches.unreadable = []
    if not any(per_process):
        return
    count = 0
    if logger:
        count = logger.add_unreadable([entry for entries in per_process for entry in entries])
    check_unreadable_fraction(state.fabric.broadcast(count), state.images.total, state.config, state.run_dir)


def check_unreadable_fraction(unreadable: int, images: int, config: RunConfig, run_dir: Path | None) -> None:
    """Raise `RunFailedError` if more than `train.max_unreadable` of the images are unreadable."""
    if unreadable > config.train.max_unreadable * images:
        listed = f"those in {run_dir / 'errors.jsonl'}" if run_dir else "them"
        raise RunFailedError(
            f"{unreadable} of {images} images are unreadable, more than {config.train.max_unreadable:.0%}; "
            f"repair or remove {listed}, or allow more with --set train.max_unreadable=0.5"
        )


def _not_finite_message(subject: str, state: TrainState, saved_step: int) -> str:
    """Return the message of the error for a loss or weight that is not finite."""
    kept = f"the checkpoint of step {saved_step} is kept" if saved_step else "no checkpoint was written yet"
    return (
        f"{subject} is not finite; {kept} in {state.run_dir / 'checkpoints'}. Try --precision fp32 --resume, "
        f"or a new run with a lower learning rate: --set optim.lr={state.config.optim.lr / 2:g}"
    )
