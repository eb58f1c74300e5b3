"""One run from its folder's first file to the encoder that comes out."""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from gtsa_kit.config import RunConfig, TrainConfig, dump_config
from gtsa_kit.data.image_files import ImageList, find_images, validate_images
from gtsa_kit.data.image_io import ImageError
from gtsa_kit.files import read_json_lines, write_text
from gtsa_kit.methods.lightly_import import require_lightly
from gtsa_kit.models.weights import save_encoder
from gtsa_kit.training.checkpoint import load_checkpoint, newest_checkpoint
from gtsa_kit.training.fabric import Fabric, SLURMEnvironment, TorchElasticEnvironment
from gtsa_kit.training.precision import should_use_bf16
from gtsa_kit.training.run_logger import RunLog
from gtsa_kit.training.trainer import Job, RunFailedError, TrainerCallback, check_broken_share, fit, make_job

T = TypeVar("T")

RESUME_MUTABLE_KEYS = {
    *("preset", "train.accumulate", "train.batch_size", "train.validate_images", "train.checkpoint_every"),
    *("train.devices", "train.keep_checkpoints", "train.log_every", "train.max_unreadable", "train.precision"),
    *("train.compile", "train.activation_checkpointing", "train.augment_on", "train.workers"),
}
"""Settings that may differ when a run goes on; batch_size, accumulate and devices as long as their product stays."""


def train(config: RunConfig, run: Path, resume: bool, watcher: TrainerCallback) -> bool:
    """Train into the folder `run`; True when the run came to its end, False when the watcher stopped it.

    With more than one device every process calls this; the first one owns the folder.

    Raises:
        ValueError: Settings, folder or images can't be used; nothing was started.
        RunFailedError: It started and can't go on.
    """
    if config.method != "gtsa":
        require_lightly(config.method)
    config = resolve_precision(config)
    fabric = make_fabric(config.train)
    fabric.launch()
    found = _first_only(fabric, lambda: prepare(config, run, resume, watcher))
    state = load_checkpoint(run) if resume else None
    job = make_job(config, run, found, fabric, state)
    log = RunLog(run, job.step, job.model.panels) if fabric.is_global_zero else None
    try:
        if log:
            log.logger.info("start at step %d of %d on %s", job.step, job.plan.steps, fabric.device)
        watcher.starting(job.plan, config, job.step, str(fabric.device))
        ended = fit(job, log, watcher)
        if log:
            log.logger.info("the end" if ended else "stopped at step %d", *([] if ended else [job.step]))
            if ended:
                finish(job, log)
        return ended
    except RunFailedError as error:
        if log:
            log.logger.info("failed: %s", error)
        raise
    finally:
        if log:
            log.draw()
            log.close()


