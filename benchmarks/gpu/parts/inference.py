"""Parity and speed of every format that runs without TensorRT."""

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from gpu.part import Context

NEEDS = ("timm", "pydantic", "onnx", "onnxscript", "onnxruntime", "PIL", "rich")
BATCHES, SIDES = (1, 8, 32, 128), (224, 640)
FILES = {
    "torchscript": ("fp32", "fp16", "bf16"),
    "pt2": ("fp32", "fp16", "bf16"),
    "onnx": ("fp32", "fp16", "bf16", "int8"),
}
MIN_COSINES = {"fp32": 0.9999, "fp16": 0.999, "bf16": 0.99, "int8": 0.9}
"""Cosine of the worst patch below which a row fails. The parity gate of the export is stricter."""


def run(context: Context) -> None:
    """Export every format through its gate, then measure all candidates at every shape."""
    source = open_weights(context)
    for name, make in candidates(context, source):
        try:
            runner = make()
        except (RuntimeError, ValueError, OSError, ImportError) as error:
            context.add("lacks", note=f"{name}: {' '.join(str(error).split())[:300]}")
            continue
        measure(context, name, runner, source.encoder)


def open_weights(context: Context) -> Any:
    """Return a source with random weights of realistic variance."""
    from inference import random_run

    from gtsa_kit.export.source import open_source

    if context.tiny:
        return open_source(make_run(context.work / "run", "vit_test"))
    folder = context.work / "run"
    folder.mkdir(exist_ok=True)
    return open_source(random_run(folder))


def make_run(folder: Path, arch: str) -> Path:
    """Save random weights of an architecture as a run folder."""
    import torch

    from gtsa_kit.models.encoder import Encoder
    from gtsa_kit.models.weights import save_encoder

    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    save_encoder(folder, Encoder(arch).vit.state_dict(), arch, {})  # type: ignore[arg-type]
    return folder


