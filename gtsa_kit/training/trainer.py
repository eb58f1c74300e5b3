"""The loop: reads as the paper's method section. The only place that calls backward and step."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gtsa_kit.config import RunConfig
from gtsa_kit.data.augment import Views
from gtsa_kit.data.batched_augment import DecodedBatch, apply_augmentations_batched
from gtsa_kit.data.image_files import ImageList
from gtsa_kit.data.image_io import ImageError
from gtsa_kit.data.multicrop import (
    DistributedBatchSampler,
    MultiCropDataset,
    TimedBatches,
    make_batches,
    resolve_workers,
    seed_step,
)
from gtsa_kit.hardware import should_compile, should_use_fused_attention
from gtsa_kit.methods.base import Method, Plan
from gtsa_kit.methods.collapse_metrics import effective_rank, feature_std
from gtsa_kit.methods.registry import make_method
from gtsa_kit.training.checkpoint import save_checkpoint
from gtsa_kit.training.fabric import Fabric
from gtsa_kit.training.optim import clip_grad_norm_per_parameter, make_optimizer, make_schedules, set_hyperparameters
from gtsa_kit.training.run_logger import Meter, RunLog, StepMetrics


class RunFailedError(RuntimeError):
    """The run can't go on; what it had learnt up to its last checkpoint is kept."""


class TrainerCallback:
    """Whoever looks on; the command line overrides what it wants to show."""

    def checking(self, done: int, total: int) -> None:
        """DecodedBatch are being decoded for the first time."""

    def starting(self, plan: Plan, config: RunConfig, step: int, device: str) -> None:
        """The loop begins at `step`."""

    def stepped(self, step: int, metrics: StepMetrics | None) -> None:
        """`step` steps are done; metrics only when a row was logged."""

    def stop(self) -> bool:
        """Whether to save and end after this step."""
        return False


@dataclass
class Job:
    """One run on its way: what the loop reads and what it changes."""

    config: RunConfig
    run: Path
    found: ImageList
    plan: Plan
    fabric: Fabric
    model: Method
    """As built: what is saved, and what the teacher's update works on."""
    wrapped: Any
    """The same, as Fabric runs it on its device and in its precision."""
    optimizer: Any
    step: int
    """Steps done."""


def make_job(config: RunConfig, run: Path, found: ImageList, fabric: Fabric, state: dict[str, Any] | None) -> Job:
    """Build model and optimizer, from a checkpoint's state where there is one.

    Raises:
        ValueError: The checkpoint belongs to a run with other steps or another number of images a step.
    """
    plan = Plan.make(config, len(found.paths), fabric.world_size)
    torch.manual_seed(config.train.seed)
    model = make_method(config)
    if state is not None:
        was, now = state["plan"], {"batch": plan.batch, "steps": plan.steps, "images": plan.images}
        if was != now:
            raise ValueError(f"the run to resume had {was}, these settings give {now}; they must be the same")
        model.load_state_dict(state["model"])
    if fabric.world_size > 1 and fabric.device.type == "cuda":  # torch has it for CUDA alone
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    model.student.encoder.activation_checkpointing = config.train.activation_checkpointing
    if not should_use_fused_attention(fabric.device, config.train.precision == "bf16"):
        model.use_unfused_attention()
    if config.train.compile is True or (config.train.compile == "auto" and should_compile(fabric.device)):
        model.compile_branches()
    optimizer = make_optimizer(model, config.optim)
    wrapped, wrapped_optimizer = fabric.setup(model, optimizer)
    if state is not None:
        optimizer.load_state_dict(state["optimizer"])
    return Job(config, run, found, plan, fabric, model, wrapped, wrapped_optimizer, state["step"] if state else 0)


def fit(job: Job, log: RunLog | None, watcher: TrainerCallback) -> bool:
    """Train from `job.step` to the end; False if the watcher asked to stop before. A checkpoint is written either way.

    Raises:
        RunFailedError: A loss or weight that is not finite, or too many broken images.
    """
    config, plan, fabric = job.config, job.plan, job.fabric
    schedules = make_schedules(config.optim, plan.steps, plan.warmup, plan.batch, job.model.schedules(plan))
    batches = open_batches(job)
    meter = Meter(plan.batch, job.step)
    saved, stopping = job.step, False
    job.wrapped.train()
    while job.step < plan.steps and not stopping:
        step = job.step
        now = schedules.at(step)
        set_hyperparameters(job.optimizer, now["lr"], now["weight_decay"])
        outcome = forward_backward(job, batches, now)

        last = step + 1 == plan.steps
        log_due = last or step == 0 or (step + 1) % config.train.log_every == 0
        save_due = last or (step + 1) % config.train.checkpoint_every == 0
        # Looking at a number makes the host wait for an accelerator, so that is done only when one is due.
        if log_due or save_due or fabric.device.type == "cpu":
            means, stopping = reduce_over_processes(fabric, outcome.means, watcher.stop())
            outcome = outcome._replace(means=means)
            record_broken(job, log, batches)
            if not torch.isfinite(means).all():
                raise RunFailedError(_not_finite(f"the loss of step {step + 1}", job, saved))

        job.model.after_backward(step, plan)
        clip_grad_norm_per_parameter(job.model, config.optim.clip_grad_norm)
        job.optimizer.step()
        job.optimizer.zero_grad()
        job.model.update_teacher(now["momentum"])
        job.step += 1

        metrics = None
        if log_due:
            rate, wait = meter.read(job.step, batches.waited)
            metrics = measure(job, outcome, now, rate, wait, meter.seconds)
            if log:
                log.step(metrics)
        if save_due or stopping:
            save(job, log, saved)
            saved = job.step
        watcher.stepped(job.step, metrics)
    return job.step == plan.steps


