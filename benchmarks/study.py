"""GTSA, DINO, MoCo v3 and random weights on the same images at the same budget; docs/study.md reads the outcome.

Run: .venv/bin/python benchmarks/study.py --data ../shared/data --out runs/study [--scale quick|rates|full]
     [--images N] [--only gtsa,dino] [--seeds 2] [--probes places,tiles] [--json FILE]

Every step is kept in --out: run it again after an interruption, or with more methods or seeds, and it goes on. Runs
differ in the method alone: images and their order, crops, steps, optimizer and schedule are the same.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from gtsa_kit.cli.support.progress import make_console
from gtsa_kit.cli.support.training_display import training_display
from gtsa_kit.config import RunConfig, load_config
from gtsa_kit.data.image_files import find_images
from gtsa_kit.data.label_map import read_mask_options
from gtsa_kit.data.labeled import read_classification_dataset
from gtsa_kit.data.labeled_masks import read_segmentation_dataset
from gtsa_kit.data.multicrop import MultiCropDataset, collate_batches
from gtsa_kit.data.sources import FileSource
from gtsa_kit.evaluation.correspondence import Settings as CorrespondenceSettings
from gtsa_kit.evaluation.correspondence import correspondence
from gtsa_kit.evaluation.dense_tokens import InputOptions
from gtsa_kit.evaluation.embeddings import cached_embedder
from gtsa_kit.evaluation.eval_images import evenly_spaced
from gtsa_kit.evaluation.image_probes import ProbeOptions, knn, linear
from gtsa_kit.evaluation.models import Model, open_models, random_runner
from gtsa_kit.evaluation.rotation import Settings as RotationSettings
from gtsa_kit.evaluation.rotation import rotation
from gtsa_kit.evaluation.runs import StoppedError, train_all
from gtsa_kit.evaluation.segment import SegmentOptions, segment
from gtsa_kit.evaluation.sensitivity import Settings as SensitivitySettings
from gtsa_kit.evaluation.sensitivity import sensitivity
from gtsa_kit.evaluation.support.report import Report
from gtsa_kit.export.runtime.torch_runner import TorchRunner
from gtsa_kit.files import read_json_lines, write_json
from gtsa_kit.methods import make_method
from gtsa_kit.methods.base import Method
from gtsa_kit.methods.gtsa_losses import constant_baseline_loss, correspondence_loss, region_loss
from gtsa_kit.training.checkpoint import load_checkpoint

ARCH = "vit_mini"
SIZE = 96
"""Side of global crops in training, and of every input in the probes but whole frames."""
COMMON: Mapping[str, Any] = {
    "model.arch": ARCH,
    "model.projector_dim": 192,
    "optim.lr": 6e-3,
    "optim.teacher_momentum": 0.99,
    "optim.warmup_epochs": 0.5,
    "dino.temperature_warmup_epochs": 0.0,
    "dino.final_teacher_temperature": 0.04,
    "dino.freeze_epochs": 0.5,
    "train.log_every": 10,
    "train.checkpoint_every": 50,
    "train.keep_checkpoints": 1,
}
"""Over the preset `quick`: crops of 2 x 96 and 4 x 48, small heads."""
METHODS: Mapping[str, Mapping[str, Any]] = {
    "gtsa": {},
    "dino": {"method": "dino"},
    "mocov3": {"method": "mocov3"},
    "gtsa without turns": {"views.rotate": False, "loss.rotation_weight": 0.0},
    "dino with turns": {"method": "dino", "views.rotate": True},
    "dino sharper": {"method": "dino", "dino.teacher_temperature": 0.02, "dino.final_teacher_temperature": 0.02},
    "gtsa weaker colors": {"views.jitter_strength": 0.5},
    "gtsa l": {"loss.correspondence_weight": 0.0, "loss.rotation_weight": 0.0},
    "gtsa l + l_pc": {"loss.rotation_weight": 0.0},
}
RANDOM = "random"
MAIN = ("gtsa", "dino", "mocov3")
RATES: Mapping[str, Mapping[str, Any]] = {
    f"{method} {name}": {**METHODS[method], "optim.lr": factor * COMMON["optim.lr"]}
    for name, factor in (("slower", 0.5), ("faster", 2.0))
    for method in MAIN
}
"""Whether another learning rate would have served a method better."""
ALL = {**METHODS, **RATES}


@dataclass(frozen=True)
class Scale:
    """How much of it."""

    images: int
    """Seen by each run, repetitions counted."""
    batch: int
    seeds: int
    """Of the pretraining of the three methods; controls have one."""
    methods: tuple[str, ...]
    probes: tuple[str, ...]
    probe_seeds: int = 3


PROBES = ("places", "places linear", "tiles", "tiles k-NN", "whole", "geometry", "turn", "variance")
SCALES = {
    "quick": Scale(
        images=9_600, batch=32, seeds=1, methods=MAIN, probes=("places", "places linear", "tiles", "geometry")
    ),
    "rates": Scale(images=9_600, batch=32, seeds=1, methods=(*MAIN, *RATES), probes=("places",)),
    "full": Scale(images=19_200, batch=32, seeds=2, methods=tuple(METHODS), probes=PROBES),
}
"""`rates` goes on from `quick` in the same folder."""

MEASURES = {
    "places_knn": "places k-NN, top-1 %",
    "places_linear": "places linear, top-1 %",
    "camvid_tiles": "CamVid mIoU %, 96-pixel tiles",
    "camvid_tiles_knn": "the same, k-NN",
    "camvid_whole": "CamVid mIoU %, whole frames",
    "crop": "places found across a crop %",
    "crop_turn": "across a crop and a turn %",
    "turn": "turn by a linear probe %",
    "embedding_rank": "rank, pooled",
    "token_rank": "rank, tokens",
    "moved_by_color": "pooled output moved by color %",
    "moved_by_turn": "by a turn %",
    "moved_by_crop": "by a crop %",
}


def settings(method: str, seed: int, scale: Scale, data: Path) -> RunConfig:
    """Of one run."""
    own = {
        "data": str(data.absolute()),
        "train.batch_size": scale.batch,
        "train.steps": scale.images // scale.batch,
        "train.seed": seed,
    }
    return load_config("quick", None, {**COMMON, **ALL[method], **own})


def folder_of(method: str, seed: int) -> str:
    return f"{method.replace(' + ', '-').replace(' ', '-')}-{seed}"


def runs_of(scale: Scale) -> list[tuple[str, int]]:
    """Methods and seeds in the order of work: first what the question is about, once."""
    main, controls = [m for m in scale.methods if m in MAIN], [m for m in scale.methods if m not in MAIN]
    rest = [(method, seed) for seed in range(1, scale.seeds) for method in main]
    return [(method, 0) for method in main] + rest + [(method, 0) for method in controls]


def pretrain(runs: Sequence[tuple[str, int]], scale: Scale, data: Path, out: Path) -> dict[tuple[str, int], Path]:
    """Train what is not trained yet; Ctrl-C saves."""
    configs = {folder_of(*run): settings(*run, scale, data) for run in runs}
    with training_display(make_console()) as display:
        paths = train_all(configs, out / "runs", lambda name: display)
    return {run: paths[folder_of(*run)] for run in runs}


def some_images(data: Path) -> list[Path]:
    """On which places are looked for again."""
    return evenly_spaced(find_images(data / "scenes" / "coco").paths, 150)


Probe = Callable[[Model], Mapping[str, list[float]]]


def make_probes(data: Path, names: Sequence[str], seeds: int) -> Mapping[str, Probe]:
    """Probes by name; each gives values by measure, one for each seed of the probe."""
    places = read_classification_dataset(data / "scenes" / "places")
    camvid = read_segmentation_dataset(data / "camvid", options=read_mask_options(None, ["11"]))
    coco = find_images(data / "scenes" / "coco").paths
    many = evenly_spaced(coco + find_images(data / "scenes" / "bsds").paths, 600)
    some, numbers = some_images(data), list(range(seeds))
    options = ProbeOptions(seeds=seeds, size=SIZE)

    embed = cached_embedder()

    def places_knn(model: Model) -> dict[str, list[float]]:
        return {"places_knn": column(knn([model], places, options, embed=embed), "top1")}

    def places_linear(model: Model) -> dict[str, list[float]]:
        return {"places_linear": column(linear([model], places, options, embed=embed), "top1")}

    def masks(measure: str, framing: InputOptions, by: str) -> Probe:
        def probe(model: Model) -> dict[str, list[float]]:
            return {measure: column(segment([model], camvid, SegmentOptions(framing, (by,), seeds=seeds)), "miou")}

        return probe

    def geometry(model: Model) -> dict[str, list[float]]:
        report = correspondence([model], some, CorrespondenceSettings(size=SIZE), numbers)
        own = [row for row in report.rows if row["model"] == model.name]
        return {key: [row[key] for row in own] for key in ("crop", "crop_turn")}

    def turn(model: Model) -> dict[str, list[float]]:
        report = rotation([model], many, RotationSettings(size=SIZE), numbers)
        names = {"accuracy": "turn", "embedding_rank": "embedding_rank", "token_rank": "token_rank"}
        return {new: column(report, old) for old, new in names.items()}

    def variance(model: Model) -> dict[str, list[float]]:
        report = sensitivity([model], some, SensitivitySettings(size=SIZE), numbers)
        return {f"moved_by_{key}": column(report, key) for key in ("color", "turn", "crop")}

    probes: dict[str, Probe] = {
        "places": places_knn,
        "places linear": places_linear,
        "tiles": masks("camvid_tiles", InputOptions(None, SIZE), "linear"),
        "tiles k-NN": masks("camvid_tiles_knn", InputOptions(None, SIZE), "knn"),
        "whole": masks("camvid_whole", InputOptions(480), "linear"),
        "geometry": geometry,
        "turn": turn,
        "variance": variance,
    }
    return {name: probes[name] for name in names}


def trained(run: Path) -> tuple[RunConfig, Method]:
    """A run's settings, and its student and teacher."""
    config = load_config(file=run / "config.yaml")
    method = make_method(config).eval()
    method.load_state_dict(load_checkpoint(run)["model"])
    return config, method


