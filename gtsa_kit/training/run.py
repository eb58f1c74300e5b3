"""Pretraining runs: the run folder, training, the saved encoder."""

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from gtsa_kit.config import PUBLISHED_MOMENTUM, RunConfig
from gtsa_kit.data.augment import Views
from gtsa_kit.data.batched_augment import DecodedBatch
from gtsa_kit.data.batches import TimedBatches, make_batches, resolve_workers
from gtsa_kit.data.image_files import ImageList
from gtsa_kit.data.multicrop import MultiCropDataset, collate_views
from gtsa_kit.data.samples import DistributedBatchSampler
from gtsa_kit.hardware import should_compile, should_use_fused_attention
from gtsa_kit.methods import make_method
from gtsa_kit.methods.base import Method, TrainSchedule
from gtsa_kit.methods.baselines import require_lightly
from gtsa_kit.models.encoder_spec import EncoderSpec
from gtsa_kit.models.run_folder import newest_checkpoint
from gtsa_kit.training.channels import image_reader, resolve_channels
from gtsa_kit.training.checkpoint import load_checkpoint
from gtsa_kit.training.estimate import check_fits, estimate, resolve_batch_size, smaller_settings
from gtsa_kit.training.fabric import Fabric, make_fabric, resolve_precision
from gtsa_kit.training.finish import save_result
from gtsa_kit.training.guards import fit_or_stop, memory_errors, on_first_process, open_run_logger
from gtsa_kit.training.learning import measure_learning
from gtsa_kit.training.loggers.opening import require_loggers
from gtsa_kit.training.monitor import Monitor
from gtsa_kit.training.notices import lag_notices, start_notices
from gtsa_kit.training.optim import make_optimizer, make_schedules
from gtsa_kit.training.prepare import prepare
from gtsa_kit.training.resume import extensions_of
from gtsa_kit.training.run_logger import RunLogger
from gtsa_kit.training.start import Start, check_start, open_start
from gtsa_kit.training.state import TrainState
from gtsa_kit.training.trainer import RunFailedError, TrainerCallback, fit, save


def train(
    config: RunConfig, run_dir: Path, resume: bool, callback: TrainerCallback, start: Start | None = None
) -> bool:
    """Train in the run folder `run_dir`; return True if the run finished, False if the callback stopped it.

    With several processes every process calls this function; only the first one writes to the folder.

    Args:
        config: Settings of the run.
        run_dir: Run folder.
        resume: Whether to continue the run in the folder, if there is one.
        callback: Training callback.
        start: Encoder that a new run starts from; None opens that of the settings.

    Raises:
        ValueError: Settings, folder or images cannot be used; training was not started.
        RunFailedError: Training was started and cannot continue.
    """
    config, fabric, start = set_up(config, start, resumes=bool(resume and newest_checkpoint(run_dir)))
    with ExitStack() as resources:
        images = on_first_process(fabric, lambda: prepare(config, run_dir, resume, callback, resources, start))
        notices: list[str] = []
        checkpoint = load_checkpoint(run_dir, notices.append) if resume else None
        start = start or open_start(config) if checkpoint is None else Start(EncoderSpec.from_dict(checkpoint))
        state = make_train_state(config, run_dir, images, fabric, start, checkpoint)
        return train_to_the_end(state, callback, [*start.notes, *notices])


def set_up(config: RunConfig, start: Start | None, resumes: bool = False) -> tuple[RunConfig, Fabric, Start | None]:
    """Start the processes of a run; return its settings without auto, and the encoder that a new run starts from.

    Args:
        config: Settings of the run.
        start: Encoder to start from; None opens that of the settings.
        resumes: Whether the run continues from a checkpoint, and does not need the encoder.

    Raises:
        ValueError: A package is missing, the encoder does not fit the settings, or not even two images fit into memory.
    """
    require_loggers(config.train.logger)
    if config.method != "gtsa":
        require_lightly(f"method {config.method}")
    elif config.loss.image_weight:
        require_lightly("setting loss.image_weight")
    config = resolve_precision(config)
    fabric = make_fabric(config.train)
    fabric.launch()
    if not resumes:
        config = resolve_channels(config)
        start = start or open_start(config)
        config = check_start(config, start)
    config = resolve_batch_size(lambda other: build_model(other, fabric, start or open_start(config)), config, fabric)
    return config, fabric, start


def train_to_the_end(state: TrainState, callback: TrainerCallback, notices: list[str]) -> bool:
    """Train, log, and save the result; return True if the run finished, False if the callback stopped it."""
    run_dir, fabric = state.run_dir, state.fabric
    logger = None
    try:
        plots = state.model.plot_groups
        logger = open_run_logger(fabric, run_dir, state.step, state.config, callback.on_notice, plots)
        if logger:
            logger.text_log.info("start at step %d of %d on %s", state.step, state.schedule.steps, fabric.device)
            state.monitor = Monitor(run_dir, state.config, state.images, state.model.teacher.encoder, logger)
            state.monitor.start(state.step)
        callback.on_train_start(state.schedule, state.config, state.step, str(fabric.device))
        notify([*notices, *start_notices(state)], logger, callback)
        with memory_errors(lambda: less_memory(state.config)):
            finished = fit_run(state, logger, callback)
        if logger:
            conclude(state, logger, callback, finished)
        return finished
    except RunFailedError as error:
        if logger:
            logger.text_log.info("failed: %s", error)
            logger.draw_curves()
        raise
    finally:
        state.batches.close()
        if logger:
            logger.close()


