"""Teacher and student of short runs, compared by a linear probe, for several settings of the teacher's momentum.

Run: .venv/bin/python benchmarks/teacher_momentum.py --data ../shared/data --out runs/momentum [--momentum 0.99,auto]
     [--steps 200] [--batch 32] [--seeds 1] [--method gtsa] [--json FILE]

Each run trains ViT-mini on scenes/ with crops of 96 and 48 pixels. The probe is a linear layer on the patch tokens of
CamVid in tiles of 96 pixels; the value is mIoU in percent on its validation images. The initial share is the product of
the momenta of all steps: the fraction of the teacher that is still the initial weights. Finished runs and probes in
--out are kept.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from study.probes import segmentation_probes

from gtsa_kit.cli.support.progress import make_console
from gtsa_kit.cli.support.training_display import training_display
from gtsa_kit.config import RunConfig, load_config
from gtsa_kit.evaluation.models import Model, encoder_runner, random_runner
from gtsa_kit.evaluation.runs import train_all
from gtsa_kit.export.source import ImportOptions, open_source
from gtsa_kit.files import read_json_lines, write_json

ARCH = "vit_mini"
SIZE = 96
"""Side in pixels of the global views and of the tiles of the probe."""
SETTINGS: dict[str, Any] = {
    "model.arch": ARCH,
    "model.projector_dim": 192,
    "optim.lr": 6e-3,
    "optim.warmup_epochs": 0.5,
    "dino.temperature_warmup_epochs": 0.0,
    "dino.final_teacher_temperature": 0.04,
    "dino.freeze_epochs": 0.5,
    "train.checkpoint_every": 50,
    "train.keep_checkpoints": 1,
}
"""Settings of all runs, on top of the preset `quick`, which has crops of 2 x 96 and 4 x 48 pixels and small heads."""


def main() -> None:
    """Train, probe, print the table, and write the results."""
    args = parse_arguments()
    configs = {
        f"{args.method}-{args.steps}-{momentum}-{seed}": run_config(args, momentum, seed)
        for momentum in args.momentum.split(",")
        for seed in range(args.seeds)
    }
    with training_display(make_console()) as display:
        runs = train_all(configs, args.out, lambda name: display)
    rows = [probe_random(args, seed) for seed in range(args.seeds)]
    for name, run in runs.items():
        rows += [probe_branch(args, name, run, branch) for branch in ("teacher", "student")]
    Console().print(as_table(rows))
    if args.json:
        write_json(args.json, {"settings": {k: str(v) for k, v in vars(args).items()}, "rows": rows})


def parse_arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with scenes/ and camvid/")
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and results")
    parser.add_argument("--momentum", default="0.99,auto", help="values of optim.teacher_momentum, by commas")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--method", default="gtsa", choices=("gtsa", "dino", "mocov3"))
    parser.add_argument("--json", type=Path, help="file for the results")
    return parser.parse_args()


def run_config(args: argparse.Namespace, momentum: str, seed: int) -> RunConfig:
    """Return the settings of one run."""
    own = {
        "data": str((args.data / "scenes").absolute()),
        "method": args.method,
        "optim.teacher_momentum": momentum if momentum == "auto" else float(momentum),
        "train.batch_size": args.batch,
        "train.steps": args.steps,
        "train.seed": seed,
        "train.validate_images": 0,
        "train.log_every": 1,
    }
    return load_config("quick", None, {**SETTINGS, **own})


def probe_random(args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Return the row of the initial weights."""
    model = Model("random", random_runner(ARCH, seed), None)
    return {"run": "random weights", "seed": seed, "miou": probe(args, model, f"random-{seed}")}


def probe_branch(args: argparse.Namespace, name: str, run: Path, branch: str) -> dict[str, Any]:
    """Return the row of a run's teacher or student."""
    source = open_source(run, ImportOptions(branch=branch))  # type: ignore[arg-type]
    momenta = [row["teacher_momentum"] for row in read_json_lines(run / "metrics.jsonl")]
    return {
        "run": name,
        "branch": branch,
        "initial_share": math.prod(momenta),
        "momentum": [momenta[0], momenta[-1]],
        "miou": probe(args, Model(branch, encoder_runner(source.encoder, source.sha256), None), f"{name}-{branch}"),
    }


def probe(args: argparse.Namespace, model: Model, name: str) -> float:
    """Return the mIoU in percent; a value from an earlier call is read from its file."""
    file = args.out / f"{name}.json"
    if not file.exists():
        [value] = segmentation_probes(args.data, 1, SIZE)["tiles"](model)["camvid_tiles"]
        write_json(file, {"miou": value})
    return float(json.loads(file.read_text())["miou"])


def as_table(rows: list[dict[str, Any]]) -> Table:
    """Build the table of results."""
    table = Table(
        "run", "branch", "momentum", "initial share %", "CamVid mIoU %", title="teacher and student", box=None
    )
    for row in rows:
        momentum = "{:.4f} to {:.4f}".format(*row["momentum"]) if "momentum" in row else ""
        share = f"{100 * row['initial_share']:.3g}" if "initial_share" in row else "100"
        table.add_row(row["run"], row.get("branch", ""), momentum, share, f"{row['miou']:.1f}")
    return table


if __name__ == "__main__":
    main()
