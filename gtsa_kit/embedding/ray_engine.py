"""Work on a Ray cluster: each actor opens the model and processes blocks of images; results come in order."""

import logging
import pickle
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final, Generic, Protocol, TypeVar

import numpy as np

from gtsa_kit.data.entries import Entry
from gtsa_kit.data.sources import open_source
from gtsa_kit.embedding.extract import BatchPlan, extract_features
from gtsa_kit.embedding.preprocess import Preprocessor
from gtsa_kit.embedding.rows import FailedImage, FeatureRow
from gtsa_kit.embedding.shards import ShardFill, ShardLimits
from gtsa_kit.embedding.torch_resize import use_one_thread
from gtsa_kit.export import load
from gtsa_kit.export.open_options import LoadOptions

BLOCK_ENTRIES: Final = 64
"""Images of a block, the unit of work of an actor."""
SUBMITTED_BLOCKS: Final = 64
"""Blocks that are submitted to the cluster together."""

Item = TypeVar("Item")
ResultT = TypeVar("ResultT", covariant=True)
Result = TypeVar("Result")


class BlockTask(Protocol[Item, ResultT]):
    """Protocol of the work that actors do; it must be picklable."""

    @property
    def on_gpu(self) -> bool:
        """Reserve a GPU for each actor."""

    def open(self) -> Callable[[list[Item]], Iterable[ResultT]]:
        """Open model and source on the actor's machine; return the function from a block to its results, in order."""


@dataclass(frozen=True)
class ExtractTask:
    """Task that extracts features of entries."""

    source: str
    """Source of the images; every machine opens it by itself."""
    model: Path
    load: LoadOptions
    preprocessor: Preprocessor
    plan: BatchPlan
    limits: ShardLimits
    on_gpu: bool

    def open(self) -> Callable[[list[Entry]], Iterator[FeatureRow | FailedImage]]:
        """Return the function from entries to their rows."""
        source, runner = open_source(self.source), load(self.model, **self.load.arguments())
        plan = replace(self.plan, workers=1)
        return lambda block: extract_features(
            block, source, runner, self.preprocessor, plan, ShardFill(self.limits).add
        )


def run_on_ray(
    items: Iterable[Item], task: BlockTask[Item, Result], workers: int | None = None, block_size: int | None = None
) -> Iterator[Result]:
    """Run a task on the cluster that `RAY_ADDRESS` names, by default on one that is started for this call.

    Args:
        items: The images; results come in their order.
        task: What to do with them.
        workers: Actors; by default as many as the cluster has cores (GPUs, if the model runs on one).
        block_size: Images of a block; by default `BLOCK_ENTRIES`.
    """
    ray = import_ray()
    started = not ray.is_initialized()
    if started:
        ray.init(log_to_driver=False, include_dashboard=False, logging_level="error")
    try:
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().execution_options.preserve_order = True
        ray.data.DataContext.get_current().enable_progress_bars = False
        remaining, size = iter(items), block_size or BLOCK_ENTRIES
        while blocks := [block for _ in range(SUBMITTED_BLOCKS) if (block := list(islice(remaining, size)))]:
            yield from _run_blocks(ray, blocks, task, workers)
    finally:
        if started:
            ray.shutdown()


def _run_blocks(
    ray: Any, blocks: list[list[Item]], task: BlockTask[Item, Result], workers: int | None
) -> Iterator[Result]:
    limit = int(ray.cluster_resources().get("GPU" if task.on_gpu else "CPU", 1))
    actors = {"size": workers} if workers else {"min_size": 1, "max_size": max(1, limit)}
    # Blocks are pickled: a locator need not be valid text, and maps differ in shape.
    packed = ray.data.from_items(
        [{"number": number, "block": pickle.dumps(block)} for number, block in enumerate(blocks)],
        override_num_blocks=len(blocks),
    )
    done = packed.map_batches(
        BlockWorker,
        fn_constructor_args=(task,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(**actors),
        num_cpus=1,
        num_gpus=1 if task.on_gpu else 0,
    )
    for number, row in enumerate(done.iter_rows()):
        if row["number"] != number:  # results would get the paths of other images when the job is resumed
            raise RuntimeError(f"Ray returned block {row['number']} in place of {number}; run it again with --resume")
        yield from pickle.loads(row["results"])  # noqa: S301  (our own actor made it)


class BlockWorker(Generic[Item, Result]):
    """Ray actor that opens a task once, then works through blocks."""

    def __init__(self, task: BlockTask[Item, Result]) -> None:
        use_one_thread()
        self.run = task.open()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the pickled results of pickled blocks."""
        results = [pickle.dumps(list(self.run(pickle.loads(block)))) for block in batch["block"]]  # noqa: S301
        return {"number": batch["number"], "results": np.array(results, dtype=object)}


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
