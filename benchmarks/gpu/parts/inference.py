"""Parity and speed of every format that runs without TensorRT."""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from gpu.part import Context
from gpu.results import LACKS, NOT_MEASURED

NEEDS = ("timm", "pydantic", "PIL", "rich", "safetensors")
SHAPES = ((32, 224), (1, 224), (8, 224), (128, 224), (1, 640), (8, 640), (32, 640), (128, 640))
"""Batch and side in pixels; every candidate is measured at one before the next."""
TINY_SIDE = 32
"""Side with --tiny, the only one of its artifacts: graphs of any size take longer to export than all else together."""
PRECISIONS = ("fp16", "bf16", "fp32")
SECONDS_TO_COMPILE, SECONDS_TO_RUN = 45, 5
"""Seconds of one candidate at one shape on a GPU, roughly."""


@dataclass(frozen=True)
class Candidate:
    """One way to run the encoder."""

    precision: str
    call: Callable[[Any], Any]
    """Features (numpy) of images (B, 3, H, W) float32 numpy."""
    module: Callable[[Any], Any] | None = None
    """The same on tensors that are on the device, without copies; None where images come from host memory alone."""
    compiles_each_shape: bool = False


@dataclass(frozen=True)
class Maker:
    """Function that opens a candidate."""

    open: Callable[[], Candidate]
    side: int | None = None
    """Size of the images, in pixels, where the candidate takes no other."""


def run(context: Context) -> None:
    """Measure all candidates at one shape after the other; each is opened, or exported, when it is first needed."""
    source = open_weights(context)
    makers = dict(candidates(context, source))
    opened: dict[str, Candidate | None] = {}
    for batch, side in ((1, TINY_SIDE),) if context.tiny else SHAPES:
        skipped = []
        for name, maker in makers.items():
            if maker.side not in (None, side):
                continue
            candidate = opened.get(name)
            slow = name not in opened or (candidate is not None and candidate.compiles_each_shape)
            if context.seconds_left < (SECONDS_TO_COMPILE if slow else SECONDS_TO_RUN):
                skipped.append(name)
                continue
            if name not in opened:
                candidate = opened[name] = open_candidate(context, name, maker)
            if candidate and not measure(context, name, candidate, source.encoder, batch, side):
                opened[name] = None
        if skipped:
            context.add(NOT_MEASURED, note=f"{batch} x {side}: {', '.join(skipped)}")


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


def candidates(context: Context, source: Any) -> Iterator[tuple[str, Maker]]:
    """Yield names, and functions that open a candidate: all kinds in one precision before the next."""
    with_onnx = onnx_runs(context)
    for precision in ("fp32",) if context.tiny else PRECISIONS:
        for file_format in ("torchscript", "pt2", "onnx") if with_onnx else ("torchscript", "pt2"):
            open_file = partial(open_artifact, context, source, file_format, precision)
            yield f"{file_format} {precision}", Maker(open_file)
        yield f"PyTorch {precision}", Maker(partial(open_module, context, source, precision, False))
        if not context.tiny:
            yield f"PyTorch compiled {precision}", Maker(partial(open_module, context, source, precision, True))
            for side in (224, 640):
                open_package = partial(open_aoti, context, source, precision, side)
                yield f"AOTInductor of {side}, {precision}", Maker(open_package, side)
    if with_onnx and not context.tiny:
        yield "onnx int8", Maker(partial(open_artifact, context, source, "onnx", "int8"))


def onnx_runs(context: Context) -> bool:
    """Return whether ONNX files can be exported and run on the device, and write down what is missing."""
    if context.lacks(("onnx", "onnxscript", "onnxruntime"), "ONNX files"):
        return False
    import onnxruntime

    provider = "CUDAExecutionProvider"
    if context.device == "cpu" or provider in onnxruntime.get_available_providers():
        return True
    context.add(LACKS, f"{provider} in onnxruntime {onnxruntime.__version__}", note="ONNX files on the GPU")
    return False


