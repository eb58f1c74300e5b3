"""Fine-tuning runs: the run folder, training, scores, pictures and the saved model."""

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from gtsa_kit.config.finetune import FinetuneConfig, resolved
from gtsa_kit.config.layers import dump_config
from gtsa_kit.data.entries import Entry
from gtsa_kit.data.image_io import ImageError
from gtsa_kit.files import write_text
from gtsa_kit.folder_lock import folder_lock
from gtsa_kit.models.architecture import check_layers
from gtsa_kit.models.encoder_spec import EncoderSpec
from gtsa_kit.models.run_folder import check_run_dir
from gtsa_kit.models.task_spec import TaskSpec
from gtsa_kit.models.weights import save_weights
from gtsa_kit.tasks.auto import resolve_auto
from gtsa_kit.tasks.build import build_state, images_per_step
from gtsa_kit.tasks.channels import choose_channels
from gtsa_kit.tasks.extension import Extensions, check_data, check_kind, check_length, resumed_config
from gtsa_kit.tasks.finetune import fit, save
from gtsa_kit.tasks.frozen_start import StoppedError
from gtsa_kit.tasks.result import write_result
from gtsa_kit.tasks.start import TaskStart, make_spec, open_encoder, open_head, saved_start, sized
from gtsa_kit.tasks.state import COMMON_PLOTS, PLOTS, QUERY_PLOTS, FinetuneCallback, FinetuneState
from gtsa_kit.tasks.task_data import TaskData, open_task_data
from gtsa_kit.training.checkpoint import load_checkpoint
from gtsa_kit.training.fabric import Fabric, choose_precision, make_fabric
from gtsa_kit.training.guards import fit_or_stop, memory_errors, on_first_process, open_run_logger
from gtsa_kit.training.loggers.opening import require_loggers
from gtsa_kit.training.run_logger import RunLogger
from gtsa_kit.training.start import FILE as START_FILE
from gtsa_kit.training.start import Start
from gtsa_kit.training.trainer import RunFailedError

LESS_MEMORY = "try a smaller --batch-size with more --accumulate, or a smaller --size"
"""Settings that need less memory."""


def finetune_run(
    config: FinetuneConfig, run_dir: Path, resume: bool = False, callback: FinetuneCallback | None = None
) -> bool:
    """Fine-tune in a run folder; return True if the run finished, False if the callback stopped it.

    With several processes every process calls this function; only the first one writes to the folder.

    Args:
        config: Settings of the run; those of a resumed run without auto.
        run_dir: Run folder.
        resume: Whether to continue the run in the folder, if there is one.
        callback: Callback of the run.

    Raises:
        ValueError: Settings, folder, weights or labeled images cannot be used; training was not started.
        RunFailedError: Training was started and cannot continue.
    """
    callback = callback or FinetuneCallback()
    fabric = launch(config)
    with ExitStack() as resources:
        prepared = on_first_process(fabric, lambda: prepare(config, run_dir, resume, callback, resources, fabric))
        config, data, start, notices = prepared
        checkpoint = load_checkpoint(run_dir, callback.on_notice) if resume else None
        extensions: Extensions = ()
        if checkpoint is not None:
            extensions, notices = check_resumed(checkpoint, config, data, fabric, callback)
            start = saved_start(run_dir, EncoderSpec.from_dict(checkpoint))
        assert start is not None
        spec = TaskSpec.from_dict(checkpoint["task"]) if checkpoint else make_spec(config, data)
        try:
            with memory_errors(lambda: LESS_MEMORY):
                state = build_state(config, run_dir, data, fabric, start, spec, checkpoint, callback, notices)
        except StoppedError:
            return False
        except ImageError as error:
            raise RunFailedError(f"{error}; it could be read before; repair it, and continue with --resume") from error
        state.extensions = extensions
        return train_to_the_end(state, callback, notices)


def launch(config: FinetuneConfig) -> Fabric:
    """Start the processes of a run; raise `ValueError` if the package of a logger is missing."""
    require_loggers(config.train.logger)
    precision = choose_precision(config.train.precision)
    fabric = make_fabric(config.train.model_copy(update={"precision": precision}))
    fabric.launch()
    return fabric


def prepare(
    config: FinetuneConfig,
    run_dir: Path,
    resume: bool,
    callback: FinetuneCallback,
    resources: ExitStack,
    fabric: Fabric,
) -> tuple[FinetuneConfig, TaskData, TaskStart | None, list[str]]:
    """Read the labeled images, open the weights, and create the run folder or check that it can be resumed.

    Returns:
        Settings without auto, labeled images, what a new run starts from, and sentences about them.

    Raises:
        ValueError: See `finetune_run`.
    """
    if check_run_dir(run_dir, resume):
        data = read_data(config, callback)
        resources.enter_context(folder_lock(run_dir))
        return resumed_config(config, data, fabric.world_size), data, None, []
    config, data, start, notices = read_start(config, callback, fabric)
    run_dir.mkdir(parents=True, exist_ok=True)
    resources.enter_context(folder_lock(run_dir))
    check_run_dir(run_dir, resume=False)  # another process may have trained a run meanwhile
    _start_folder(config, run_dir, data, start)
    return config, data, start, announce(notices, callback)