@torch.no_grad()
def what_region_learnt(run: Path, images: Sequence[Path], seed: int = 100) -> dict[str, float]:
    """The region loss of a GTSA run on views it has not seen, beside what it would be by less and less knowledge.

    Returns:
        `region` as trained; `turned`, with the teacher's maps half a turn off; `other`, with those of another
        image; `constant`, for the best student that says the same of every place; and `correspondence`.
    """
    config, method = trained(run)
    source = FileSource(Path(), list(images))
    dataset = MultiCropDataset(source, list(source.entries()), config.views, seed)
    views = collate_batches([dataset[t] for t in range(len(images))]).views
    outputs = method(views)
    cells = (config.loss.roi_size_global, config.loss.roi_size_local)

    def region(targets: torch.Tensor) -> float:
        return float(region_loss(outputs.global_maps, outputs.local_maps, targets, views.boxes, views.rotations, cells))

    targets = outputs.targets
    pairs = correspondence_loss(outputs.global_maps, outputs.local_maps, targets, config.loss.match_fraction)
    return {
        "region": region(targets),
        "turned": region(torch.rot90(targets, 2, (-2, -1))),
        "other": region(targets.roll(1, 0)),
        "constant": float(constant_baseline_loss(targets, views.boxes, views.rotations, cells[0])),
        "correspondence": float(pairs),
    }