def candidates(context: Context, source: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield names, and functions that open a callable from (B, 3, H, W) float32 numpy to features."""
    for precision in ("fp32", "fp16", "bf16"):
        for compiled in (False, True):
            if not (compiled and context.tiny):
                name = f"PyTorch{' compiled' if compiled else ''} {precision}"
                yield name, partial(open_module, context, source, precision, compiled)
    for file_format, precisions in FILES.items():
        for precision in precisions[:1] if context.tiny else precisions:
            yield f"{file_format} {precision}", partial(open_artifact, context, source, file_format, precision)
    if not context.tiny:
        for precision in ("fp32", "fp16", "bf16"):
            yield f"AOTInductor {precision}", partial(open_aoti, context, source, precision)


def open_module(context: Context, source: Any, precision: str, compiled: bool) -> Callable[[Any], Any]:
    """Open the encoder in PyTorch, in lower precisions by autocast."""
    import copy

    import torch

    from gtsa_kit.models.encoder import Features

    dtype = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    plain = copy.deepcopy(source.encoder).eval().to(context.device)
    module = torch.compile(plain, dynamic=False) if compiled else plain

    def call(images: Any) -> Any:
        tensor = torch.from_numpy(images).to(context.device)
        with torch.inference_mode(), torch.autocast(context.device, dtype, enabled=dtype is not None):
            features = module(tensor)
        return Features(features.embedding.float().cpu().numpy(), features.feature_map.float().cpu().numpy())

    return call


def open_artifact(context: Context, source: Any, file_format: str, precision: str) -> Any:
    """Export through the parity gate and open the file on the device."""
    from gtsa_kit.export import load

    path = export(context, source, file_format, precision)
    provider = {"provider": "cuda"} if file_format == "onnx" and context.device == "cuda" else {}
    return load(path, context.device, **provider)


def export(context: Context, source: Any, file_format: str, precision: str) -> Path:
    """Write an artifact, and the result of its gate as a row."""
    from gtsa_kit.export.parity_images import load_parity_images
    from gtsa_kit.export.pipeline import export_artifact, read_calibration
    from gtsa_kit.export.spec import SUFFIX, ExportOptions

    path = context.work / f"{precision}{SUFFIX[file_format]}"
    calibration = read_calibration(context.images) if precision == "int8" else None
    options = ExportOptions(precision=precision)  # type: ignore[arg-type]
    report = export_artifact(source, file_format, path, options, load_parity_images(context.images), calibration).parity  # type: ignore[arg-type]
    context.add(f"parity gate of {file_format} {precision}", ok=report is not None and report.passed)
    return path


def open_aoti(context: Context, source: Any, precision: str) -> Callable[[Any], Any]:
    """Compile the torch.export artifact by AOTInductor for batches and sizes of any number, and open the package."""
    import torch

    from gtsa_kit.models.encoder import Features

    exported = context.work / f"{precision}.pt2"
    if not exported.exists():
        export(context, source, "pt2", precision)
    program = torch.export.load(exported)
    if context.device == "cuda":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, context.device)
    package = torch._inductor.aoti_compile_and_package(
        program, package_path=str(context.work / f"aoti-{precision}.pt2")
    )
    model = torch._inductor.aoti_load_package(package)

    def call(images: Any) -> Any:
        embedding, feature_map = model(torch.from_numpy(images).to(context.device))[:2]
        return Features(embedding.float().cpu().numpy(), feature_map.float().cpu().numpy())

    return call


def measure(context: Context, name: str, runner: Callable[[Any], Any], encoder: Any) -> None:
    """Write rate and worst cosine at every shape; times include the copies from and to numpy arrays."""
    import numpy as np

    sides, batches = ((32,), (1,)) if context.tiny else (SIDES, BATCHES)
    for side in sides:
        reference_images = sample_images(context, encoder, side)
        expected = reference(encoder, reference_images)
        for batch in batches:
            if side > 224 and batch > 32:
                continue
            images = np.resize(reference_images, (batch, *reference_images.shape[1:]))
            try:
                features = runner(images)
                rate = batch / median_seconds(runner, images)
            except Exception as error:  # every library has errors of its own, and the other candidates go on
                context.add(f"{name}, {batch} x {side}", ok=False, note=" ".join(str(error).split())[:300])
                return
            cosine = min_cosine(expected[:batch], np.asarray(features.feature_map)[: len(expected)])
            ok = bool(cosine >= MIN_COSINES[name.rsplit(" ", 1)[1]])
            context.add(f"{name}, {batch} x {side}", rate, "images/s", ok=ok, note=f"worst cosine {cosine:.6f}")


def median_seconds(runner: Callable[[Any], Any], images: Any) -> float:
    """Return the median time of a call, of at least three calls and half a second."""
    times: list[float] = []
    while len(times) < 3 or sum(times) < 0.5:
        started = time.perf_counter()
        runner(images)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def sample_images(context: Context, encoder: Any, side: int) -> Any:
    """Return up to four preprocessed images, (N, 3, side, side)."""
    import numpy as np

    from gtsa_kit.export.parity_images import load_parity_images

    images = load_parity_images(context.images).images[:4]
    return np.stack([encoder.preprocessing(image, (side, side)) for image in images])


def reference(encoder: Any, images: Any) -> Any:
    """Return the feature maps of the float32 encoder on the CPU."""
    import torch

    with torch.inference_mode():
        return encoder.eval()(torch.from_numpy(images)).feature_map.numpy()


def min_cosine(expected: Any, actual: Any) -> float:
    """Return the cosine of the worst patch; -1 for another shape or values that are not finite."""
    import numpy as np

    if expected.shape != actual.shape or not np.isfinite(actual).all():
        return -1.0
    a, b = expected.astype(np.float64), actual.astype(np.float64)
    cosines = (a * b).sum(1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-12)
    return float(cosines.min())