class StepOutput(NamedTuple):
    """Of one step."""

    names: tuple[str, ...]
    """"loss", and the method's terms."""
    means: Tensor
    """(1 + T,): each of them, over the micro-steps."""
    outputs: Any
    """Of the method, for the last micro-step."""
    views: Views
    """That they were made of."""


def forward_backward(job: Job, batches: TimedBatches, now: dict[str, float]) -> StepOutput:
    """Views through student and teacher, the loss, gradients; over the micro-steps of a step."""
    config, accumulate = job.config, job.config.train.accumulate
    means = torch.zeros((), device=job.fabric.device)
    for micro in range(accumulate):
        views = next_views(job, batches)
        seed_step(config.train.seed, job.step, micro)
        with job.fabric.no_backward_sync(job.wrapped, enabled=micro < accumulate - 1):
            outputs = job.wrapped(views)
            total, terms = job.model.loss(outputs, views, now)
            job.fabric.backward(total / accumulate)
        means = means + torch.stack([total, *terms.values()]).detach() / accumulate
    return StepOutput(("loss", *terms), means, outputs, views)


def next_views(job: Job, batches: TimedBatches) -> Views:
    """The next micro-batch on the device, where its views may still have to be made."""
    batch = next(batches)
    if batch is None:
        raise RunFailedError(f"no image can be read any more; is the folder there? {batches.broken[-1]}")
    if isinstance(batch, DecodedBatch):
        return apply_augmentations_batched(batch, job.config.views, job.fabric.device)
    return batch.to(job.fabric.device)


def reduce_over_processes(fabric: Fabric, means: Tensor, stop: bool) -> tuple[Tensor, bool]:
    """Mean of the losses over processes, and whether any of them was asked to stop (so that all do, together)."""
    if fabric.world_size == 1:
        return means, stop
    both: Any = fabric.all_reduce(torch.cat([means, means.new_tensor([float(stop)])]), reduce_op="mean")
    return both[:-1], bool(both[-1] > 0)


def measure(
    job: Job, outcome: StepOutput, now: dict[str, float], rate: float, wait: float, seconds: float
) -> StepMetrics:
    """A metrics row of the step just done; the collapse signals are those of this process's images."""
    tokens = outcome.outputs.tokens.movedim(2, -1).flatten(0, -2)
    terms = dict(zip(outcome.names, outcome.means.tolist(), strict=True))
    terms |= job.model.signals(outcome.outputs, outcome.views)
    return StepMetrics(
        step=job.step,
        epoch=job.step * job.plan.batch / job.plan.images,
        loss=terms.pop("loss"),
        terms=terms,
        feature_std=feature_std(tokens),
        effective_rank=effective_rank(tokens),
        schedules=now,
        images_per_second=rate,
        data_wait=wait,
        seconds=seconds,
    )


def save(job: Job, log: RunLog | None, previous: int) -> None:
    """Write a checkpoint from the first process, unless a weight is not finite; the curves follow."""
    finite = torch.stack([parameter.isfinite().all() for parameter in job.model.parameters()]).all()
    if not finite:
        raise RunFailedError(_not_finite(f"a weight after step {job.step}", job, previous))
    if log:
        log.sync()
        plan = {"batch": job.plan.batch, "steps": job.plan.steps, "images": job.plan.images}
        state = {"plan": plan, "model": job.model.state_dict(), "optimizer": job.optimizer.state_dict()}
        save_checkpoint(job.run, job.step, state, job.config.train.keep_checkpoints)
        log.draw_now_and_then()
    job.fabric.barrier()


def record_broken(job: Job, log: RunLog | None, batches: TimedBatches) -> None:
    """Add to errors.jsonl what any process found broken since the last call; raise above the allowed share."""
    fresh: list[list[ImageError]] = [batches.broken]
    if job.fabric.world_size > 1:
        fresh = [[]] * job.fabric.world_size
        torch.distributed.all_gather_object(fresh, batches.broken)
    batches.broken = []
    count = 0
    if log and any(fresh):
        count = log.add_broken(job.found, [error for part in fresh for error in part])
    if any(fresh):
        check_broken_share(job.fabric.broadcast(count), job.found.total, job.config, job.run)


def check_broken_share(broken: int, images: int, config: RunConfig, run: Path) -> None:
    """Raise `RunFailedError` when more than the allowed share of the images is broken."""
    if broken > config.train.max_unreadable * images:
        raise RunFailedError(
            f"{broken} of {images} images are broken, more than {config.train.max_unreadable:.0%}; "
            f"see {run / 'errors.jsonl'}, mend or remove them, or allow more with --set train.max_unreadable=0.5"
        )


def open_batches(job: Job) -> TimedBatches:
    """This process's micro-batches from `job.step` to the end."""
    train, fabric = job.config.train, job.fabric
    pixels = round(train.max_megapixels * 1e6)
    on_device = train.augment_on == "device"
    presentations = MultiCropDataset(job.found.paths, job.config.views, train.seed, pixels, on_device)
    share = DistributedBatchSampler(
        batch=train.batch_size,
        accumulate=train.accumulate,
        rank=fabric.global_rank,
        world=fabric.world_size,
        start=job.step,
        stop=job.plan.steps,
    )
    workers = resolve_workers(train.workers, fabric.device.type, fabric.world_size)
    return TimedBatches(make_batches(presentations, share, workers, pin=fabric.device.type == "cuda"))


def _not_finite(what: str, job: Job, saved: int) -> str:
    kept = f"the checkpoint of step {saved} is kept" if saved else "no checkpoint had been written yet"
    return (
        f"{what} is not finite; {kept} in {job.run / 'checkpoints'}. "
        f"Try --precision fp32 --resume, or a new run with a lower rate: --set optim.lr={job.config.optim.lr / 2:g}"
    )
