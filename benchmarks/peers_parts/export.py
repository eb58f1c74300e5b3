"""Job "export": the same ViT as an ONNX file by several tools, the gate on each file, and its latency in ONNX Runtime.

Every file is compared with the float32 encoder on the cases of `gtsa verify` that it takes, by the same bounds. A file
of another tool has no manifest, which `gtsa verify` needs, so its one output is read here: the vector, or the tokens,
whose mean is the vector and which are the map.
"""

import statistics
import time
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from peers_parts.measured import Usage, run_checked
from peers_parts.rounds import Column, Contestant, Job, Measurement
from peers_parts.setting import PATHS, SCRIPTS, Setting, gtsa

COLUMNS = (
    Column("export_cpu_seconds", "CPU s of the export", 1),
    Column("megabytes", "MB", 1),
    Column("parity", "our gate"),
    Column("sizes", "batch, size"),
    Column("ms_batch_1", "CPU ms of one thread, batch 1", 1),
    Column("ms_batch_8", "CPU ms of one thread, batch 8", 1),
)
RATIOS = (("export_cpu_seconds", False), ("ms_batch_1", False), ("ms_batch_8", False))
OURS = "gtsa export"
SIDE = 224
PATCH = 16
OFFLINE = {"HF_HUB_OFFLINE": "1", "YOLO_OFFLINE": "true"}


def export_job(setting: Setting) -> Job:
    """Return the job."""
    tools = {OURS: own, "timmx": timmx, "optimum": optimum, "ultralytics": ultralytics}
    contestants = (
        Contestant(name, partial(measure, setting, tool), "" if name == OURS else OURS) for name, tool in tools.items()
    )
    return Job("export", f"Export of ViT-{setting.arch}/16 to ONNX, float32", COLUMNS, RATIOS, tuple(contestants))


def own(setting: Setting, folder: Path) -> tuple[Usage, Path]:
    """Export by gtsa-kit, its gate included."""
    command = gtsa("export", str(setting.run_folder()), "--format", "onnx", "--images", str(setting.images))
    usage = run_checked([*command, "--out", str(folder / "encoder.onnx")], folder / "log.txt", **PATHS)
    return usage, folder / "encoder.onnx"


def timmx(setting: Setting, folder: Path) -> tuple[Usage, Path]:
    """Export by timmx, with a dynamic batch, which it can do, and its own check of the file."""
    python, file = Path(setting.python("timmx")), folder / "encoder.onnx"
    command = [str(python), "-m", "timmx", "export", "onnx", f"local-dir:{setting.exported('timm')}", "--pretrained"]
    command += ["--dynamic-batch", "--batch-size", "2", "--output", str(file)]
    return run_checked(command, folder / "log.txt", **OFFLINE), file


def optimum(setting: Setting, folder: Path) -> tuple[Usage, Path]:
    """Export by optimum, with its own check of the file."""
    program = Path(setting.python("optimum")).with_name("optimum-cli")
    command = [str(program), "export", "onnx", "--model", str(setting.exported("hf")), "--task", "feature-extraction"]
    return run_checked([*command, str(folder / "onnx")], folder / "log.txt", **OFFLINE), folder / "onnx" / "model.onnx"


def ultralytics(setting: Setting, folder: Path) -> tuple[Usage, Path]:
    """Export by ultralytics, which takes its own models alone."""
    weights = next(setting.exported("timm").glob("*.safetensors"))
    command = [setting.python("ultralytics"), str(SCRIPTS / "ultralytics_export.py"), str(weights), str(folder)]
    return run_checked(command, folder / "log.txt", **OFFLINE), folder / "encoder.onnx"


def measure(setting: Setting, tool: Any, folder: Path) -> Measurement:
    """Export, run the gate, and time the file."""
    usage, file = tool(setting, folder)
    batch, size = takes(file, (2, SIDE, SIDE)), takes(file, (1, 160, 320))
    seconds = 0.2 if setting.micro else 3.0
    return {
        "export_cpu_seconds": usage.cpu_seconds,
        "export_seconds": usage.seconds,
        "export_peak_mb": usage.peak_mb,
        "megabytes": sum(part.stat().st_size for part in file.parent.glob(f"{file.stem}*.onnx*")) / 1e6,
        "parity": check_file(setting, file, batch, size),
        "sizes": f"{'any' if batch else 'fixed'}, {'any' if size else 'fixed'}",
        "ms_batch_1": latency_ms(file, 1, seconds),
        **({"ms_batch_8": latency_ms(file, 8, seconds)} if batch else {}),
    }


