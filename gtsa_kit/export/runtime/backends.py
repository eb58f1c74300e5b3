"""One runner for each kind of file: PyTorch's three, ONNX Runtime's, OpenVINO's."""

import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from gtsa_kit.export.manifest import METADATA_KEY, Manifest, manifest_path, parse_manifest, read_manifest
from gtsa_kit.export.runtime.bf16_emulation import widen_bfloat16
from gtsa_kit.export.runtime.onnx_sessions import open_on_gpu, open_session
from gtsa_kit.export.runtime.runner import Runner
from gtsa_kit.export.spec import INPUT

Infer = Callable[[np.ndarray], Sequence[np.ndarray]]


class TorchRunner(Runner):
    """The encoder itself, its TorchScript or its exported program."""

    NAMES: ClassVar = {"torchscript": "TorchScript", "pt2": "torch.export", "pytorch": "PyTorch"}

    def __init__(self, module: Any, manifest: Manifest, device: torch.device) -> None:
        self.module = module.to(device)
        self.manifest = manifest
        self.device = device
        self.provider = f"{self.NAMES[manifest.format]} on {device}"

    @torch.inference_mode()
    def _run(self, images: np.ndarray) -> list[np.ndarray]:
        outputs = self.module(torch.from_numpy(np.array(images)).to(self.device))  # torch wants to own what it reads
        return [output.cpu().numpy() for output in outputs]


