"""Memory and CPU time of training by architecture, size of the views and precision: the table of docs/budget.md.

Run: .venv/bin/python benchmarks/budget.py [--archs vit_tiny,vit_small,vit_base] [--sizes 112,224] [--threads 1]
     [--precisions fp32,bf16]

Each row is what `gtsa train` measures before its first step: forward and backward passes of two and four random images
with random weights and the paper's ten views, by the settings of the run. No images are read. MB per image contain the
margin of 15% that training adds; weights are those of student and teacher with gradients and AdamW's moments.
"""

import argparse
import time
from itertools import product

import torch

from gtsa_kit.config import PATCH, RunConfig, load_config
from gtsa_kit.training.estimate import PROBE_IMAGES, estimate
from gtsa_kit.training.fabric import make_fabric
from gtsa_kit.training.run import build_model
from gtsa_kit.training.start import open_start


def main() -> None:
    """Measure each combination and print a row for it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archs", type=lambda text: text.split(","), default=["vit_tiny", "vit_small", "vit_base"])
    parser.add_argument("--sizes", type=lambda text: list(map(int, text.split(","))), default=[112, 224])
    parser.add_argument("--precisions", type=lambda text: text.split(","), default=["fp32", "bf16"])
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(
        "| architecture | views | precision | weights, MB | MB per image | CPU s per image |\n|---|---|---|---|---|---|"
    )
    for arch, size, precision in product(args.archs, args.sizes, args.precisions):
        config = training_config(arch, size, precision)
        views = f"{config.views.global_crops} x {size}, {config.views.local_crops} x {config.views.local_size}"
        weights, each, seconds = measure(config)
        print(
            f"| {arch} | {views} | {precision} | {weights / 1e6:,.0f} | {each / 1e6:.0f} | {seconds:.2f} |", flush=True
        )


def training_config(arch: str, size: int, precision: str) -> RunConfig:
    """Return the settings of the paper with an architecture, a side of the global views and a precision."""
    local = round(size * 96 / 224 / PATCH) * PATCH
    changed = {"model.arch": arch, "views.global_size": size, "views.local_size": local, "train.precision": precision}
    return load_config(overrides={**changed, "train.batch_size": PROBE_IMAGES[1]})


def measure(config: RunConfig) -> tuple[int, int, float]:
    """Return bytes of weights and optimizer, bytes of each image, and CPU seconds of forward and backward for each."""
    fabric, start = make_fabric(config.train), open_start(config)
    model = build_model(config, fabric, start)
    trained = sum(weight.nbytes for weight in model.parameters() if weight.requires_grad)
    # Gradients and the two moments of AdamW come on top of all weights, those of the teacher included.
    weights = sum(weight.nbytes for weight in model.parameters()) + 3 * trained
    before = time.process_time()
    measured = estimate(lambda: model, config, fabric)
    return weights, measured.per_image, (time.process_time() - before) / sum(PROBE_IMAGES)


if __name__ == "__main__":
    main()