class Projected(nn.Module):
    """A GTSA teacher as its region loss sees it: embedding, and maps that have been through the projector."""

    def __init__(self, run: Path) -> None:
        super().__init__()
        config, method = trained(run)
        self.teacher, self.final_norm = method.teacher, config.model.norm_before_heads

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 3, H, W) to (B, D) and (B, C, h, w)."""
        features = self.teacher.encoder(images, final_norm=self.final_norm)
        return features.embedding, self.teacher.projector(features.feature_map)


def found_again(model: Model, run: Path, images: Sequence[Path], seeds: int) -> dict[str, dict[str, float]]:
    """Places found again, %, by the encoder's tokens and by the projected ones."""
    manifest = model.runner.manifest
    projected = Model("projected", TorchRunner(Projected(run).eval(), manifest, torch.device("cpu")), None)
    encoder = Model("encoder", model.runner, model.source)
    report = correspondence([encoder, projected], images, CorrespondenceSettings(size=SIZE), range(seeds))
    return {
        name: {
            key: statistics.fmean(row[key] for row in report.rows if row["model"] == name)
            for key in ("crop", "turn_180", "crop_turn")
        }
        for name in ("encoder", "projected")
    }


def column(report: Report, key: str) -> list[float]:
    return [row[key] for row in report.rows]


