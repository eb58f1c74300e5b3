"""The benchmark study: GTSA, DINO, MoCo v3 and random weights on the same images at the same budget (docs/study.md).

Run: .venv/bin/python benchmarks/study/run.py --data ../shared/data --out runs/study [--scale quick|rates|main|full]
     [--only gtsa,dino] [--steps N] [--seeds 2] [--probes finetuned,tiles] [--json FILE]

Finished runs and probes are kept in --out with their seconds: the same command goes on after an interruption, and more
methods or seeds add to it. Runs differ only in the method: images and their order, crops, steps, optimizer and schedule
are the same. One thread a run is the fastest: two calls with other methods share --out, each with OMP_NUM_THREADS=1.
"""

import argparse
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "benchmarks")]

from gtsa_kit.cli.support.progress import make_console  # noqa: E402
from gtsa_kit.cli.support.training_display import training_display  # noqa: E402
from gtsa_kit.data.image_files import find_images  # noqa: E402
from gtsa_kit.evaluation.eval_images import evenly_spaced  # noqa: E402
from gtsa_kit.evaluation.models import Model, open_models, random_runner  # noqa: E402
from gtsa_kit.evaluation.runs import TrainingStoppedError, train_all  # noqa: E402
from gtsa_kit.figures import FORMATS, save_figure  # noqa: E402
from gtsa_kit.files import write_json  # noqa: E402
from study.plots import draw_probes, draw_training  # noqa: E402
from study.probes import (  # noqa: E402
    correspondence_images,
    probe_models,
    probe_stages,
    segmentation_probes,
)
from study.region_loss import correspondence_by_layer, region_loss_controls  # noqa: E402
from study.settings import (  # noqa: E402
    ADDITIONS,
    ALL,
    ARCH,
    PROBES,
    RANDOM,
    REFERENCE,
    SCALES,
    STAGED,
    Run,
    Scale,
    folder_name,
    list_runs,
    run_config,
)
from study.tables import (  # noqa: E402
    as_markdown,
    as_table,
    compare_on_masks,
    print_compared,
    print_region_loss,
    stages_table,
    summarize,
    training_rate,
    training_seconds,
)


def main() -> None:
    """Train, probe, and write the results."""
    parser = build_parser()
    args = parser.parse_args()
    scale = choose_scale(args, parser)
    start = time.monotonic()
    try:
        runs = pretrain(scale, args.data / "scenes", args.out)
    except TrainingStoppedError:
        raise SystemExit("stopped and saved; run the same command to resume") from None
    result = {"scale": vars(scale)} | measure(runs, scale, args)
    write_json(args.out / "study.json", result)
    if args.json:
        write_json(args.json, result)
    (args.out / "study.md").write_text(as_markdown(result["summary"]), encoding="utf-8")
    save_figure(draw_probes(result["rows"]), args.out / f"probes.{args.figure_format}")
    save_figure(draw_training(runs), args.out / f"training.{args.figure_format}")
    print(f"{time.monotonic() - start:.0f} s in this call; wrote {args.out / 'study.md'}")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with scenes/ and camvid/")
    parser.add_argument("--out", type=Path, required=True, help="folder for runs, results and plots")
    parser.add_argument("--scale", choices=SCALES, default="quick")
    parser.add_argument("--steps", type=int, help="steps of each run, instead of the scale's")
    parser.add_argument("--seeds", type=int, help="pretraining seeds, instead of the scale's")
    parser.add_argument("--only", help="methods, separated by commas: " + ", ".join(repr(m) for m in ALL))
    parser.add_argument("--figure-format", choices=FORMATS, default="png", help="format of the plots")
    parser.add_argument("--probes", help="probes instead of the scale's, separated by commas: " + ", ".join(PROBES))
    parser.add_argument("--json", type=Path, help="additional file for the results")
    return parser


def choose_scale(args: argparse.Namespace, parser: argparse.ArgumentParser) -> Scale:
    """Return the scale, changed by the options of the command line."""
    base = SCALES[args.scale]
    scale = replace(
        base,
        steps=args.steps or base.steps,
        seeds=args.seeds or base.seeds,
        methods=tuple(args.only.split(",")) if args.only else base.methods,
        probes=tuple(args.probes.split(",")) if args.probes else base.probes,
    )
    for requested, available in ((scale.methods, ALL), (scale.probes, PROBES)):
        if unknown := set(requested) - set(available):
            parser.error(f"unknown: {', '.join(sorted(unknown))}; choose from {', '.join(available)}")
    return scale


def pretrain(scale: Scale, data: Path, out: Path) -> dict[Run, Path]:
    """Train the unfinished runs, with a progress display, and return the run folders; Ctrl-C saves and stops."""
    images = len(find_images(data).paths)
    runs = list_runs(scale)
    configs = {folder_name(run): run_config(run, scale, data, images) for run in runs}
    with training_display(make_console()) as display:
        paths = train_all(configs, out / "runs", lambda name: display)
    return {run: paths[folder_name(run)] for run in runs}


def measure(runs: Mapping[Run, Path], scale: Scale, args: argparse.Namespace) -> dict[str, Any]:
    """Probe the models, print the tables, and return all results."""
    models = open_study_models(runs, scale.seeds)
    rows = probe_models(models, args.data, scale, args.out)
    lines = summarize(rows, training_rates(runs))
    compared = [line for first in (REFERENCE, *ADDITIONS) for line in compare_on_masks(rows, first)]
    Console().print(as_table(lines))
    print_compared(compared)
    result: dict[str, Any] = {
        "rows": rows,
        "summary": lines,
        "compared": compared,
        "training_seconds": {folder_name(run): training_seconds(path) for run, path in runs.items()},
    }
    if scale.stages:
        probe = segmentation_probes(args.data, 1)["tiles"]
        staged = {run: path for run, path in runs.items() if run[0] in STAGED}
        result["stages"] = probe_stages(staged, probe, args.out)
        Console().print(stages_table(result["stages"]))
        result |= analyze_region_loss(runs, models, args.data, scale)
        print_region_loss(result["correspondence_recall"], result["region_loss"])
    return result


def training_rates(runs: Mapping[Run, Path]) -> dict[str, float]:
    """Return the mean over seeds of the images per second of training, by method."""
    methods = dict.fromkeys(method for method, _ in runs)
    return {m: fmean(training_rate(path) for run, path in runs.items() if run[0] == m) for m in methods}


def open_study_models(runs: Mapping[Run, Path], seeds: int) -> dict[Run, Model]:
    """Open the teachers, and a model with random weights for each seed."""
    models = dict(zip(runs, open_models(list(runs.values())), strict=True))
    random = {(RANDOM, seed): Model(f"{RANDOM} {seed}", random_runner(ARCH, seed), None) for seed in range(seeds)}
    return models | random


def analyze_region_loss(
    runs: Mapping[Run, Path], models: Mapping[Run, Model], data: Path, scale: Scale
) -> dict[str, dict[str, Any]]:
    """Return the region loss with its controls, and the recall of encoder and projected tokens, by GTSA run."""
    held_out = evenly_spaced(find_images(data / "camvid" / "val" / "images").paths, 64)
    images = correspondence_images(data)
    return {
        "region_loss": {
            folder_name(run): region_loss_controls(path, held_out) for run, path in runs.items() if run[0] == REFERENCE
        },
        "correspondence_recall": {
            folder_name(run): correspondence_by_layer(models[run], path, images, scale.probe_seeds)
            for run, path in runs.items()
            if run[0] == REFERENCE
        },
    }


if __name__ == "__main__":
    main()
