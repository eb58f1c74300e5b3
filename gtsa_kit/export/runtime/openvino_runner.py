"""Runner of OpenVINO files."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gtsa_kit.export.formats.openvino_library import cpu_capabilities, import_openvino
from gtsa_kit.export.manifest import Manifest
from gtsa_kit.export.runtime.batch_parallel import BatchParallelRunner, Infer
from gtsa_kit.hardware import compute_threads


class OpenVinoRunner(BatchParallelRunner):
    """Runner of an OpenVINO file on the CPU, in the precision that the manifest names."""

    chunk = 4

    def __init__(self, path: Path, manifest: Manifest) -> None:
        openvino = import_openvino()
        self.manifest = manifest
        core = openvino.Core()
        model = read_openvino_model(core, path)
        threads = compute_threads()
        precision = supported_precision(openvino, self.manifest.target["inference_precision"])
        config = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads}
        all_cores = core.compile_model(model, "CPU", {**config, "PERFORMANCE_HINT": "LATENCY"})
        dtypes = [spec.dtype for spec in self.manifest.outputs]
        divisible = not self.manifest.range_of("batch").fixed
        streams = {**config, "NUM_STREAMS": threads}
        self._set_inference(
            infer_with_requests(all_cores, dtypes),
            (lambda: infer_with_requests(core.compile_model(model, "CPU", streams), dtypes)) if divisible else None,
        )
        self.provider = f"OpenVINO on CPU, {all_cores.get_property('INFERENCE_PRECISION_HINT').to_string()}"


def read_openvino_model(core: Any, path: Path) -> Any:
    """Read an OpenVINO model (`.xml`) and the weights beside it (`.bin`).

    Raises:
        ValueError: One of the two files is missing or damaged.
    """
    if not path.with_suffix(".bin").exists():
        raise ValueError(f"{path} has no weights beside it ({path.stem}.bin); copy both, or export it again")
    try:
        return core.read_model(str(path))
    except RuntimeError as error:
        lines = [line for line in str(error).splitlines() if line and not line.startswith("Exception from")]
        reason = lines[0] if lines else type(error).__name__
        raise ValueError(f"{path} can't be opened by OpenVINO: {reason}; copy both of its files again") from error


def supported_precision(openvino: Any, precision: str) -> str:
    """Return `precision` ("f32", "f16" or "bf16") if this processor computes in it, else "f32".

    OpenVINO itself would replace a type that the processor lacks by a less precise one.
    """
    capability = {"f32": None, "f16": "FP16", "bf16": "BF16"}[precision]
    return precision if capability is None or capability in cpu_capabilities(openvino) else "f32"


def infer_with_requests(compiled: Any, dtypes: Sequence[str]) -> Infer:
    """Return a function that runs a compiled OpenVINO model; any thread may call it.

    A request of OpenVINO serves one caller at a time, so each thread has its own.
    """
    local = threading.local()

    def infer(images: np.ndarray) -> list[np.ndarray]:
        if not hasattr(local, "request"):
            local.request = compiled.create_infer_request()
        outputs = local.request.infer([np.ascontiguousarray(images)])
        return [np.array(outputs[i], dtype=dtype) for i, dtype in enumerate(dtypes)]

    return infer
