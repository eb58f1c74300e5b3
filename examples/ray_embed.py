"""Embedding as one step of a pipeline of Ray Data, where `gtsa embed --engine ray` would be the whole job.

Run: python examples/ray_embed.py photos/ --model runs/street/encoder.onnx --out vectors/

The vectors become a Ray dataset, here written as Parquet with the columns `path` and `embedding`; filters, joins and
writers of Ray can follow. All machines need the images and the model under the same paths. `RAY_ADDRESS` names a
cluster; without it Ray starts one on this machine. `gtsa embed --engine ray` adds what this script lacks: resuming,
rows in the order of the paths, dense maps, and a list of unreadable files.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import ray

import gtsa_kit

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff"}


class Embedder:
    """Ray actor that opens the model once and embeds batches of paths."""

    def __init__(self, model: str) -> None:
        self.runner = gtsa_kit.load(model)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return paths and vectors of the images of a batch that can be read."""
        images = [Path(path) for path in batch["path"]]
        items = list(gtsa_kit.embed(images, self.runner, workers=1, on_unreadable=report))
        width = self.runner.manifest.dim
        vectors = np.array([item.features.embedding for item in items], np.float32).reshape(len(items), width)
        return {"path": np.array([item.path for item in items], object), "embedding": vectors}


def report(path: str, reason: str) -> None:
    """Print an unreadable image; Ray shows what its workers print."""
    print(f"{path}: {reason}", file=sys.stderr)


def embed_paths(paths: list[Path], model: Path, workers: int) -> ray.data.Dataset:
    """Return the dataset of vectors; it is computed when it is read or written."""
    return ray.data.from_items([{"path": str(path)} for path in paths]).map_batches(
        Embedder,
        fn_constructor_args=(str(model.absolute()),),
        batch_size=32,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1,
    )


def main() -> None:
    """Embed a folder and write its vectors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="images, searched recursively")
    parser.add_argument("--model", type=Path, required=True, help="exported file or run folder")
    parser.add_argument("--out", type=Path, required=True, help="folder for Parquet files")
    parser.add_argument("--workers", type=int, default=1, help="actors, each with its own model (default 1)")
    args = parser.parse_args()
    paths = sorted(path for path in args.folder.absolute().rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        parser.error(f"there are no images in {args.folder}")
    embed_paths(paths, args.model, args.workers).write_parquet(str(args.out.absolute()))


if __name__ == "__main__":
    main()
