"""Embedding a folder of JPEG images, end to end, beside its parts and beside the loop that people write first.

Run: .venv/bin/python benchmarks/embedding.py --images FOLDER [--format openvino] [--precision fp32] [--input uint8]
     [--count 256] [--rounds 5] [--source RUN] [--json FILE]

Parts and wholes take turns in one process, so that what else the machine does hits all alike; figures are medians over
the rounds. The floor is what decoding and the model cost one after the other on all cores: nothing that does both on
the same cores can be faster.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
import torch
from inference import machine, random_run
from PIL import Image
from rich.console import Console
from rich.table import Table

from gtsa_kit.data.image_files import find_images
from gtsa_kit.embedding import read_dataset
from gtsa_kit.embedding.job import plan_job
from gtsa_kit.embedding.options import EmbedOptions
from gtsa_kit.embedding.run import embed_folder
from gtsa_kit.export import load
from gtsa_kit.export.parity_images import load_parity_images
from gtsa_kit.export.pipeline import export_artifact, read_calibration
from gtsa_kit.export.source import open_source
from gtsa_kit.export.spec import SUFFIX, ExportOptions
from gtsa_kit.models.weights import load_encoder

NAIVE = 8
"""Images a round of the loop that people write first: it is slow, and its rate is steady."""
console = Console(highlight=False, width=100)


def links(folder: Path, images: Path, count: int) -> list[Path]:
    """`count` links to the images, repeated."""
    paths = find_images(images).paths
    made = []
    for i in range(count):
        link = folder / f"{i}.jpg"
        link.symlink_to(paths[i % len(paths)].absolute())
        made.append(link)
    return made


def export(run: Path, folder: Path, args: argparse.Namespace) -> Path:
    """The artifact to embed with."""
    path = folder / f"encoder{SUFFIX[args.format]}"
    options = ExportOptions(precision=args.precision, input=args.input)
    calibration = read_calibration(args.images) if args.precision == "int8" else None
    export_artifact(open_source(run), args.format, path, options, load_parity_images(args.images), calibration)
    return path


class Naive:
    """Open, resize, normalize, encode in float32, one image at a time."""

    def __init__(self, run: Path) -> None:
        self.encoder = load_encoder(run).eval()

    @torch.inference_mode()
    def __call__(self, paths: list[Path]) -> np.ndarray:
        """(N, D)."""
        found = []
        for path in paths:
            image = Image.open(path).convert("RGB")
            found.append(self.encoder(torch.from_numpy(self.encoder.preprocessing(image))[None]).embedding.numpy())
        return np.concatenate(found)


def measure(args: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Rates in images a second, and the worst cosine to the naive loop."""
    (folder / "run").mkdir()
    run = args.source or random_run(folder / "run")
    artifact = export(run, folder, args)
    (folder / "images").mkdir()
    paths = links(folder / "images", args.images, args.count)
    naive, runner = Naive(run), load(artifact)
    job = plan_job(str(folder), artifact, EmbedOptions(), runner)
    preprocessor = job.preprocessor
    contents = [path.read_bytes() for path in paths]
    images = np.stack([preprocessor("", content).pixels for content in contents[: job.plan.batch_size]])

    def decode_all() -> None:
        with ThreadPoolExecutor(job.plan.workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(lambda content: preprocessor("", content).width, contents))

    def model_all() -> None:
        for _ in range(0, args.count, len(images)):
            runner(images)

    def whole() -> None:
        shutil.rmtree(folder / "out", ignore_errors=True)
        embed_folder(folder / "images", artifact, folder / "out", EmbedOptions(), runner=runner)

    model_count = -(-args.count // len(images)) * len(images)
    tasks = {
        "decode": (decode_all, args.count),
        "model": (model_all, model_count),
        "whole": (whole, args.count),
        "naive": (lambda: naive(paths[:NAIVE]), NAIVE),
    }
    for work, _ in tasks.values():
        work()
    rounds: list[dict[str, float]] = []
    for _ in range(args.rounds):
        rates = {}
        for name, (work, count) in tasks.items():
            begin = time.perf_counter()
            work()
            rates[name] = count / (time.perf_counter() - begin)
        rates["floor"] = 1 / (1 / rates["decode"] + 1 / rates["model"])
        rounds.append(
            rates | {"of the floor": rates["whole"] / rates["floor"]} | {"of naive": rates["whole"] / rates["naive"]}
        )
    some = paths[:: max(1, args.count // 64)]
    wanted = naive(some)
    rows = read_dataset(folder / "out")
    by_name = {row.path: row.embedding for row in rows}
    found = np.stack([by_name[path.name] for path in some])
    cosines = (wanted * found).sum(1) / np.linalg.norm(wanted, axis=1) / np.linalg.norm(found, axis=1)
    return {
        "provider": runner.provider,
        "rates": {name: median(one[name] for one in rounds) for name in rounds[0]},
        "rounds": rounds,
        "worst cosine": float(cosines.min()),
    }


def show(found: dict[str, object]) -> Table:
    table = Table(title=f"images a second, {found['provider']}", title_justify="left", box=None, show_header=False)
    rates: dict[str, float] = found["rates"]  # type: ignore[assignment]
    for name, said in (
        ("decode", "decoding and resizing, all cores"),
        ("model", "the model, all cores"),
        ("floor", "both, one after the other: the floor"),
        ("whole", "gtsa embed"),
        ("naive", "float32, one at a time, Pillow"),
    ):
        table.add_row(said, f"{rates[name]:.1f}")
    table.add_row("gtsa embed, of the floor", f"{rates['of the floor']:.3f}")
    table.add_row("gtsa embed, times the naive loop", f"{rates['of naive']:.2f}")
    table.add_row("worst cosine to the naive loop", f"{found['worst cosine']:.7f}")
    return table


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--format", default="openvino")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--input", default="uint8")
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--source", type=Path, help="a run of ViT-S/16; random weights without")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    about = machine() | {"load": os.getloadavg()[0]}
    console.print("\n".join(f"{name}: {value}" for name, value in about.items()))
    with tempfile.TemporaryDirectory() as folder:
        found = measure(args, Path(folder))
    console.print(show(found))
    if args.json:
        args.json.write_text(json.dumps({"machine": about} | found, indent=2))


if __name__ == "__main__":
    main()
