"""The same job on a Ray cluster: blocks of the listing to actors that each hold the model, results in order."""

import logging
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from gtsa_kit.data.sources import Entry, open_source
from gtsa_kit.embedding.engine import LocalEngine, Plan
from gtsa_kit.embedding.preprocess import Decoder
from gtsa_kit.embedding.rows import Failure, Row
from gtsa_kit.export import load

if TYPE_CHECKING:
    from gtsa_kit.embedding.job import Job

ENTRIES = 64
"""A block: what an actor takes at a time."""
BLOCKS = 64
"""Blocks that are handed to the cluster at a time."""


class RayEngine:
    """On the cluster that `RAY_ADDRESS` names, else on one that is made here for as long as the job runs."""

    def __init__(self, job: "Job") -> None:
        self.job = job

    def __call__(self, entries: Iterable[tuple[int, Entry]]) -> Iterator[Row | Failure]:
        """Results in the order of the entries."""
        ray = import_ray()
        own = not ray.is_initialized()
        if own:
            ray.init(log_to_driver=False, include_dashboard=False, logging_level="error")
        try:
            logging.getLogger("ray.data").setLevel(logging.ERROR)
            ray.data.DataContext.get_current().execution_options.preserve_order = True
            ray.data.DataContext.get_current().enable_progress_bars = False
            source = iter(entries)
            while blocks := [block for _ in range(BLOCKS) if (block := list(islice(source, ENTRIES)))]:
                yield from self._run(ray, blocks)
        finally:
            if own:
                ray.shutdown()

    def _run(self, ray: Any, blocks: list[list[tuple[int, Entry]]]) -> Iterator[Row | Failure]:
        job, gpu = self.job, 1 if "cuda" in self.job.runner.provider.lower() else 0
        asked, most = job.options.workers, int(ray.cluster_resources().get("GPU" if gpu else "CPU", 1))
        actors = {"size": asked} if asked else {"min_size": 1, "max_size": max(1, most)}
        # Blocks travel as they are, packed: a path need not be valid text, and maps differ in shape.
        packed = ray.data.from_items(
            [{"block": pickle.dumps(block)} for block in blocks], override_num_blocks=len(blocks)
        )
        done = packed.map_batches(
            EmbedBlocks,
            fn_constructor_args=(
                job.where,
                str(job.model.absolute()),
                job.options.opening,
                job.decoder,
                replace(job.plan, workers=1),
            ),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(**actors),
            num_cpus=1,
            num_gpus=gpu,
        )
        for row in done.iter_rows():
            yield from pickle.loads(row["results"])  # noqa: S301  (what our own actor has just made)


class EmbedBlocks:
    """An actor: opens the model once, then embeds blocks."""

    def __init__(self, where: str, model: str, opening: dict[str, Any], decoder: Decoder, plan: Plan) -> None:

        import torch

        torch.set_num_threads(1)
        source = open_source(where)
        self.engine = LocalEngine(source, load(model, **opening), decoder, plan)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Packed blocks to packed results."""
        results = [pickle.dumps(list(self.engine(pickle.loads(block)))) for block in batch["block"]]  # noqa: S301
        return {"results": np.array(results, dtype=object)}


def import_ray() -> Any:
    """The module with its data library, else `ValueError` with what to install."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ValueError("Ray is not installed; pip install 'gtsa-kit[ray]'") from error
    return ray
