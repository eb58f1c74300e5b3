"""Speed of embedding a folder of JPEG images, compared with its parts and with a simple loop.

Run: .venv/bin/python benchmarks/embedding.py --images FOLDER [--format openvino] [--precision fp32] [--input uint8]
     [--count 256] [--rounds 5] [--source RUN] [--json FILE]

All tasks alternate in one process, so that other load on the machine affects them alike. Results are medians over the
rounds. The upper bound is the rate of decoding and the model one after the other, each on all cores: no program that
does both on the same cores can be faster.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from inference import describe_machine, random_run
from PIL import Image
from rich.console import Console
from rich.table import Table

from gtsa_kit.data.image_files import find_images
from gtsa_kit.embedding import read_dataset
from gtsa_kit.embedding.job import EmbeddingJob, plan_job
from gtsa_kit.embedding.options import EmbedOptions
from gtsa_kit.embedding.run import embed_folder
from gtsa_kit.export import load
from gtsa_kit.export.api import load_encoder
from gtsa_kit.export.parity_images import load_parity_images
from gtsa_kit.export.pipeline import export_artifact, read_calibration
from gtsa_kit.export.source import open_source
from gtsa_kit.export.spec import SUFFIX, ExportOptions

LOOP_IMAGES = 8
"""Images of the simple loop in each round: it is slow, and its rate varies little."""
COMPARED_IMAGES = 64
"""Images whose vectors are compared with those of the simple loop."""

Task = tuple[Callable[[], object], int]
"""Function to time, and the number of images that it processes."""

console = Console(highlight=False, width=100)


def make_links(folder: Path, images: Path, count: int) -> list[Path]:
    """Make `count` symbolic links to the images, which repeat."""
    paths = find_images(images).paths
    links = []
    for i in range(count):
        link = folder / f"{i}.jpg"
        link.symlink_to(paths[i % len(paths)].absolute())
        links.append(link)
    return links


def export(run: Path, folder: Path, args: argparse.Namespace) -> Path:
    """Export the model to embed with."""
    path = folder / f"encoder{SUFFIX[args.format]}"
    options = ExportOptions(precision=args.precision, input=args.input)
    calibration = read_calibration(args.images) if args.precision == "int8" else None
    export_artifact(open_source(run), args.format, path, options, load_parity_images(args.images), calibration)
    return path


class SimpleLoop:
    """Loop that opens, resizes, normalizes and encodes one image at a time, in float32."""

    def __init__(self, run: Path) -> None:
        self.encoder = load_encoder(run).eval()

    @torch.inference_mode()
    def __call__(self, paths: list[Path]) -> np.ndarray:
        """Return the vectors (N, D) of the images."""
        vectors = []
        for path in paths:
            image = Image.open(path).convert("RGB")
            vectors.append(self.encoder(torch.from_numpy(self.encoder.preprocessing(image))[None]).embedding.numpy())
        return np.concatenate(vectors)


def make_tasks(job: EmbeddingJob, loop: SimpleLoop, paths: list[Path], folder: Path) -> dict[str, Task]:
    """Return the tasks to time by name."""
    contents, runner, preprocessor = [path.read_bytes() for path in paths], job.runner, job.preprocessor
    batch = np.stack([preprocessor("", content).pixels for content in contents[: job.plan.batch_size]])
    batches = -(-len(paths) // len(batch))

    def decode() -> None:
        with ThreadPoolExecutor(job.plan.workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(lambda content: preprocessor("", content).width, contents))

    def run_model() -> None:
        for _ in range(batches):
            runner(batch)

    def embed() -> None:
        shutil.rmtree(folder / "out", ignore_errors=True)
        embed_folder(folder / "images", job.model, folder / "out", EmbedOptions(), runner=runner)

    return {
        "decode": (decode, len(paths)),
        "model": (run_model, batches * len(batch)),
        "embed": (embed, len(paths)),
        "loop": (lambda: loop(paths[:LOOP_IMAGES]), LOOP_IMAGES),
    }


def time_round(tasks: dict[str, Task]) -> dict[str, float]:
    """Run every task once, and return the rates in images per second and the ratios between them."""
    rates = {}
    for name, (task, count) in tasks.items():
        begin = time.perf_counter()
        task()
        rates[name] = count / (time.perf_counter() - begin)
    rates["bound"] = 1 / (1 / rates["decode"] + 1 / rates["model"])
    return rates | {"embed/bound": rates["embed"] / rates["bound"], "embed/loop": rates["embed"] / rates["loop"]}


def min_cosine(loop: SimpleLoop, paths: list[Path], out: Path) -> float:
    """Return the smallest cosine between vectors of the dataset and of the simple loop."""
    sampled = paths[:: max(1, len(paths) // COMPARED_IMAGES)]
    expected = loop(sampled)
    by_name = {row.path: row.embedding for row in read_dataset(out)}
    vectors = np.stack([by_name[path.name] for path in sampled])
    norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(vectors, axis=1)
    return float(((expected * vectors).sum(1) / norms).min())


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return medians and rounds of all rates, and the smallest cosine to the simple loop."""
    (folder / "run").mkdir()
    run = args.source or random_run(folder / "run")
    artifact = export(run, folder, args)
    (folder / "images").mkdir()
    paths = make_links(folder / "images", args.images, args.count)
    loop, job = SimpleLoop(run), plan_job(str(folder), artifact, EmbedOptions(), load(artifact))
    tasks = make_tasks(job, loop, paths, folder)
    for task, _ in tasks.values():  # warm up
        task()
    rounds = [time_round(tasks) for _ in range(args.rounds)]
    return {
        "provider": job.runner.provider,
        "rates": {name: median(rates[name] for rates in rounds) for name in rounds[0]},
        "rounds": rounds,
        "min_cosine": min_cosine(loop, paths, folder / "out"),
    }


def make_table(result: dict[str, Any]) -> Table:
    """Return a table of the medians."""
    title = f"images per second, {result['provider']}"
    table = Table(title=title, title_justify="left", box=None, show_header=False)
    rates = result["rates"]
    for name, description in (
        ("decode", "decoding and resizing, all cores"),
        ("model", "the model, all cores"),
        ("bound", "both, one after the other: the upper bound"),
        ("embed", "gtsa embed"),
        ("loop", "simple loop: Pillow, float32, one at a time"),
    ):
        table.add_row(description, f"{rates[name]:.1f}")
    table.add_row("gtsa embed, fraction of the upper bound", f"{rates['embed/bound']:.3f}")
    table.add_row("gtsa embed, speedup over the simple loop", f"{rates['embed/loop']:.2f}")
    table.add_row("smallest cosine to the simple loop", f"{result['min_cosine']:.7f}")
    return table


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--format", default="openvino")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--input", default="uint8")
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--source", type=Path, help="a run of ViT-S/16; by default random weights")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    args = parse_args()
    environment = describe_machine() | {"load": os.getloadavg()[0]}
    console.print("\n".join(f"{name}: {value}" for name, value in environment.items()))
    with tempfile.TemporaryDirectory() as folder:
        result = measure(args, Path(folder))
    console.print(make_table(result))
    if args.json:
        args.json.write_text(json.dumps({"machine": environment} | result, indent=2))


if __name__ == "__main__":
    main()