def probe_all(models: Mapping[tuple[str, int], Model], probes: Mapping[str, Probe], out: Path) -> list[dict[str, Any]]:
    """A row for each model: its values by measure; what was measured before is read."""
    shown_on, rows = make_console(), []
    (out / "probes").mkdir(parents=True, exist_ok=True)
    for (method, seed), model in models.items():
        values: dict[str, list[float]] = {}
        for name, probe in probes.items():
            kept = out / "probes" / f"{folder_of(method, seed)}-{name.replace(' ', '-')}.json"
            if not kept.exists():
                begun = time.monotonic()
                write_json(kept, dict(probe(model)))
                shown_on.print(f"{method}, seed {seed}: {name} in {time.monotonic() - begun:.0f} s")
            values |= json.loads(kept.read_text())
        rows.append({"method": method, "seed": seed, "values": values})
    return rows


def summarize(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A line for each method.

    Means over probe seeds, then over pretraining seeds; `_spread` is half the range over pretraining seeds where there
    are two, `_probe` the standard deviation over the seeds of the probe.
    """
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row["values"] for row in rows if row["method"] == method]
        line: dict[str, Any] = {"method": method, "seeds": len(own)}
        for key in measured(own[0]):
            means = [statistics.fmean(values[key]) for values in own]
            line[key] = statistics.fmean(means)
            line[f"{key}_spread"] = (max(means) - min(means)) / 2 if len(means) > 1 else None
            line[f"{key}_probe"] = statistics.fmean(statistics.stdev(values[key]) for values in own)
        lines.append(line)
    return lines


def measured(found: Mapping[str, Any]) -> list[str]:
    """Which measures there are: a scale need not take all probes."""
    return [key for key in MEASURES if key in found]


def as_table(lines: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="mean ± half the range over pretraining seeds (deviation over seeds of the probe)")
    table.add_column("measure")
    for line in lines:
        table.add_column(f"{line['method']} ({line['seeds']})", justify="right")
    for key in measured(lines[0]):
        table.add_row(MEASURES[key], *(cell(line, key) for line in lines))
    return table


def as_markdown(lines: Sequence[Mapping[str, Any]]) -> str:
    head = "| | " + " | ".join(f"{line['method']} ({line['seeds']})" for line in lines) + " |"
    rule = "|---|" + "---|" * len(lines)
    rows = [
        "| " + " | ".join([MEASURES[key], *(cell(line, key) for line in lines)]) + " |" for key in measured(lines[0])
    ]
    return "\n".join([head, rule, *rows]) + "\n"


def cell(line: Mapping[str, Any], key: str) -> str:
    between = line[f"{key}_spread"]
    text = f"{line[key]:.1f}" + (f" ± {between:.1f}" if between is not None else "")
    return f"{text} ({line[f'{key}_probe']:.1f})"


def draw_probes(rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    """A panel for each measure: a dot for each run, with the deviation over seeds of its probe."""
    from matplotlib.figure import Figure

    methods = list(dict.fromkeys(row["method"] for row in rows))
    keys = [key for key in measured(rows[0]["values"]) if not key.endswith("rank")]
    height = -(-len(keys) // 4)
    figure = Figure(figsize=(15, 2.7 * height), layout="constrained")
    axes = list(figure.subplots(height, 4, squeeze=False).flat)
    for spare in axes[len(keys) :]:
        spare.set_axis_off()
    for axis, key in zip(axes, keys, strict=False):
        for row in rows:
            values = row["values"][key]
            place = methods.index(row["method"]) + 0.2 * row["seed"]
            deviation = statistics.stdev(values) if len(values) > 1 else 0.0
            axis.errorbar(
                place, statistics.fmean(values), deviation, fmt="o", capsize=3, color=f"C{methods.index(row['method'])}"
            )
        axis.set_xticks(range(len(methods)), methods, rotation=30, ha="right", fontsize=7)
        axis.set_title(MEASURES[key], fontsize=9)
        axis.grid(axis="y", alpha=0.3)
    figure.savefig(out, dpi=90)


def draw_training(runs: Mapping[tuple[str, int], Path], out: Path) -> None:
    """What training logged: the signs of collapse for all, the terms of GTSA."""
    from matplotlib.figure import Figure

    panels = {
        "effective_rank": "effective rank of tokens",
        "feature_std": "spread of tokens (0: collapse)",
        "region": "region loss (dotted: of a constant)",
        "correspondence": "patch correspondence",
        "rotation_accuracy": "turns named right",
        "teacher_entropy": "entropy of DINO's teacher",
        "divergence": "DINO: divergence from the teacher",
        "contrast_accuracy": "MoCo v3: own image found",
    }
    figure = Figure(figsize=(15, 6), layout="constrained")
    logs = {f"{method} {seed}": read_json_lines(run / "metrics.jsonl") for (method, seed), run in runs.items()}
    for axis, (key, title) in zip(figure.subplots(2, 4).flat, panels.items(), strict=True):
        for name, log in logs.items():
            if not log or key not in log[0]:
                continue
            [line] = axis.plot([row["step"] for row in log], [row[key] for row in log], label=name, linewidth=1)
            if key == "region":
                constant = [row["region_loss_constant_baseline"] for row in log]
                axis.plot([row["step"] for row in log], constant, color=line.get_color(), linewidth=0.7, linestyle=":")
        axis.set_title(title, fontsize=9)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=6)
    figure.savefig(out, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with scenes/ and camvid/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scale", choices=SCALES, default="quick")
    parser.add_argument("--images", type=int, help="seen by each run, in place of the scale's")
    parser.add_argument("--seeds", type=int, help="of the pretraining, in place of the scale's")
    parser.add_argument("--only", help="methods, with commas between: " + ", ".join(repr(m) for m in ALL))
    parser.add_argument("--probes", help="in place of the scale's, with commas between: " + ", ".join(PROBES))
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    base = SCALES[chosen.scale]
    scale = replace(
        base,
        images=chosen.images or base.images,
        seeds=chosen.seeds or base.seeds,
        methods=tuple(chosen.only.split(",")) if chosen.only else base.methods,
        probes=tuple(chosen.probes.split(",")) if chosen.probes else base.probes,
    )
    for asked, known in ((scale.methods, ALL), (scale.probes, PROBES)):
        if unknown := set(asked) - set(known):
            parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    begun = time.monotonic()
    try:
        runs = pretrain(runs_of(scale), scale, chosen.data / "scenes", chosen.out)
    except StoppedError:
        raise SystemExit("stopped, and saved; the same command goes on") from None
    opened = open_models(list(runs.values()))
    models = dict(zip(runs, opened, strict=True))
    models |= {(RANDOM, seed): Model(f"{RANDOM} {seed}", random_runner(ARCH, seed), None) for seed in range(2)}
    rows = probe_all(models, make_probes(chosen.data, scale.probes, scale.probe_seeds), chosen.out)
    lines = summarize(rows)
    Console().print(as_table(lines))
    seconds = {folder_of(*run): trained_seconds(path) for run, path in runs.items()}
    held_out = evenly_spaced(find_images(chosen.data / "camvid" / "val" / "images").paths, 64)
    learnt = {folder_of(*run): what_region_learnt(path, held_out) for run, path in runs.items() if "gtsa" in run[0]}
    again = {
        folder_of(*run): found_again(models[run], path, some_images(chosen.data), scale.probe_seeds)
        for run, path in runs.items()
        if run[0] == "gtsa"
    }
    for name, by in again.items():
        print(name + ", found again:", by)
    for name, found in learnt.items():
        print(name + ", region loss:", ", ".join(f"{key} {value:.3f}" for key, value in found.items()))
    result = {
        "scale": vars(scale),
        "rows": rows,
        "summary": lines,
        "training_seconds": seconds,
        "region_loss": learnt,
        "found_again": again,
    }
    write_json(chosen.out / "study.json", result)
    (chosen.out / "study.md").write_text(as_markdown(lines), encoding="utf-8")
    draw_probes(rows, chosen.out / "probes.png")
    draw_training(runs, chosen.out / "training.png")
    print(f"{time.monotonic() - begun:.0f} s in this call; wrote {chosen.out / 'study.md'}")
    if chosen.json:
        write_json(chosen.json, result)


def trained_seconds(run: Path) -> float:
    """Of all parts of a run: the clock begins anew where it went on."""
    seconds = [row["seconds"] for row in read_json_lines(run / "metrics.jsonl")]
    ends = [a for a, b in pairwise(seconds) if b < a]
    return sum(ends) + seconds[-1]


if __name__ == "__main__":
    main()