def open_session(file: Path) -> Any:
    """Open a file with the default options of ONNX Runtime, but one thread: its CPU time bears other load best."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def run_session(session: Any, images: np.ndarray) -> list[np.ndarray]:
    """Run a session of one input."""
    outputs: list[np.ndarray] = session.run(None, {session.get_inputs()[0].name: images})
    return outputs


def takes(file: Path, shape: tuple[int, int, int]) -> bool:
    """Return whether a file takes a batch, height and width, by running it."""
    try:
        run_session(open_session(file), np.zeros((shape[0], 3, *shape[1:]), np.float32))
    except Exception:  # whatever ONNX Runtime raises: InvalidArgument, Fail, RuntimeException
        return False
    return True


def latency_ms(file: Path, batch: int, seconds: float) -> float:
    """Return the median CPU time of a call in ms, from at least five calls after a first one."""
    session, spans = open_session(file), []
    images = np.random.default_rng(0).standard_normal((batch, 3, SIDE, SIDE), np.float32)
    run_session(session, images)
    while sum(spans) < seconds or len(spans) < 5:
        started = time.process_time()
        run_session(session, images)
        spans.append(time.process_time() - started)
    return 1000 * statistics.median(spans)


def named_outputs(outputs: list[np.ndarray], height: int, width: int) -> dict[str, np.ndarray]:
    """Return vector and map by our names; the outputs are these two, a vector, or tokens (B, 1 + N, D)."""
    first = outputs[0]
    if first.ndim == 3:
        patches = first[:, 1:]
        grid = patches.transpose(0, 2, 1).reshape(len(first), -1, height // PATCH, width // PATCH)
        return {"embedding": patches.mean(1), "feature_map": grid}
    return {"embedding": first} | ({"feature_map": outputs[1]} if len(outputs) > 1 and outputs[1].ndim == 4 else {})


def check_file(setting: Setting, file: Path, any_batch: bool, any_size: bool) -> str:
    """Compare a file with the float32 encoder on the gate's cases that it takes, by the gate's bounds of float32.

    Returns:
        The result, the largest difference and what was compared.
    """
    import torch

    from gtsa_kit.export.comparison import compare_output
    from gtsa_kit.export.parity_cases import parity_cases
    from gtsa_kit.export.parity_images import load_parity_images
    from gtsa_kit.export.source import open_source
    from gtsa_kit.export.spec import Range
    from gtsa_kit.export.tolerances import TOLERANCES

    encoder, images, session = (
        open_source(setting.run_folder()).encoder,
        load_parity_images(setting.images),
        open_session(file),
    )
    side = Range(PATCH, None, PATCH) if any_size else Range(SIDE, SIDE, PATCH)
    differences = []
    for case in parity_cases(Range(1, None if any_batch else 1), side, side):
        size = (case.height, case.width)
        batch = np.stack([encoder.preprocessing(image, size) for image in islice(cycle(images.images), case.batch)])
        with torch.inference_mode():
            expected = encoder(torch.from_numpy(batch))
        for name, actual in named_outputs(run_session(session, batch), *size).items():
            reference = np.asarray(getattr(expected, name))
            differences.append(compare_output(name, reference, actual, case, TOLERANCES["fp32"]))
    return describe_parity(differences)


def describe_parity(differences: list[Any]) -> str:
    """Return "passed" or "failed", the largest difference, and which outputs were compared in how many cases."""
    problems = [difference.problem for difference in differences if difference.problem]
    worst = problems[0] if problems else f"{max(difference.max_abs for difference in differences):.0e}"
    outputs = {difference.output for difference in differences}
    cases = {(difference.batch, difference.height, difference.width) for difference in differences}
    passed = "passed" if all(difference.passed for difference in differences) else "failed"
    return f"{passed}, {worst}, {'vector and map' if len(outputs) > 1 else 'vector'}, {len(cases)} shapes"
