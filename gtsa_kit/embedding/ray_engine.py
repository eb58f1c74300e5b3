"""Feature extraction on a Ray cluster: each actor holds the model and processes blocks of entries, in order."""

import logging
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from gtsa_kit.data.entries import Entry
from gtsa_kit.data.sources import open_source
from gtsa_kit.embedding.extract import BatchPlan, extract_features
from gtsa_kit.embedding.preprocess import Preprocessor
from gtsa_kit.embedding.rows import FailedImage, FeatureRow
from gtsa_kit.embedding.shards import ShardFill, ShardLimits
from gtsa_kit.export import load
from gtsa_kit.export.open_options import LoadOptions

BLOCK_ENTRIES = 64
"""Entries of a block, the unit of work of an actor."""
SUBMITTED_BLOCKS = 64
"""Blocks that are submitted to the cluster together."""


@dataclass(frozen=True)
class RayTask:
    """Arguments of an actor; they must be picklable."""

    source: str
    """Source of the images; every machine opens it by itself."""
    model: Path
    load: LoadOptions
    preprocessor: Preprocessor
    plan: BatchPlan
    limits: ShardLimits
    on_gpu: bool
    """Reserve a GPU for each actor."""


def extract_on_ray(
    entries: Iterable[Entry], task: RayTask, workers: int | None = None
) -> Iterator[FeatureRow | FailedImage]:
    """Extract features on the cluster that `RAY_ADDRESS` names, by default on one that is started for this call.

    Args:
        entries: The images; results come in their order.
        task: Model, source and batches.
        workers: Actors; by default as many as the cluster has cores (GPUs, if the model runs on one).
    """
    ray = import_ray()
    started = not ray.is_initialized()
    if started:
        ray.init(log_to_driver=False, include_dashboard=False, logging_level="error")
    try:
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().execution_options.preserve_order = True
        ray.data.DataContext.get_current().enable_progress_bars = False
        remaining = iter(entries)
        while blocks := [block for _ in range(SUBMITTED_BLOCKS) if (block := list(islice(remaining, BLOCK_ENTRIES)))]:
            yield from _extract_blocks(ray, blocks, task, workers)
    finally:
        if started:
            ray.shutdown()


def _extract_blocks(
    ray: Any, blocks: list[list[Entry]], task: RayTask, workers: int | None
) -> Iterator[FeatureRow | FailedImage]:
    limit = int(ray.cluster_resources().get("GPU" if task.on_gpu else "CPU", 1))
    actors = {"size": workers} if workers else {"min_size": 1, "max_size": max(1, limit)}
    # Blocks are pickled: a locator need not be valid text, and maps differ in shape.
    packed = ray.data.from_items(
        [{"number": number, "block": pickle.dumps(block)} for number, block in enumerate(blocks)],
        override_num_blocks=len(blocks),
    )
    done = packed.map_batches(
        BlockExtractor,
        fn_constructor_args=(replace(task, model=task.model.absolute(), plan=replace(task.plan, workers=1)),),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(**actors),
        num_cpus=1,
        num_gpus=1 if task.on_gpu else 0,
    )
    for number, row in enumerate(done.iter_rows()):
        if row["number"] != number:  # results would get the paths of other images when the job is resumed
            raise RuntimeError(f"Ray returned block {row['number']} in place of {number}; run it again with --resume")
        yield from pickle.loads(row["results"])  # noqa: S301  (our own actor made it)


class BlockExtractor:
    """Ray actor that opens the model once, then extracts features of blocks."""

    def __init__(self, task: RayTask) -> None:
        import torch

        torch.set_num_threads(1)
        self.task = task
        self.source = open_source(task.source)
        self.runner = load(task.model, **task.load.arguments())

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the pickled results of pickled blocks."""
        results = [pickle.dumps(self._extract(pickle.loads(block))) for block in batch["block"]]  # noqa: S301
        return {"number": batch["number"], "results": np.array(results, dtype=object)}

    def _extract(self, block: list[Entry]) -> list[FeatureRow | FailedImage]:
        task = self.task
        count = ShardFill(task.limits).add
        return list(extract_features(block, self.source, self.runner, task.preprocessor, task.plan, count))


def import_ray() -> Any:
    """Import Ray with its data library.

    Raises:
        ValueError: Ray is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ValueError("Ray is not installed; pip install 'gtsa-kit[ray]'") from error
    return ray
