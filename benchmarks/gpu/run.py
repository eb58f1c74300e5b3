"""Run everything that needs a GPU, the most valuable part first, and write down what it gives.

Run: python benchmarks/gpu/run.py [--images FOLDER] [--labeled FOLDER] [--minutes 12] [--out runs/gpu]
     [--only training,tests] [--device cuda] [--tiny]

It needs no network. Each part runs in a process of its own with its own time limit; results.json and results.md in
--out are written after every part, so that a run that is cut off leaves what it had. A part whose libraries are missing
says what it lacks. `--device cpu --tiny` runs the same code on small models without a GPU.

The exit code is 0 if every part ran, lacked something or had no time left, and 1 if one failed.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benchmarks")]

from gpu.results import CUT_OFF, FAILED, NOT_STARTED, PartResult, judge, read_rows, shorten, write_results  # noqa: E402

PARTS = {
    "tests": 100,
    "training": 180,
    "learning": 190,
    "inference": 105,
    "engines": 30,
    "detection": 35,
    "embedding": 40,
    "serving": 40,
}
"""Modules in gpu/parts, in the order in which they run, with the seconds that each has for itself.

Together they take less than 12 minutes. What --minutes leaves beyond that, and what a part does not use, is at the
disposal of the next one (`time_limit`)."""
SCENES = ROOT.parent / "shared" / "data" / "scenes"

DESCRIBE_MACHINE = """
import json, platform
about = {"python": platform.python_version(), "processor cores": __import__("os").cpu_count()}
import torch
about["torch"] = torch.__version__
if torch.cuda.is_available():
    about["card"] = torch.cuda.get_device_name()
    about["compute capability"] = ".".join(map(str, torch.cuda.get_device_capability()))
    about["memory, GB"] = round(torch.cuda.get_device_properties(0).total_memory / 1e9, 1)
    about["CUDA of torch"] = torch.version.cuda
from importlib import metadata
for name in (
    "torchvision", "triton", "timm", "onnx", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx", "lightly",
    "lightly-train",
):
    try:
        about[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
print(json.dumps(about))
"""


STOPPED = "stopped from outside"
"""Reason of a part during which this command got SIGINT or SIGTERM."""


def describe_machine() -> dict[str, Any]:
    """Describe card, driver and versions, in a process of its own, so that this one needs nothing but Python."""
    about: dict[str, Any] = {"date": date.today().isoformat()}
    child = subprocess.run([sys.executable, "-c", DESCRIBE_MACHINE], capture_output=True, text=True, check=False)
    about |= json.loads(child.stdout) if child.returncode == 0 else {"torch": "cannot be imported"}
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        about["driver"] = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split("\n")[0]
    except (OSError, subprocess.CalledProcessError):
        about["driver"] = "none"
    return about


def time_limit(name: str, following: Sequence[str], left: float) -> float:
    """Return the seconds that a part gets: its own, or what the following parts do not need where that is more.

    Args:
        name: The part, a key of `PARTS`.
        following: Parts that run after it.
        left: Seconds until the end of the run.
    """
    return min(left, max(PARTS[name], left - sum(PARTS[other] for other in following)))


def run_part(name: str, limit: float, own: float, out: Path, arguments: Sequence[str]) -> PartResult:
    """Run one part in a process of its own until `limit` seconds have passed.

    Args:
        name: Name of the part: a module in gpu/parts.
        limit: Time limit in seconds.
        own: Seconds that the part should need at most: if it gets less, it does not fail at the limit.
        out: Folder for the rows and the log of the part.
        arguments: Arguments of gpu/part.py.
    """
    if limit <= 0:
        return PartResult(name, NOT_STARTED, "no time left")
    started = time.monotonic()
    rows, log = out / f"{name}.jsonl", out / f"{name}.log"
    rows.unlink(missing_ok=True)
    command = [sys.executable, "-m", "gpu.part", name, "--rows", str(rows), "--seconds", str(limit), *arguments]
    code, stopped = None, False
    with log.open("wb") as stream:
        child = subprocess.Popen(
            command, stdout=stream, stderr=stream, env=part_environment(arguments), start_new_session=True
        )
        try:
            code = child.wait(limit)
        except subprocess.TimeoutExpired:
            pass
        except KeyboardInterrupt:
            stopped = True
        finally:  # workers and servers of the part end with it
            _kill_group(child)
    result = PartResult(name, "", seconds=time.monotonic() - started, rows=read_rows(rows))
    if code is not None:
        tail = log.read_bytes()[-4000:].decode("utf-8", "replace")
        result.status, result.reason = judge(code, result.rows, tail)
    elif stopped:
        result.status, result.reason = CUT_OFF, STOPPED
    elif limit < own:
        result.status, result.reason = CUT_OFF, "the given time was over"
    else:
        result.status, result.reason = FAILED, f"not finished after {limit:.0f} s; see {log}"
    return result


def part_environment(arguments: Sequence[str]) -> dict[str, str]:
    """Return the environment of a part: modules of the checkout, and no GPU with `--device cpu`."""
    paths = [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    return environment | ({"CUDA_VISIBLE_DEVICES": ""} if "cpu" in arguments else {})


def _kill_group(child: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of images; default: shared data, else made ones")
    parser.add_argument(
        "--labeled", type=Path, help="class folders for k-NN; default: those of the shared data, else --images"
    )
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="small models and few steps, to test this command")
    parser.add_argument("--minutes", type=float, default=12.0, help="time for all parts together; default 12")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder of results; default runs/gpu")
    parser.add_argument("--only", help=f"comma-separated parts of {', '.join(PARTS)}; default: all")
    options = parser.parse_args()
    unknown = set(options.only.split(",")) - set(PARTS) if options.only else set()
    if unknown:
        parser.error(f"--only does not know {', '.join(sorted(unknown))}; parts are {', '.join(PARTS)}")
    return options


def image_arguments(options: argparse.Namespace) -> list[str]:
    """Return the folders of images as arguments of gpu/part.py; none if the parts make them."""
    images, labeled = options.images, options.labeled or options.images
    if images is None and SCENES.is_dir():
        images, labeled = SCENES, labeled or SCENES / "places"
    named = {"--images": images, "--labeled": labeled}
    return [text for name, folder in named.items() if folder for text in (name, str(folder.absolute()))]


def main() -> int:
    """Run the parts and return the exit code."""
    options = parse_arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    deadline = time.monotonic() + 60 * options.minutes
    out = options.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    images = image_arguments(options)
    arguments = ["--device", options.device, "--work", str(out), *(["--tiny"] if options.tiny else []), *images]
    machine = describe_machine() | {"device": options.device + (", tiny" if options.tiny else "")}
    machine["images"] = Path(images[1]).name if images else "made by this command"
    print("\n".join(f"{name}: {value}" for name, value in machine.items()), flush=True)
    names = options.only.split(",") if options.only else list(PARTS)
    parts = [PartResult(name, NOT_STARTED) for name in names]
    for index, name in enumerate(names):
        limit = time_limit(name, names[index + 1 :], deadline - time.monotonic())
        part = parts[index] = run_part(name, limit, PARTS[name], out, arguments)
        write_results(out, machine, parts)
        print(f"{name:10} {part.status:12} {part.seconds:5.0f} s  {shorten(part.reason, 160)}", flush=True)
        if part.reason == STOPPED:
            return 130
    print(f"results: {out / 'results.md'}")
    return int(any(part.status == FAILED for part in parts))


if __name__ == "__main__":
    sys.exit(main())
