"""A job: images through a model into a dataset folder, that can be stopped anywhere and taken up again."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from gtsa_kit import __version__
from gtsa_kit.config import PATCH
from gtsa_kit.data.image_io import MAX_PIXELS
from gtsa_kit.data.sources import open_source
from gtsa_kit.embedding.dense import DenseSpec
from gtsa_kit.embedding.engine import Engine, LocalEngine, Plan
from gtsa_kit.embedding.input_index import Listing, describe_changes, open_listing, write_listing
from gtsa_kit.embedding.model import map_outputs, model_digest
from gtsa_kit.embedding.preprocess import Decoder
from gtsa_kit.embedding.resize_policy import ResizePolicy, size_rule
from gtsa_kit.embedding.rows import Failure, ShardRule
from gtsa_kit.embedding.store import DENSE, ERRORS, JOB, JOURNAL, VECTORS, Store, StoreSpec, read_journal
from gtsa_kit.export import Runner, load
from gtsa_kit.files import write_json
from gtsa_kit.hardware import available_cores

LISTING = "listing.sqlite"
SHARD_BYTES = 64_000_000
SHARD_ROWS = 1024
RAGGED_CELLS = (8192, 65536)
BATCH = {"cpu": 32, "cuda": 128}


def batch_for(runner: Runner, asked: int | None = None) -> int:
    """Images at a time: what is asked for, else what suits its device; within what it takes."""
    usual = BATCH["cuda" if "cuda" in runner.provider.lower() else "cpu"]
    return runner.manifest.range_of("batch").clamp(asked or usual)


Dtype = Literal["float16", "float32"]


@dataclass(frozen=True)
class Options:
    """What is asked for."""

    dense: bool = False
    layers: tuple[int, ...] = ()
    size: tuple[int, int] | None = None
    short_side: int | None = None
    native: bool = False
    dtype: Dtype | None = None
    """None: float32 vectors, float16 maps."""
    batch: int | None = None
    workers: int | None = None
    fail: bool = False
    """End at the first file that can't be used."""
    resume: bool = False
    engine: Literal["local", "ray"] = "local"
    part: tuple[int, int] = (1, 1)
    """(I, N): the I-th of N parts, from 1."""
    digest: bool = False
    max_pixels: int = MAX_PIXELS
    shard_rows: int | None = None
    device: str = "auto"
    provider: str = "auto"
    """Of ONNX Runtime, with its folder of engines, and whether it may fall back."""
    engine_cache: Path | None = None
    fallback: bool = False

    @property
    def opening(self) -> dict[str, Any]:
        """What `load` asks for."""
        names = ("device", "layers", "provider", "engine_cache", "fallback")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Progress:
    """How far a job is."""

    done: int
    total: int
    errors: int


@dataclass(frozen=True)
class Summary:
    """What a job left."""

    out: Path
    rows: int
    errors: int
    total: int
    fresh: int
    """Images that this call went through; the others were there."""


class BadFile(RuntimeError):
    """The first file that can't be used, where none may be."""