class BatchParallelRunner(Runner):
    """A runner on the CPU that gives each core some images of a batch.

    That is faster than all cores on each operator: nothing waits at the end of an operator, and what one core works on
    stays in its cache. Batches that would leave a third of the cores idle go the other way.
    """

    chunk: int
    """Images at a time, at most; measured by benchmarks/inference.py."""

    def _begin(self, whole: Infer, one_core: Callable[[], Infer] | None) -> None:
        """`whole` uses every core; `one_core` makes, once and when it is needed, what uses one (None: never)."""
        self.cores = torch.get_num_threads()
        self._whole, self._make_one_core = whole, one_core
        self._one_core: Infer | None = None
        self._lock = threading.Lock()

    def _run(self, images: np.ndarray) -> Sequence[np.ndarray]:
        count, rounds = len(images), -(-len(images) // self.cores)
        if self._make_one_core is None or count == 1 or self.cores == 1 or rounds * self.cores > 1.5 * count:
            return self._whole(images)
        with self._lock:
            if self._one_core is None:
                self._one_core = self._make_one_core()
                self._pool = ThreadPoolExecutor(self.cores, "gtsa-runner")
        step = min(self.chunk, rounds)
        pieces = list(self._pool.map(self._one_core, [images[i : i + step] for i in range(0, count, step)]))
        return [np.concatenate(parts) for parts in zip(*pieces, strict=True)]


class OnnxRunner(BatchParallelRunner):
    """ONNX Runtime."""

    chunk = 2

    def __init__(
        self, path: Path, device: torch.device, order: tuple[str, ...] = ("cpu",), engine_cache: Path | None = None
    ) -> None:
        """Open a file with the first provider of `order` (see `providers.ProviderRequest`) that runs here."""
        self.manifest = read_onnx_manifest(path)
        names = [spec.name for spec in self.manifest.outputs]
        on_gpu = open_on_gpu(path, self.manifest, order, device, engine_cache)
        if on_gpu:
            self.manifest, self.provider = on_gpu.manifest, on_gpu.words
            self._begin(infer_by_session(on_gpu.session, names), None)
            return
        # The processor's provider has no bf16 operators: the graph with these widened.
        model = widen_bfloat16(path) if self.manifest.precision == "bf16" else str(path)
        fp8 = self.manifest.precision == "fp8"
        session = open_session(model, path, torch.get_num_threads(), fp8)
        divisible = not self.manifest.range_of("batch").fixed
        # Neither refers to this object: a cycle would keep the sessions until some later collection.
        self._begin(
            infer_by_session(session, names),
            (lambda: infer_by_session(open_session(model, path, 1, fp8), names)) if divisible else None,
        )
        self.provider = f"ONNX Runtime, {session.get_providers()[0]}"


class OpenVinoRunner(BatchParallelRunner):
    """OpenVINO, in the precision that the manifest names."""

    chunk = 4

    def __init__(self, path: Path, device: torch.device) -> None:
        ov = import_openvino()
        self.manifest = read_manifest(path)
        if not path.with_suffix(".bin").exists():
            raise ValueError(f"{path} has no weights beside it ({path.stem}.bin); copy both, or export it again")
        core = ov.Core()
        try:
            model = core.read_model(str(path))
        except RuntimeError as error:
            lines = [line for line in str(error).splitlines() if line and not line.startswith("Exception from")]
            said = lines[0] if lines else type(error).__name__
            raise ValueError(f"{path} can't be opened by OpenVINO: {said}; copy both of its files again") from error
        precision, threads = self.manifest.target["inference_precision"], torch.get_num_threads()
        # Asked for a type that the processor lacks, OpenVINO takes another, less precise one.
        able = {"f32": True, "f16": "FP16" in skills(ov), "bf16": "BF16" in skills(ov)}[precision]
        how = {"INFERENCE_PRECISION_HINT": precision if able else "f32", "INFERENCE_NUM_THREADS": threads}
        whole = core.compile_model(model, "CPU", {**how, "PERFORMANCE_HINT": "LATENCY"})
        count = len(self.manifest.outputs)
        divisible = not self.manifest.range_of("batch").fixed
        streams = {**how, "NUM_STREAMS": threads}
        self._begin(
            infer_by_requests(whole, count),
            (lambda: infer_by_requests(core.compile_model(model, "CPU", streams), count)) if divisible else None,
        )
        self.provider = f"OpenVINO on CPU, {whole.get_property('INFERENCE_PRECISION_HINT').to_string()}"


def infer_by_session(session: Any, names: list[str]) -> Infer:
    """Calls of an ONNX Runtime session, which any thread may make."""
    return lambda images: session.run(names, {INPUT: images})


def infer_by_requests(compiled: Any, count: int) -> Infer:
    """Calls of a compiled OpenVINO model, through a request for each thread: one serves one caller at a time."""
    local = threading.local()

    def infer(images: np.ndarray) -> list[np.ndarray]:
        if not hasattr(local, "request"):
            local.request = compiled.create_infer_request()
        found = local.request.infer([np.ascontiguousarray(images)])
        return [np.array(found[i], dtype=np.float32) for i in range(count)]

    return infer


def read_onnx_manifest(path: Path) -> Manifest:
    """Beside the file, else inside it.

    Raises:
        ValueError: Not an ONNX file, or not one of ours.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path, load_external_data=False)
    except (OSError, DecodeError) as error:
        raise ValueError(f"{path} is not a readable ONNX file: {error}") from error
    inside = next((entry.value for entry in model.metadata_props if entry.key == METADATA_KEY), None)
    if inside is None or manifest_path(path).exists():
        return read_manifest(path)
    return parse_manifest(inside, str(path))


def load_torchscript(path: Path) -> Any:
    """The module of a `.ts` file on the CPU, else `ValueError`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit announces its retirement at every call
            return torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path} is not a readable TorchScript file: {str(error).splitlines()[0]}") from error


def load_program(path: Path) -> Any:
    """The module of a `.pt2` file, else `ValueError`."""
    import zipfile

    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not a readable torch.export file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.load(path).module()
    except (RuntimeError, ValueError, KeyError, AssertionError, OSError) as error:
        raise ValueError(f"{path} is not a readable torch.export file: {str(error).splitlines()[0]}") from error


def skills(ov: Any) -> list[str]:
    """The number types that OpenVINO computes in on this processor."""
    return list(ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def import_openvino() -> Any:
    """The module, else `ValueError` with what to install."""
    try:
        import openvino
    except ImportError as error:
        raise ValueError("OpenVINO is not installed; pip install 'gtsa-kit[openvino]'") from error
    return openvino