def resolve_precision(config: RunConfig) -> RunConfig:
    """`auto` to what it means on this machine; the run folder keeps that, so that a resumed run goes on in it."""
    if config.train.precision != "auto":
        return config
    pays = should_use_bf16(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    settled = config.train.model_copy(update={"precision": "bf16" if pays else "fp32"})
    return config.model_copy(update={"train": settled})


def make_fabric(config: TrainConfig) -> Fabric:
    """Device, precision (settled) and processes, by Lightning Fabric."""
    cuda = torch.cuda.is_available()
    devices, machines = detect_launcher() or (config.devices, 1)
    if devices == "auto":
        devices = torch.cuda.device_count() if cuda else 1
    return Fabric(
        accelerator="cuda" if cuda else "cpu",
        devices=devices,
        num_nodes=machines,
        strategy="ddp" if devices * machines > 1 else "auto",
        precision="bf16-mixed" if config.precision == "bf16" else "32-true",
    )


def detect_launcher() -> tuple[int, int] | None:
    """Processes on a machine, and machines, where torchrun or Slurm (srun) started them; None where nobody did."""
    if TorchElasticEnvironment.detect():
        here = int(os.environ["LOCAL_WORLD_SIZE"])
        return here, int(os.environ["WORLD_SIZE"]) // here
    if SLURMEnvironment.detect():
        machines = int(os.environ["SLURM_NNODES"])
        return int(os.environ["SLURM_NTASKS"]) // machines, machines
    return None


def prepare(config: RunConfig, run: Path, resume: bool, watcher: TrainerCallback) -> ImageList:
    """Make the run folder, or check that it can be resumed; list the images and decode them once.

    A resumed run keeps the list that it began with, so that the order of images goes on whatever has been added
    to the folder since.
    """
    begun = newest_checkpoint(run) is not None
    if begun and not resume:
        raise ValueError(f"{run} already holds a run; add --resume to go on with it, or choose another --out")
    if not begun and run.is_dir() and not (run / "config.yaml").exists() and any(run.iterdir()):
        raise ValueError(f"{run} is not empty and holds no run; choose another --out")
    if begun:
        write_text(run / "config.yaml", dump_config(config))
        return _load_list(run)
    found = find_images(Path(config.data))
    run.mkdir(parents=True, exist_ok=True)
    write_text(run / "config.yaml", dump_config(config))
    for stale in ("metrics.jsonl", "errors.jsonl"):
        (run / stale).unlink(missing_ok=True)
    found = _without_broken(found, config, run, watcher)
    _save_list(run, found)
    return found


def finish(job: Job, log: RunLog) -> None:
    """Write what a finished run hands on: the teacher's encoder, and its description."""
    summary = {
        "method": job.config.method,
        "weights": "teacher",
        "images": job.plan.images,
        "broken": len(read_json_lines(job.run / "errors.jsonl")),
        "steps": job.plan.steps,
        "batch": job.plan.batch,
        "last": log.rows[-1] if log.rows else None,
        "settings": job.config.model_dump(mode="json"),
    }
    save_encoder(job.run, job.model.teacher.encoder.vit.state_dict(), job.config.model.arch, summary)


def diff_configs(a: RunConfig, b: RunConfig) -> list[str]:
    """Settings, as `key: of a, of b`, that differ and that a resumed run must keep."""
    ours, theirs = _flatten(a.model_dump(mode="json")), _flatten(b.model_dump(mode="json"))
    keys = [key for key in ours if ours[key] != theirs[key] and key not in RESUME_MUTABLE_KEYS]
    return [f"{key}: {ours[key]}, {theirs[key]}" for key in keys]


def _without_broken(found: ImageList, config: RunConfig, run: Path, watcher: TrainerCallback) -> ImageList:
    """Decode the images (a sample of a very large folder) and leave out, and list, what is broken."""
    total = len(found.paths)
    limit = config.train.validate_images
    sample = found.paths if total <= limit else random.Random(config.train.seed).sample(found.paths, limit)
    done = 0

    def checked() -> None:
        nonlocal done
        done += 1
        if watcher.stop():
            raise KeyboardInterrupt
        watcher.checking(done, len(sample))

    broken = validate_images(sample, round(config.train.max_megapixels * 1e6), checked)
    log = RunLog(run, 0)
    log.add_broken(found, [*found.broken, *broken])
    log.close()
    if len(broken) == total:
        raise RunFailedError(f"none of the {total} images can be read; see {run / 'errors.jsonl'}")
    check_broken_share(len(broken), len(sample) or 1, config, run)
    bad = {error.path for error in broken}
    return ImageList(found.root, [path for path in found.paths if path not in bad], broken)


def _save_list(run: Path, found: ImageList) -> None:
    content = {
        "root": str(found.root),
        "paths": [str(path) for path in found.paths],
        "broken": [[str(error.path), error.reason] for error in found.broken],
    }
    write_text(run / "images.json", json.dumps(content))


def _load_list(run: Path) -> ImageList:
    content = json.loads((run / "images.json").read_text(encoding="utf-8"))
    broken = [ImageError(Path(path), reason) for path, reason in content["broken"]]
    return ImageList(Path(content["root"]), [Path(path) for path in content["paths"]], broken)


def _first_only(fabric: Fabric, work: Callable[[], T]) -> T:
    """Do it in the first process; all get the result, or raise the same error instead of waiting for ever."""
    result: tuple[T | None, BaseException | None] = (None, None)
    if fabric.is_global_zero:
        try:
            result = (work(), None)
        except (ValueError, OSError, RunFailedError, KeyboardInterrupt) as error:
            result = (None, error)
    value, problem = fabric.broadcast(result)
    if problem is not None:
        raise problem
    return value  # type: ignore[return-value]


def _flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
