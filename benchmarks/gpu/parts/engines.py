"""TensorRT engines, and what the libraries say where the card is not supported."""

import subprocess
import sys

from gpu.part import Context

NEEDS = ("timm", "pydantic", "onnx", "onnxscript", "onnxruntime", "PIL")
LIBRARIES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}


def run(context: Context) -> None:
    """Build, run and measure engines with each TensorRT that is installed."""
    from importlib.util import find_spec

    installed = [name for name, module in LIBRARIES.items() if find_spec(module)]
    if not installed:
        context.add("lacks", note="neither tensorrt nor tensorrt_rtx is installed: engines")
    for name in installed:
        if context.device == "cpu" or (name == "tensorrt-rtx" and not supported_card(context)):
            refused_run(context)
        else:
            measure(context)


def supported_card(context: Context) -> bool:
    """Return whether TensorRT-RTX has this card's compute capability, and write both down."""
    import torch

    from gtsa_kit.export.runtime.tensorrt_variant import choose_variant

    variant, _ = choose_variant("tensorrt-rtx")
    capability = ".".join(map(str, torch.cuda.get_device_capability()))
    context.add("compute capability of the card", capability, note=f"TensorRT-RTX: {', '.join(variant.capabilities)}")
    return capability in variant.capabilities


def refused_run(context: Context) -> None:
    """Build an engine of the smallest model for other cards, try to run it, and quote the library's refusal."""
    from gpu.parts.inference import make_run

    engine = context.work / "other.engine"
    options = ["--format", "trt", "--runtime", "tensorrt-rtx", "--size", "64", "--batch", "1:2", "--force"]
    command = ["-m", "gtsa_kit", "export", make_run(context.work / "small", "vit_test"), "--out", engine, *options]
    child = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, check=False)
    print(child.stdout, child.stderr, flush=True)
    built = child.returncode == 0
    context.add("an engine is built for other cards", built, ok=built, note="" if built else child.stderr[-300:])
    if not built:
        return
    from gtsa_kit.export import load

    try:
        load(engine)
    except (ValueError, RuntimeError) as error:
        context.add("an engine for other cards is refused", True, ok=True, note=str(error)[:300])
    else:
        context.add("an engine for other cards is refused", False, ok=False)


def measure(context: Context) -> None:
    """Build engines of every precision and measure them (benchmarks/engines.py)."""
    content = context.run("engines.py", ["--images", context.images, "--batch", 32, "--rounds", 3])
    for engine in content["engines"]:
        note = f"{engine['megabytes']:.0f} MB, for {', '.join(engine['capabilities'])}"
        what = f"build by {engine['variant']}: {engine['precision']}, {engine['graph']}"
        context.add(what, engine["seconds"], "s", ok=True, note=note)
    for name, rate in content["images_per_second"].items():
        context.add(f"{name}, batch 32", rate, "images/s")
