"""The benchmark study: GTSA, DINO, MoCo v3 and random weights on the same images at the same budget (docs/study.md).

Run: .venv/bin/python benchmarks/study/run.py --data ../shared/data --out runs/study [--scale quick|rates|main|full]
     [--only gtsa,dino] [--steps N] [--seeds 2] [--probes finetuned,tiles] [--earlier FILE] [--json FILE]
     [--finished-only]

Finished runs and probes are kept in --out with their seconds: the same command goes on after an interruption, and more
methods or seeds add to it. --earlier docs/study/results.json goes on from results of another machine. Runs differ only
in the method: images and their order, crops, steps, optimizer and schedule are the same. One thread a run is the
fastest: two calls with other methods can share --out while they train, each with OMP_NUM_THREADS=1.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "benchmarks")]

from gtsa_kit.cli.support.progress import make_console  # noqa: E402
from gtsa_kit.cli.support.training_display import training_display  # noqa: E402
from gtsa_kit.config import RunConfig  # noqa: E402
from gtsa_kit.data.image_files import find_images  # noqa: E402
from gtsa_kit.evaluation.eval_images import evenly_spaced  # noqa: E402
from gtsa_kit.evaluation.models import Model, open_models, random_runner  # noqa: E402
from gtsa_kit.evaluation.runs import TrainingStoppedError, train_all  # noqa: E402
from gtsa_kit.figures import FORMATS, save_figure  # noqa: E402
from gtsa_kit.files import write_json  # noqa: E402
from study.earlier import read_earlier, row_settings  # noqa: E402
from study.plots import draw_probes, draw_training  # noqa: E402
from study.probes import (  # noqa: E402
    correspondence_images,
    probe_model,
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
    list_stages,
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
    configs = list_configs(scale, args.data / "scenes")
    try:
        earlier = read_earlier(args.earlier, configs, scale) if args.earlier else {}
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if args.finished_only:
        configs = {run: config for run, config in configs.items() if run in earlier or is_finished(run, args.out)}
    try:
        runs = pretrain({run: config for run, config in configs.items() if config and run not in earlier}, args.out)
    except TrainingStoppedError:
        raise SystemExit("stopped and saved; run the same command to resume") from None
    rows = [earlier.get(run) or measure(run, runs.get(run), config, scale, args) for run, config in configs.items()]
    write_results(rows, scale, args)
    if runs:
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
    parser.add_argument("--no-stages", action="store_true", help="probe no earlier checkpoints")
    parser.add_argument("--earlier", type=Path, help="results of an earlier --json; what they have is not run again")
    parser.add_argument("--finished-only", action="store_true", help="train and probe nothing; show what is finished")
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
        stages=base.stages and not (args.no_stages or args.finished_only),
    )
    for requested, available in ((scale.methods, ALL), (scale.probes, PROBES)):
        if unknown := set(requested) - set(available):
            parser.error(f"unknown: {', '.join(sorted(unknown))}; choose from {', '.join(available)}")
    return scale


def list_configs(scale: Scale, data: Path) -> dict[Run, RunConfig | None]:
    """Return the settings of each run in order of training, then None for random weights of each seed."""
    images = len(find_images(data).paths)
    trained = {run: run_config(run, scale, data, images) for run in list_runs(scale)}
    return trained | {(RANDOM, seed): None for seed in range(scale.seeds)}


def is_finished(run: Run, out: Path) -> bool:
    """Return whether a run is trained and probed at least once; random weights need no training."""
    trained = run[0] == RANDOM or (out / "runs" / folder_name(run) / "encoder.safetensors").exists()
    return trained and any((out / "probes").glob(f"{folder_name(run)}-*.json"))


def pretrain(configs: Mapping[Run, RunConfig], out: Path) -> dict[Run, Path]:
    """Train the unfinished runs, with a progress display, and return the run folders; Ctrl-C saves and stops."""
    with training_display(make_console()) as display:
        named = {folder_name(run): config for run, config in configs.items()}
        paths = train_all(named, out / "runs", lambda name: display)
    return {run: paths[folder_name(run)] for run in configs}


def measure(
    run: Run, folder: Path | None, config: RunConfig | None, scale: Scale, args: argparse.Namespace
) -> dict[str, Any]:
    """Probe the teacher of a run, or random weights, and return its row (`study.earlier`)."""
    method, seed = run
    if folder is None:
        model = Model(f"{RANDOM} {seed}", random_runner(ARCH, seed), None)
    else:
        [model] = open_models([folder])
    row: dict[str, Any] = {"method": method, "seed": seed, "settings": row_settings(config, scale)}
    row |= probe_model(run, model, args.data, scale, args.out, args.finished_only)
    if folder:
        row |= {"training_seconds": training_seconds(folder), "images_per_second": training_rate(folder)}
    if folder and scale.stages and method in STAGED:
        row["stages"] = probe_stages(run, folder, segmentation_probes(args.data, 1)["tiles"], args.out)
    if folder and scale.stages and method == REFERENCE:
        held_out = evenly_spaced(find_images(args.data / "camvid" / "val" / "images").paths, 64)
        row["region_loss"] = region_loss_controls(folder, held_out)
        images = correspondence_images(args.data)
        row["recall_by_layer"] = correspondence_by_layer(model, folder, images, scale.probe_seeds)
    return row


def write_results(rows: Sequence[Mapping[str, Any]], scale: Scale, args: argparse.Namespace) -> None:
    """Print the tables, and write them with the rows and the plot of the probes."""
    lines = summarize(rows)
    compared = [line for first in (REFERENCE, *ADDITIONS) for line in compare_on_masks(rows, first)]
    Console().print(as_table(lines))
    print_compared(compared)
    if stages := list_stages(rows):
        Console().print(stages_table(stages))
    print_region_loss(rows)
    args.out.mkdir(parents=True, exist_ok=True)
    result = {"scale": vars(scale), "summary": lines, "compared": compared, "rows": rows}
    for file in (args.out / "study.json", args.json):
        if file:
            write_json(file, result)
    (args.out / "study.md").write_text(as_markdown(lines), encoding="utf-8")
    save_figure(draw_probes(rows), args.out / f"probes.{args.figure_format}")


if __name__ == "__main__":
    main()