@dataclass(frozen=True)
class Job:
    """Everything that is decided before the first image is read."""

    where: str
    model: Path
    out: Path
    options: Options
    runner: Runner
    sizes: ResizePolicy = field(init=False)
    outputs: tuple[str, ...] = field(init=False)
    plan: Plan = field(init=False)

    def __post_init__(self) -> None:
        """Decide."""
        asked, manifest = self.options, self.runner.manifest
        sizes = size_rule(manifest, asked.size, asked.short_side, asked.native)
        outputs = map_outputs(self.runner, asked.layers) if asked.dense or asked.layers else ()
        rule = shard_rule(sizes, outputs, manifest.dim, self.map_dtype, asked.shard_rows)
        batch = batch_for(self.runner, asked.batch)
        plan = Plan(batch, asked.workers or available_cores(), rule, outputs, self.map_dtype)
        for name, value in (("sizes", sizes), ("outputs", outputs), ("plan", plan)):
            object.__setattr__(self, name, value)

    @property
    def map_dtype(self) -> str:
        """Of feature maps."""
        return self.options.dtype or "float16"

    @property
    def decoder(self) -> Decoder:
        """For this model."""
        as_bytes = self.runner.manifest.inputs[0].dtype == "uint8"
        return Decoder(self.runner.preprocessing, self.sizes, as_bytes, self.options.max_pixels, self.options.digest)

    @property
    def store_spec(self) -> StoreSpec:
        """What the files are like."""
        dim, dtype = self.runner.manifest.dim, self.options.dtype or "float32"
        dense = None
        if self.outputs:
            fixed = self.sizes.kind == "fixed"
            grid = (self.sizes.side[0] // PATCH, self.sizes.side[1] // PATCH) if fixed else None
            dense = DenseSpec(self.outputs, dim, self.map_dtype, self.plan.rule, grid)
        return StoreSpec(self.runner.manifest.model_dump_json(), dim, dtype, self.options.digest, self.plan.rule, dense)

    def record(self, listing: Listing) -> dict[str, Any]:
        """job.json: everything that results depend on."""
        spec = self.store_spec
        return {
            "gtsa_kit": __version__,
            "source": self.where,
            "listing": {"entries": listing.count, "sha256": listing.digest},
            "part": list(self.options.part),
            "model": {"path": str(self.model), "sha256": model_digest(self.model, self.runner)},
            "preprocessing": self.runner.manifest.preprocessing,
            "sizes": asdict(self.sizes),
            "vectors": {"dtype": spec.dtype, "dim": spec.dim, "sha256": spec.digest},
            "dense": asdict(spec.dense) if spec.dense else None,
            "shards": asdict(spec.rule),
            "batch": self.plan.batch,
            "max_pixels": self.options.max_pixels,
            "manifest": spec.manifest,
        }


def embed_folder(
    where: str | Path,
    model: str | Path,
    out: str | Path,
    options: Options = Options(),
    on_progress: Callable[[Progress], None] = lambda _: None,
    runner: Runner | None = None,
) -> Summary:
    """Embed images into the dataset folder `out`.

    Args:
        where: As `sources.open_source` takes it.
        model: What `gtsa_kit.export.load` opens.
        out: New or empty; with `options.resume`, one that an earlier call began.
        options: See there.
        on_progress: Told after every image.
        runner: `model`, opened before.

    Raises:
        ValueError: Wrong use, or something has changed since the job began.
        BadFile: With `options.fail`.
        OSError: The folder can't be written; what is committed stays, and the job can go on.
    """
    path, out = Path(model), Path(out)
    check_out(out, options.resume)
    source = open_source(str(where))
    job = Job(str(where), path, out, options, runner or load(path, **options.opening))
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        listing = create_or_resume(job, source)
        first, last = part_of(listing.count, options.part)
        with closing(Store(out, job.store_spec, first)) as store:
            begun = store.journal.place
            if store.journal.complete:
                return Summary(out, store.rows, store.errors, last - first, 0)
            engine = make_engine(job, source)
            on_progress(Progress(begun - first, last - first, store.errors))
            for result in engine(listing.read(begun, last)):
                store.add(result)
                on_progress(Progress(result.place + 1 - first, last - first, store.errors))
                if options.fail and isinstance(result, Failure):
                    raise BadFile(f"{result.name}: {result.reason}; go on without it by --resume --on-error skip")
            store.finish(last)
        return Summary(out, store.rows, store.errors, last - first, last - begun)


def make_engine(job: Job, source: Any) -> Engine:
    """What is asked for."""
    if job.options.engine == "ray":
        from gtsa_kit.embedding.ray_engine import RayEngine

        return RayEngine(job)
    return LocalEngine(source, job.runner, job.decoder, job.plan)


def check_out(out: Path, resume: bool) -> None:
    """Raise `ValueError` where something would be mixed up or lost."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; name a folder")
    found = {path.name for path in out.iterdir()} if out.exists() else set()
    if JOB in found:
        if not resume:
            raise ValueError(f"{out} holds a job already; go on with it by --resume, or choose another folder")
        return
    if strangers := sorted(name for name in found if name != LISTING and not name.startswith(".")):
        raise ValueError(f"{out} is not empty ({strangers[0]}); choose a new folder")


def create_or_resume(job: Job, source: Any) -> Listing:
    """Write the listing and job.json, or compare with those that are there.

    Raises:
        ValueError: Something has changed; the message says what, and what to do.
    """
    before = job.out / JOB
    if not before.exists():
        listing = write_listing(source, job.out / LISTING)
        write_json(before, job.record(listing))
        return listing
    now = write_listing(source, job.out / ".listing.new.sqlite")
    try:
        old, new = json.loads(before.read_text(encoding="utf-8")), json.loads(json.dumps(job.record(now)))
        changed = [name for name in new if new[name] != old.get(name) and name not in ("source", "gtsa_kit", "listing")]
        if "model" in changed and old["model"]["sha256"] == new["model"]["sha256"]:
            changed.remove("model")  # the same, from another place
        if changed:
            said = "; ".join(f"{name}: {_short(old.get(name))} before, {_short(new[name])} now" for name in changed[:1])
            raise ValueError(
                f"{job.out} was begun otherwise ({', '.join(changed)} changed). {said.replace(';', ',')}; "
                "use what was used then, or embed into another folder"
            )
        if old["listing"] != new["listing"]:
            what = describe_changes(job.out / LISTING, now.path)
            raise ValueError(
                f"the images of {job.where} have changed since {job.out} was begun: {what}; "
                "embed them into another folder"
            )
    finally:
        now.path.unlink(missing_ok=True)
    return open_listing(job.out / LISTING)


def shard_rule(
    sizes: ResizePolicy, outputs: tuple[str, ...], dim: int, dtype: str, rows: int | None = None
) -> ShardRule:
    """Shards of about `SHARD_BYTES`, at most `SHARD_ROWS` rows."""
    cell = dim * (2 if dtype == "float16" else 4) * len(outputs)
    if not outputs:
        return ShardRule(rows or SHARD_ROWS)
    if sizes.kind == "fixed":
        grid = (sizes.side[0] // PATCH) * (sizes.side[1] // PATCH)
        return ShardRule(rows or min(SHARD_ROWS, max(16, _power_of_two(SHARD_BYTES // (cell * grid)))))
    least, most = RAGGED_CELLS
    return ShardRule(rows or SHARD_ROWS, max(least, min(most, _power_of_two(SHARD_BYTES // cell))))


def part_of(count: int, part: tuple[int, int]) -> tuple[int, int]:
    """Places [first, last) of the I-th of N parts."""
    index, parts = part
    if not 1 <= index <= parts:
        raise ValueError(f"--shard I/N counts from 1/N to N/N, got {index}/{parts}")
    return count * (index - 1) // parts, count * index // parts


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keep a second process from writing into the same folder; the lock goes with the process."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with open(out / ".lock", "wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"another process is writing into {out}; wait for it, or choose another folder") from error
        yield


def _power_of_two(most: int) -> int:
    return 1 << max(0, most.bit_length() - 1)


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) < 120 else text[:117] + "..."


__all__ = ["DENSE", "ERRORS", "JOURNAL", "VECTORS", "Job", "Options", "embed_folder", "read_journal"]
