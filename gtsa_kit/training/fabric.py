"""Lightning Fabric: devices, precision and processes of a run."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gtsa_kit.config import RunConfig, TrainConfig
from gtsa_kit.config.finetune import FinetuneTrainConfig
from gtsa_kit.config.types import Precision
from gtsa_kit.hardware import should_use_bf16

_SKIPPED_IMPORT = "torchmetrics"
"""Module that Fabric imports only for its version. The import takes five seconds, so it is made to fail."""

_was_imported = _SKIPPED_IMPORT in sys.modules
if not _was_imported:
    sys.modules[_SKIPPED_IMPORT] = None  # type: ignore[assignment]
try:
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
finally:
    if not _was_imported:
        del sys.modules[_SKIPPED_IMPORT]

__all__ = ["Fabric", "choose_precision", "detect_launcher", "make_fabric", "resolve_precision"]


def resolve_precision(config: RunConfig) -> RunConfig:
    """Replace precision `auto` by bf16 or fp32 for this machine; the run folder keeps the result for `--resume`."""
    train = config.train.model_copy(update={"precision": choose_precision(config.train.precision)})
    return config.model_copy(update={"train": train})


def choose_precision(precision: Precision) -> Precision:
    """Return bf16 or fp32 for `auto`, whichever is faster on this machine; any other value as it is."""
    if precision != "auto":
        return precision
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return "bf16" if should_use_bf16(device) else "fp32"


def make_fabric(config: TrainConfig | FinetuneTrainConfig) -> Fabric:
    """Build the Fabric of a run; `config.precision` must be resolved (not `auto`)."""
    cuda = torch.cuda.is_available()
    devices, nodes = detect_launcher() or (config.devices, 1)
    if devices == "auto":
        devices = torch.cuda.device_count() if cuda else 1
    with _no_announcement():
        return Fabric(
            accelerator="cuda" if cuda else "cpu",
            devices=devices,
            num_nodes=nodes,
            strategy="ddp" if devices * nodes > 1 else "auto",
            precision="bf16-mixed" if config.precision == "bf16" else "32-true",
        )


@contextmanager
def _no_announcement() -> Iterator[None]:
    """Keep Fabric from announcing the precision, which every display says in its own line."""
    logger = logging.getLogger("lightning_fabric.utilities.rank_zero")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def detect_launcher() -> tuple[int, int] | None:
    """Return (processes per node, nodes) if torchrun or Slurm (srun) started this process, else None."""
    if TorchElasticEnvironment.detect():
        per_node = int(os.environ["LOCAL_WORLD_SIZE"])
        return per_node, int(os.environ["WORLD_SIZE"]) // per_node
    if SLURMEnvironment.detect():
        nodes = int(os.environ["SLURM_NNODES"])
        return int(os.environ["SLURM_NTASKS"]) // nodes, nodes
    return None
