"""Peak memory of embedding, by the number of entries: links to one file, with the smallest model.

Run: .venv/bin/python benchmarks/embedding_memory.py [--counts 1000,100000,1000000] [--embed 2000]

Each count has a process of its own. Listing is measured over all entries; of them `--embed` are then embedded, since
what embedding holds in memory does not depend on how many come after.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image


def measure(count: int, embedded: int) -> tuple[float, float]:
    """Peak resident memory in MB: before the listing, and at the end."""
    from gtsa_kit.data.sources import open_source
    from gtsa_kit.embedding.input_index import write_input_index
    from gtsa_kit.embedding.iterate import embed
    from gtsa_kit.models.encoder import Encoder
    from gtsa_kit.models.weights import save_encoder

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model").mkdir()
        save_encoder(folder / "model", Encoder("vit_test").vit.state_dict(), "vit_test", {})
        image = folder / "a.jpg"
        Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(image)
        for i in range(count):
            if i % 1000 == 0:
                some = folder / "in" / str(i // 1000)
                some.mkdir(parents=True)
            (some / f"{i}.jpg").symlink_to(image)
        list(islice(embed(image, folder / "model", size=(32, 32)), 1))
        before = peak()
        inputs = write_input_index(open_source(str(folder / "in")), folder / "input_index.sqlite")
        assert inputs.count == count
        for _ in inputs.read(0, count):
            pass
        some = folder / "in" / "0"
        list(islice(embed(some, folder / "model", size=(32, 32)), embedded))
        return before, peak()


def peak() -> float:
    """Of this process, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", default="1000,100000,1000000")
    parser.add_argument("--embed", type=int, default=1000)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        before, after = measure(args.one, args.embed)
        print(
            f"{args.one:>9} entries: {before:.0f} MB before, {after:.0f} MB at the peak, {after - before:.0f} MB more"
        )
        return
    for count in args.counts.split(","):
        subprocess.run([sys.executable, __file__, "--one", count, "--embed", str(args.embed)], check=True)


if __name__ == "__main__":
    main()