def read_data(config: FinetuneConfig, callback: FinetuneCallback) -> TaskData:
    """Open the labeled images, and report them."""
    data = open_task_data(config, callback.on_progress)
    callback.on_data(data)
    return data


def read_start(
    config: FinetuneConfig, callback: FinetuneCallback, fabric: Fabric
) -> tuple[FinetuneConfig, TaskData, TaskStart, list[str]]:
    """Read the labeled images and open the weights of a new run; nothing is written.

    Returns:
        Settings without auto, labeled images, what the run starts from, and sentences about them.

    Raises:
        ValueError: See `finetune_run`.
    """
    config, start = choose_channels(config, open_encoder(config.model))
    data = read_data(config, callback)
    model = config.model.model_copy(update={"sha256": start.sha256})
    config, chosen = resolve_auto(
        config.model_copy(update={"model": model}), data, start.spec, fabric.device.type, fabric.world_size
    )
    spec = make_spec(config, data)
    check_layers(spec.layers, start.spec.architecture)  # errors come before the folder
    head, head_notes = open_head(config.model, spec)
    encoder = sized(start.spec, resolved(config.augment.size))
    start = TaskStart(encoder, start.weights, start.sha256, (*start.notes, *head_notes), head)
    return config, data, start, [*start.notes, *([chosen] if chosen else [])]


def _start_folder(config: FinetuneConfig, run_dir: Path, data: TaskData, start: Start) -> None:
    """Write the settings, the skipped images and, for a frozen encoder, its weights to the folder of a new run."""
    write_text(run_dir / "config.yaml", dump_config(config))
    for stale in ("metrics.jsonl", "errors.jsonl", START_FILE):
        (run_dir / stale).unlink(missing_ok=True)
    if start.weights and config.train.freeze:
        save_weights(run_dir / START_FILE, start.weights)
    logger = RunLogger(run_dir, 0)
    logger.add_unreadable(Entry(item.path, item.path, reason=item.reason) for item in data.skipped)
    logger.close()


def check_resumed(
    checkpoint: dict[str, Any], config: FinetuneConfig, data: TaskData, fabric: Fabric, callback: FinetuneCallback
) -> tuple[Extensions, list[str]]:
    """Check that a checkpoint is one of this run; return its extensions, and a sentence if it is extended now."""
    check_kind(checkpoint)
    check_data(checkpoint, config, data)
    images, batch = int((~data.validation).sum()), images_per_step(config, fabric)
    extensions, extended = check_length(checkpoint, config, images, batch)
    return extensions, announce(extended, callback)


def announce(notices: Sequence[str], callback: FinetuneCallback) -> list[str]:
    """Report sentences about a run, and return them."""
    for message in notices:
        callback.on_notice(message)
    return list(notices)


def train_to_the_end(state: FinetuneState, callback: FinetuneCallback, notices: list[str]) -> bool:
    """Train, log, and write the result; return True if the run finished, False if the callback stopped it."""
    fabric, task = state.fabric, state.data.task
    plots = QUERY_PLOTS if state.query_criterion is not None and task == "detect" else PLOTS[task]
    logger = None
    try:
        runs = state.run_dir, state.step, state.config, callback.on_notice
        logger = open_run_logger(fabric, *runs, plots, COMMON_PLOTS)
        if logger:
            write_text(state.run_dir / "config.yaml", dump_config(state.config))  # a resumed run may have more steps
            logger.text_log.info("start at step %d of %d on %s", state.step, state.steps, fabric.device)
            for message in notices:
                logger.text_log.info(message)
        callback.on_train_start(state)
        with memory_errors(lambda: LESS_MEMORY):
            finished = fit_run(state, logger, callback)
        if logger:
            logger.text_log.info("finished" if finished else f"stopped at step {state.step}")
            logger.finished = finished
            if finished:
                write_result(state, callback)
                shutil.rmtree(state.run_dir / "features", ignore_errors=True)
            logger.draw_curves()
        fabric.barrier()  # the result is there when any process goes on
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


def fit_run(state: FinetuneState, logger: RunLogger | None, callback: FinetuneCallback) -> bool:
    """Call `fit`; a stop is also heard while it waits for images, and errors of the workers end the run."""
    if state.fabric.world_size == 1:  # other processes would wait for this one
        state.batches.should_stop = callback.should_stop
    return fit_or_stop(lambda: fit(state, logger, callback), lambda: save(state, logger))
