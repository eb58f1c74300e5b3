"""TensorRT engines, and what the libraries say where the card is not supported."""

from gpu.part import Context, call
from gpu.results import LACKS

NEEDS = ("timm", "pydantic", "onnx", "onnxscript", "onnxruntime", "PIL", "rich", "safetensors")
PRECISIONS = ("fp16", "int8", "bf16", "fp32")
SECONDS = 60
"""Seconds that the engines of one precision take on a GPU, roughly."""


def run(context: Context) -> None:
    """Build, run and measure engines with each TensorRT that can be imported."""
    for name in ("tensorrt", "tensorrt-rtx"):
        if not imports(context, name):
            continue
        if name == "tensorrt" or supported_card(context):
            measure(context, name)
        else:
            refused_run(context)


def imports(context: Context, name: str) -> bool:
    """Return whether a variant can be used here; write down what it lacks, or its version."""
    from gtsa_kit.export.runtime.tensorrt_variant import choose_variant

    try:
        variant, _ = choose_variant(name)
    except ValueError as error:
        context.add(LACKS, name, note=str(error))
        return False
    context.add(f"version of {name}", variant.version)
    return True


def supported_card(context: Context) -> bool:
    """Return whether TensorRT-RTX has this card's compute capability, and write both down."""
    from gtsa_kit.export.runtime.tensorrt_variant import choose_variant, gpu_capability

    variant, _ = choose_variant("tensorrt-rtx")
    capability = gpu_capability()
    note = f"TensorRT-RTX: {', '.join(variant.capabilities)}"
    context.add("compute capability of the card", capability or "no card", note=note)
    return capability in variant.capabilities


def refused_run(context: Context) -> None:
    """Build an engine of the smallest model for other cards, try to run it, and quote the library's message."""
    from gpu.parts.inference import make_run
    from gtsa_kit.export import load

    engine = context.work / "other.engine"
    options = ["--format", "trt", "--runtime", "tensorrt-rtx", "--size", 64, "--batch", "1:2"]
    call(["-m", "gtsa_kit", "export", make_run(context.work / "small", "vit_test"), "--out", engine, *options])
    context.add("an engine is built for other cards", True, ok=True)
    what = "an engine for other cards is refused"
    try:
        load(engine)
    except (ValueError, RuntimeError) as error:
        context.add(what, True, ok=True, note=str(error)[:300])
    else:
        context.add(what, False, ok=False)
    if context.device == "cuda":
        quote_library(context, engine.read_bytes())


def quote_library(context: Context, engine: bytes) -> None:
    """Write down what the library itself says about an engine for other cards."""
    from gtsa_kit.export.runtime.tensorrt_variant import choose_variant, make_logger

    variant, _ = choose_variant("tensorrt-rtx")
    log = make_logger(variant)
    refused = variant.library.Runtime(log).deserialize_cuda_engine(engine) is None
    context.add("TensorRT-RTX itself refuses it", refused, note=" ".join(log.errors)[:600])


def measure(context: Context, name: str) -> None:
    """Build the engines of every precision and measure them (benchmarks/engines.py), one precision after the other."""
    for precision in PRECISIONS:
        if not context.has_time(SECONDS, f"engines by {name} in {precision}"):
            continue
        options = ["--images", context.images, "--precisions", precision, "--runtime", name]
        try:
            content = context.run("engines.py", [*options, "--batch", 32, "--rounds", 3])
        except RuntimeError as error:
            context.add(f"engines by {name} in {precision}", ok=False, note=str(error)[:300])
            continue
        for engine in content["engines"]:
            note = f"{engine['megabytes']:.0f} MB, for {', '.join(engine['capabilities'])}"
            what = f"build by {engine['variant']}: {engine['precision']}, {engine['graph']}"
            context.add(what, engine["seconds"], "s", ok=True, note=note)
        for candidate, rate in content["images_per_second"].items():
            context.add(f"{candidate}, batch 32", rate, "images/s")
