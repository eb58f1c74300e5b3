"""Detectors: parity and speed of files and engines beside torchvision's layers."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from gpu.part import Context, call
from gpu.parts.engines import imports, supported_card
from gpu.parts.inference import median_seconds, onnx_runs

NEEDS = ("timm", "pydantic", "torchvision", "onnx", "onnxscript", "PIL", "rich", "safetensors")
PRECISIONS = ("fp16", "fp32")
BATCHES = (1, 8)
SECONDS = 40
"""Seconds of one file, its gate on the CPU included, roughly."""


def run(context: Context) -> None:
    """Measure a detector of random weights in PyTorch, then each file, as soon as it is exported."""
    import numpy as np

    from gtsa_kit.export import load

    folder, side = make_run(context), "64x96" if context.tiny else "480x640"
    height, width = map(int, side.split("x"))
    images = np.random.default_rng(0).standard_normal((max(BATCHES), 3, height, width)).astype(np.float32)
    eager = load(folder, context.device)
    rates = {batch: measure(context, "torchvision's layers, eager fp32", eager, images[:batch]) for batch in BATCHES}
    for name, precision, options in files(context):
        what = f"detector, {name} {precision}"
        if not context.has_time(1 if context.tiny else SECONDS, what):
            continue
        path = context.work / f"{name}-{precision}{options[-1]}"
        try:
            arguments = ["--precision", precision, "--size", side, "--out", path, "--images", context.images]
            call(["-m", "gtsa_kit", "export", folder, *options[:-1], *arguments])
            provider = {"provider": "cuda"} if name == "onnx" and context.device == "cuda" else {}
            runner = load(path, context.device, **provider)
            for batch, rate in rates.items():
                measure(context, what, runner, images[:batch], rate, eager)
        except Exception as error:  # every library has errors of its own, and the other files go on
            context.add(what, ok=False, note=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def make_run(context: Context) -> Path:
    """Save a detector of random weights that gives about a hundred detections an image, as a run folder."""
    from detect_latency import random_detector

    from gtsa_kit.models.detector_spec import DetectorSpec
    from gtsa_kit.models.task_model import save_task_model

    small = DetectorSpec(channels=32, box_channels=64, pre_nms=200, proposals=40, max_detections=10)
    arguments: Any = ("vit_test", 5, small, (64, 96)) if context.tiny else ("vit_small", 80, DetectorSpec(), (480, 640))
    folder = context.work / "run"
    folder.mkdir(exist_ok=True)
    save_task_model(folder, random_detector(*arguments), {"steps": 0})
    return folder


def files(context: Context) -> Iterator[tuple[str, str, list[str]]]:
    """Yield the format of each file, its precision, and the options of its export with its suffix as the last one."""
    batches = f"1:{max(BATCHES)}"
    for precision in ("fp32",) if context.tiny else PRECISIONS:
        for variant in ("tensorrt", "tensorrt-rtx"):
            if not context.tiny and imports(context, variant) and (variant == "tensorrt" or supported_card(context)):
                options = ["--format", "trt", "--runtime", variant, "--batch", f"1:2:{max(BATCHES)}", ".engine"]
                yield variant, precision, options
        yield "torchscript", precision, ["--format", "torchscript", "--batch", batches, ".ts"]
        if not context.tiny and onnx_runs(context):
            yield "onnx", precision, ["--format", "onnx", "--batch", batches, ".onnx"]


def measure(context: Context, what: str, runner: Any, images: Any, eager_rate: float = 0.0, eager: Any = None) -> float:
    """Write the rate of a runner on numpy arrays and, beside the eager layers, its factor and the share of detections.

    Counterparts of random images are a hint; the parity of a file is what its gate says, in which it was exported.
    """
    from gtsa_kit.export.detection_comparison import DetectionArrays, match_errors

    rate: float = len(images) / median_seconds(partial(runner, images))
    note = ""
    if eager is not None:
        one, other = (DetectionArrays.of(model(images)).image(0) for model in (eager, runner))
        paired = match_errors(one, other)["boxes"][one.scores > 0] < float("inf")
        note = f"{rate / eager_rate:.2f} times eager; {paired.mean():.1%} of {len(paired)} detections in both"
    context.add(f"{what}, batch {len(images)}", rate, "images/s", note=note)
    return rate
