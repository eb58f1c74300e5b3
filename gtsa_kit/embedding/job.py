"""Plan of a job that embeds images into a dataset folder: sizes, batches, shards and output files."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gtsa_kit.embedding.dense_spec import DenseSpec
from gtsa_kit.embedding.extract import BatchPlan
from gtsa_kit.embedding.input_index import InputIndex
from gtsa_kit.embedding.locations import record_location
from gtsa_kit.embedding.model import check_frames, choose_batch_size, map_output_names, model_digest
from gtsa_kit.embedding.options import EmbedOptions
from gtsa_kit.embedding.preprocess import Preprocessor
from gtsa_kit.embedding.resize_policy import ResizePolicy, choose_resize_policy
from gtsa_kit.embedding.shards import ShardLimits, choose_shard_limits
from gtsa_kit.embedding.store import DatasetSpec
from gtsa_kit.export import Runner
from gtsa_kit.export.runtime.batching import require_features
from gtsa_kit.hardware import available_cores
from gtsa_kit.version import __version__


@dataclass(frozen=True)
class EmbeddingJob:
    """Model, options and sizes of one job."""

    source: str
    """Source of the images, in a form that does not depend on the working directory."""
    model: Path
    options: EmbedOptions
    runner: Runner
    resize: ResizePolicy
    plan: BatchPlan
    limits: ShardLimits

    @property
    def preprocessor(self) -> Preprocessor:
        """Preprocessor of the model's inputs."""
        return Preprocessor.for_runner(self.runner, self.resize, self.options.max_pixels)

    @property
    def dataset_spec(self) -> DatasetSpec:
        """Types and shapes of the files to write."""
        manifest, names, dense = self.runner.manifest, self.plan.map_names, None
        if names:
            grid = self.resize.fixed_grid if self.resize.kind == "fixed" else None
            dense = DenseSpec(names, manifest.dim, self.plan.map_dtype, self.limits, grid)
        dtype = self.options.dtype or "float32"
        return DatasetSpec(manifest.model_dump_json(), manifest.dim, dtype, self.limits, dense, manifest.vectors)

    def record(self, inputs: InputIndex, out: Path) -> dict[str, Any]:
        """Return the content of job.json in the folder `out`: everything that the results depend on."""
        spec = self.dataset_spec
        return {
            "gtsa_kit": __version__,
            "source": record_location(self.source, out),
            "inputs": {"entries": inputs.count, "sha256": inputs.digest},
            "part": list(self.options.part),
            "model": {
                **record_location(str(self.model), out),
                "sha256": model_digest(self.model, self.runner),
                "import_options": asdict(self.options.load.import_options),
            },
            "preprocessing": self.runner.manifest.preprocessing,
            "resize": asdict(self.resize),
            "vectors": {"dtype": spec.dtype, "dim": spec.dim, "outputs": list(spec.vectors)},
            "dense": asdict(spec.dense) if spec.dense else None,
            "shards": asdict(spec.limits),
            "batch_size": self.plan.batch_size,
            "max_pixels": self.options.max_pixels,
            "frames": self.options.frames,
            "manifest": spec.manifest,
        }


def plan_job(source: str, model: Path, options: EmbedOptions, runner: Runner) -> EmbeddingJob:
    """Choose sizes, batches and shards for a job.

    Raises:
        ValueError: Options exclude each other, or the model does not support one.
    """
    require_features(runner)
    check_frames(runner, options.frames)
    manifest, map_dtype = runner.manifest, options.dtype or "float16"
    resize = choose_resize_policy(manifest, options.size, options.short_side, options.native)
    names = map_output_names(runner, options.load.layers) if options.dense or options.load.layers else ()
    limits = choose_shard_limits(resize, names, manifest.dim, map_dtype, options.rows_per_shard)
    batch_size = choose_batch_size(runner, options.batch_size)
    plan = BatchPlan(batch_size, options.workers or available_cores(), names, map_dtype, options.dtype or "float32")
    return EmbeddingJob(source, model, options, runner, resize, plan, limits)


def spec_from_record(record: dict[str, Any]) -> DatasetSpec:
    """Return the types and shapes of the files that job.json describes."""
    vectors, limits, dense = record["vectors"], ShardLimits(**record["shards"]), record["dense"]
    maps = None
    if dense:
        grid = tuple(dense["grid"]) if dense["grid"] else None
        maps = DenseSpec(tuple(dense["outputs"]), dense["dim"], dense["dtype"], limits, grid)
    outputs = tuple(vectors["outputs"])
    return DatasetSpec(record["manifest"], vectors["dim"], vectors["dtype"], limits, maps, outputs)
