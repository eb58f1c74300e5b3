"""Speed of the main jobs beside other tools, each in its own environment, in rounds in which all take turns.

Run: .venv/bin/python benchmarks/peers.py --images FOLDER --out FOLDER [--jobs train,embed,export,serve] [--rounds 2]
     [--micro] [--report] [--json FILE] [--markdown]

- train: lightly-train's DINO and ours, and GTSA.
- embed: lightly-train, timm in a DataLoader, the pipeline of transformers, and ours from a run folder and from ONNX;
  and what each does with 3% broken files.
- export: timmx, optimum, ultralytics and ours to ONNX: time, our gate on each file, and its latency in ONNX Runtime.
- serve: LitServe, infinity and ours.

The environments are made in OUT with the versions of benchmarks/peers/*.txt (Linux, Python 3.11; 10 GB in all), the
weights are random. The same command goes on after an interruption: OUT keeps what was measured. Other load on the
machine disturbs seconds most and ratios least; the CPU seconds say how much work was done. --micro has a small model
and few images, to try the program.
"""

import argparse
import json
import os
import signal
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from peers_parts.embed import embed_job
from peers_parts.environments import pinned_version
from peers_parts.export import export_job
from peers_parts.rounds import Measurement, build_table, markdown, run_rounds, stored_rounds, summarize
from peers_parts.serve import serve_job
from peers_parts.setting import Setting
from peers_parts.train import train_job
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
JOBS = {"train": train_job, "embed": embed_job, "export": export_job, "serve": serve_job}
VERSIONS = {
    "lightly": ("lightly-train",),
    "timm": ("timm",),
    "hf": ("transformers",),
    "timmx": ("timmx",),
    "optimum": ("optimum-onnx", "transformers"),
    "ultralytics": ("ultralytics",),
    "litserve": ("litserve",),
    "infinity": ("infinity-emb", "transformers"),
}
"""Packages to name with the results, by environment."""
console = Console(highlight=False, width=170)


def describe() -> dict[str, Any]:
    """Describe machine, versions and date."""
    import torch
    from inference import describe_machine

    from gtsa_kit.hardware import should_use_bf16

    peers = {
        name: ", ".join(f"{package} {pinned_version(name, package)}" for package in packages)
        for name, packages in VERSIONS.items()
    }
    return describe_machine() | {
        "bf16 by default": should_use_bf16(torch.device("cpu")),
        "onnxruntime": version("onnxruntime-gpu"),
        "date": datetime.now(UTC).date().isoformat(),
        **peers,
    }


def check_settings(out: Path, setting: Setting) -> None:
    """Keep the settings in OUT, and refuse a folder that holds measurements of others.

    Raises:
        ValueError: The folder was made with other settings.
    """
    settings, file = {"images": str(setting.images), "micro": setting.micro}, out / "settings.json"
    out.mkdir(parents=True, exist_ok=True)
    if file.exists() and (previous := json.loads(file.read_text())) != settings:
        raise ValueError(f"{out} holds measurements of {previous}, not of {settings}; name another folder")
    file.write_text(json.dumps(settings))


def report(name: str, index: int, measurement: Measurement) -> None:
    """Print a measurement as it is made."""
    figures = {key: round(value, 3) if isinstance(value, float) else value for key, value in measurement.items()}
    console.print(f"round {index + 1}, {name}: {figures}  (load {os.getloadavg()[0]:.1f})")


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of environments, weights and measurements")
    parser.add_argument("--jobs", default=",".join(JOBS))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--micro", action="store_true")
    parser.add_argument("--markdown", action="store_true", help="print the tables in Markdown")
    parser.add_argument("--report", action="store_true", help="print what OUT holds, and measure nothing")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if unknown := set(args.jobs.split(",")) - set(JOBS):
        parser.error(f"--jobs {','.join(sorted(unknown))}: no such job; known: {', '.join(JOBS)}")
    return args


def main() -> None:
    """Measure and print."""
    args = parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # or the command that runs would go on without us
    setting = Setting(args.images.resolve(), args.out.resolve(), args.micro)
    check_settings(setting.out, setting)
    machine = describe()
    console.print("\n".join(f"{name}: {value}" for name, value in machine.items()))
    result: dict[str, Any] = {"machine": machine, "jobs": {}}
    for name in args.jobs.split(","):
        job = JOBS[name](setting)
        stored = setting.out / "rounds"
        rounds = stored_rounds(job, stored) if args.report else run_rounds(job, args.rounds, stored, report)
        rows = summarize(job, rounds)
        console.print(build_table(job, rows))
        if args.markdown:
            print(markdown(job, rows))
        result["jobs"][name] = {"rows": rows, "rounds": rounds}
        if args.json:
            args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