def open_candidate(context: Context, name: str, maker: Maker) -> Candidate | None:
    """Open a candidate, or write down why it can't be opened here."""
    try:
        return maker.open()
    except ValueError as error:  # the messages of gtsa-kit: a provider, a compiler or a device is missing
        context.add(LACKS, " ".join(str(error).split())[:300], note=name)
    except Exception as error:  # every library has errors of its own, and the other candidates go on
        context.add(name, ok=False, note=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    return None


def open_module(context: Context, source: Any, precision: str, compiled: bool) -> Candidate:
    """Open the encoder in PyTorch, in lower precisions by autocast."""
    import copy

    import torch

    dtype = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    encoder = copy.deepcopy(source.encoder).eval().to(context.device)
    module = torch.compile(encoder, dynamic=False) if compiled else encoder

    def run_tensors(images: Any) -> Any:
        with torch.inference_mode(), torch.autocast(context.device, dtype, enabled=dtype is not None):
            return module(images)

    return Candidate(precision, with_copies(context, run_tensors), run_tensors, compiled)


def with_copies(context: Context, module: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a function on numpy arrays that runs a module on the device."""
    import torch

    from gtsa_kit.models.outputs import Features

    def call(images: Any) -> Any:
        embedding, feature_map = module(torch.from_numpy(images).to(context.device))[:2]
        return Features(embedding.float().cpu().numpy(), feature_map.float().cpu().numpy())

    return call


def open_artifact(context: Context, source: Any, file_format: str, precision: str) -> Candidate:
    """Export through the parity gate, open the file on the device, and check its parity there as well."""
    import torch

    from gtsa_kit.export import load
    from gtsa_kit.export.parity import check_parity
    from gtsa_kit.export.parity_images import load_parity_images

    path = export(context, source, file_format, precision, TINY_SIDE if context.tiny else None)
    provider = {"provider": "cuda"} if file_format == "onnx" and context.device == "cuda" else {}
    runner: Any = load(path, context.device, **provider)
    report = check_parity(source.encoder, runner, load_parity_images(context.images))
    note = f"smallest cosine {report.worst.min_cosine}{report.worst.problem}"
    context.add(f"parity of {file_format} {precision}, {runner.provider}", ok=report.passed, note=note)
    if not hasattr(runner, "module"):
        return Candidate(precision, runner)

    def run_tensors(images: Any) -> Any:
        with torch.inference_mode():
            return runner.module(images)

    return Candidate(precision, runner, run_tensors)


def export(context: Context, source: Any, file_format: str, precision: str, side: int | None = None) -> Path:
    """Write an artifact for any image size or for one, and the result of its gate on the CPU as a row."""
    from gtsa_kit.export.parity_images import load_parity_images
    from gtsa_kit.export.pipeline import export_artifact, read_calibration
    from gtsa_kit.export.spec import SUFFIX, ExportOptions, Range

    path = context.work / f"{precision}-{side or 'any'}{SUFFIX[file_format]}"
    calibration = read_calibration(context.images) if precision == "int8" else None
    sizes = {"height": Range(side, side), "width": Range(side, side)} if side else {}
    options = ExportOptions(precision=precision, **sizes)  # type: ignore[arg-type]
    report = export_artifact(source, file_format, path, options, load_parity_images(context.images), calibration).parity  # type: ignore[arg-type]
    what = f"parity gate of {file_format} {precision}" + (f", size {side}" if side else "")
    context.add(what, ok=report is not None and report.passed)
    return path


def open_aoti(context: Context, source: Any, precision: str, side: int) -> Candidate:
    """Compile a torch.export artifact of one image size and any batch by AOTInductor, which refuses any size."""
    import torch

    program = torch.export.load(export(context, source, "pt2", precision, side))
    if context.device == "cuda":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, context.device)
    package = str(context.work / f"aoti-{precision}-{side}.pt2")
    model = torch._inductor.aoti_load_package(torch._inductor.aoti_compile_and_package(program, package_path=package))
    return Candidate(precision, with_copies(context, model), model)


def measure(context: Context, name: str, candidate: Candidate, encoder: Any, batch: int, side: int) -> bool:
    """Write rate and parity at one shape; return whether the candidate ran.

    The rate is that of a call on numpy arrays, as users of the files call them; the note has that without the copies.
    """
    import numpy as np

    from gtsa_kit.export.comparison import compare_output
    from gtsa_kit.export.parity_cases import ParityCase
    from gtsa_kit.export.spec import FEATURE_MAP
    from gtsa_kit.export.tolerances import TOLERANCES

    few, maps = reference(context, encoder, side)
    images, what = np.resize(few, (batch, *few.shape[1:])), f"{name}, {batch} x {side}"
    last = np.arange(batch)[-len(few) :]
    try:
        actual = np.asarray(candidate.call(images).feature_map)[last]
        rate = batch / median_seconds(lambda: candidate.call(images))
        note = rate_without_copies(context, candidate, images)
    except Exception as error:  # every library has errors of its own, and the other candidates go on
        context.add(what, ok=False, note=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        return False
    case, tolerance = ParityCase(batch, side, side), TOLERANCES[candidate.precision]
    difference = compare_output(FEATURE_MAP, maps[last % len(few)], actual, case, tolerance)
    note += difference.problem or f"smallest cosine {difference.min_cosine:.6f}, largest error {difference.max_abs:.2g}"
    context.add(what, rate, "images/s", ok=difference.passed, note=note)
    return True


def rate_without_copies(context: Context, candidate: Candidate, images: Any) -> str:
    """Return the rate of a candidate on images that are on the device already, for a note; "" where it takes none."""
    import torch

    if candidate.module is None or context.device == "cpu":
        return ""
    tensor, module = torch.from_numpy(images).to(context.device), candidate.module

    def work() -> None:
        module(tensor)
        torch.cuda.synchronize()

    return f"without copies {len(images) / median_seconds(work):.0f} images/s, "


def median_seconds(work: Callable[[], Any]) -> float:
    """Return the median time of a call, of at least three calls and half a second, after two that warm up."""
    times: list[float] = []
    for _ in range(2):
        work()
    while len(times) < 3 or sum(times) < 0.5:
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


@cache
def reference(context: Context, encoder: Any, side: int) -> Any:
    """Return images, (N, 3, side, side), and their feature maps by the float32 encoder on the CPU.

    Up to four, of large ones one: patches are compared with all others.
    """
    import numpy as np
    import torch

    from gtsa_kit.export.parity_images import load_parity_images

    chosen = load_parity_images(context.images).images[: 1 if side > 224 else 4]
    images = np.stack([encoder.preprocessing(image, (side, side)) for image in chosen])
    with torch.inference_mode():
        return images, encoder.to("cpu").eval()(torch.from_numpy(images)).feature_map.numpy()
