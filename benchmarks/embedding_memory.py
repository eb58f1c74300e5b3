"""Peak memory of embedding by the number of inputs, which are links to one file, with the smallest model.

Run: .venv/bin/python benchmarks/embedding_memory.py [--counts 1000,100000,1000000] [--embed 1000]

Each count is measured in its own process, which indexes all inputs on the disk and then embeds `--embed` of them. The
memory of embedding does not depend on the number of the other inputs.
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

FILES_PER_FOLDER = 1000


def measure(count: int, embedded: int) -> tuple[float, float]:
    """Return the peak memory in MB before the inputs are indexed, and at the end.

    Args:
        count: Number of inputs.
        embedded: Number of inputs to embed.
    """
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
            subfolder = folder / "in" / str(i // FILES_PER_FOLDER)
            if i % FILES_PER_FOLDER == 0:
                subfolder.mkdir(parents=True)
            (subfolder / f"{i}.jpg").symlink_to(image)
        list(islice(embed(image, folder / "model", size=(32, 32)), 1))
        before = peak_memory()
        inputs = write_input_index(open_source(str(folder / "in")), folder / "input_index.sqlite")
        assert inputs.count == count
        for _ in inputs.read(0, count):
            pass
        list(islice(embed(folder / "in" / "0", folder / "model", size=(32, 32)), embedded))
        return before, peak_memory()


def peak_memory() -> float:
    """Return the peak resident memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure one process for each count, and print."""
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