def conclude(state: TrainState, logger: RunLogger, callback: TrainerCallback, finished: bool) -> None:
    """Write the result of a finished run, and the report of any; say what the run has learned."""
    logger.text_log.info("finished" if finished else f"stopped at step {state.step}")
    logger.finished = finished
    pixels = state.monitor.pixels if state.monitor else torch.zeros(0)
    learning = measure_learning(state.config, logger.rows, state.model.teacher.encoder, pixels, state.run_dir)
    if finished:
        save_result(state.run_dir, state.config, state.checkpoint_content(), learning)
    lag = lag_notices(state.initial_share, state.run_dir, state.config) if finished else []
    notify([*([learning.sentence()] if learning else []), *lag], logger, callback)
    logger.draw_curves()
    if state.monitor:
        state.monitor.report(learning)


def fit_run(state: TrainState, logger: RunLogger | None, callback: TrainerCallback) -> bool:
    """Call `fit`; a stop is also heard while it waits for images, and errors of the workers end the run."""
    if state.fabric.world_size == 1:  # other processes would wait for this one
        state.batches.should_stop = callback.should_stop
    return fit_or_stop(lambda: fit(state, logger, callback), lambda: save(state, logger, state.step))


def less_memory(config: RunConfig) -> str:
    """Return which settings need less memory, and what is kept."""
    return f"{smaller_settings(config)}; a run with --resume keeps its step"


def notify(messages: Iterable[str], logger: RunLogger | None, callback: TrainerCallback) -> None:
    """Write sentences to train.log and report them, in the first process."""
    if logger is None:
        return
    for message in messages:
        logger.text_log.info(message)
        callback.on_notice(message)


def make_train_state(
    config: RunConfig,
    run_dir: Path,
    images: ImageList,
    fabric: Fabric,
    start: Start,
    checkpoint: dict[str, Any] | None,
) -> TrainState:
    """Build model, optimizer, schedules and batches, and restore the checkpoint if there is one.

    Raises:
        ValueError: The checkpoint's run has more steps, other images, or other images per step.
    """
    schedule = TrainSchedule.from_config(config, len(images.entries), fabric.world_size)
    extensions = extensions_of(checkpoint, schedule) if checkpoint else ()
    step = checkpoint["step"] if checkpoint else 0
    measured = None
    if step < schedule.steps:
        with memory_errors(lambda: less_memory(config)):
            measured = estimate(lambda: build_model(config, fabric, start), config, fabric)
        measured = fabric.broadcast(measured)  # one decision for all processes
        check_fits(measured, config)
    model = build_model(config, fabric, start, checkpoint)
    if config.train.compile is True or (config.train.compile == "auto" and should_compile(fabric.device)):
        model.compile_branches()
    optimizer = make_optimizer(model, config.optim)
    wrapped, wrapped_optimizer = fabric.setup(model, optimizer)
    if checkpoint is not None:
        optimizer.load_state_dict(checkpoint["optimizer"])
    share = checkpoint["initial_share"] if checkpoint else 1.0
    batches = open_batches(config, images, schedule, fabric, step)
    schedules = make_schedules(
        *(config.optim, schedule.steps, schedule.warmup, schedule.batch, model.schedules(schedule)),
        published_momentum=PUBLISHED_MOMENTUM[config.method],
        frozen=schedule.frozen,
    )
    inputs = (config, run_dir, images, schedule, batches, fabric, model, wrapped, wrapped_optimizer)
    return TrainState(*inputs, step, schedules, share, extensions, measured)


def build_model(config: RunConfig, fabric: Fabric, start: Start, checkpoint: dict[str, Any] | None = None) -> Method:
    """Build the model with its initial weights, or those of the checkpoint, for the device and precision of a run."""
    torch.manual_seed(config.train.seed)
    model = make_method(config, start.spec)
    if checkpoint is not None:
        model.load_state_dict(checkpoint["model"])
    elif start.weights is not None:
        model.load_encoder(start.weights)
    if fabric.world_size > 1 and fabric.device.type == "cuda":  # torch implements it for CUDA only
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    model.student.encoder.activation_checkpointing = config.train.activation_checkpointing
    if not should_use_fused_attention(fabric.device, config.train.precision == "bf16"):
        model.use_unfused_attention()
    return model


def open_batches(
    config: RunConfig, images: ImageList, schedule: TrainSchedule, fabric: Fabric, step: int
) -> TimedBatches[Views | DecodedBatch]:
    """Open this process's micro-batches from `step` to the end."""
    train = config.train
    on_device, reader = train.augment_on == "device", image_reader(config)
    dataset = MultiCropDataset(images.source, images.entries, config.views, train.seed, reader, on_device)
    sampler = DistributedBatchSampler(
        batch_size=train.micro_batch,
        accumulate=train.accumulate,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        start_step=step,
        stop_step=schedule.steps,
    )
    workers = resolve_workers(train.workers, fabric.device.type, fabric.world_size)
    batches = make_batches(dataset, sampler, workers, fabric.device.type == "cuda", collate_views)
    return TimedBatches(batches, train.max_batch_wait)
