"""Engines on a GPU, through either variant: no copy of what lies there already, output memory by shape, CUDA graphs."""

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gtsa_kit.export.manifest import EngineRecord, Manifest, read_manifest
from gtsa_kit.export.runtime.engine_header import FOREIGN_GRAPH, read_header
from gtsa_kit.export.runtime.runner import Runner
from gtsa_kit.export.runtime.tensorrt_variant import TensorRTVariant, cannot_run, import_variant, make_logger
from gtsa_kit.files import sha256_of

Captured = tuple[Any, Tensor, list[Tensor]]
"""A CUDA graph with the memory that it reads from and writes to."""


class EngineRunner(Runner):
    """An engine of TensorRT or TensorRT-RTX on a GPU.

    Calls from several threads take turns: an execution context serves one at a time.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        """Open an engine.

        Raises:
            ValueError: No GPU, one that the engine is not for, another version, a file that is not whole.
        """
        self.manifest = read_manifest(path)
        record = check_file(path, self.manifest)
        if device.type != "cuda":
            raise ValueError(
                f"{path} runs on an NVIDIA GPU, and there is none here; gtsa verify {path.name} checks what can be "
                f"checked without, and {record.graph.file} is the same graph for ONNX Runtime"
            )
        if why := cannot_run(record):
            raise ValueError(f"{path} can't run here: {why.removeprefix('not run: ')}; {rebuild(self.manifest)}")
        variant = import_variant(record.variant)
        self._open(path, variant, device)
        self.provider = f"{record.variant} {record.version} on {torch.cuda.get_device_name(device)}"

    def _open(self, path: Path, variant: TensorRTVariant, device: torch.device) -> None:
        self.device, self.library = device, variant.library
        self._lock = threading.Lock()
        self._captured: Captured | None = None
        self._logger = make_logger(variant)
        self._runtime = self.library.Runtime(self._logger)  # it must outlive the engine
        self.engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self.engine is None:
            said = self._logger.errors[0].splitlines()[0] if self._logger.errors else "it gave no reason"
            raise ValueError(f"{path} can't be opened by {variant.name}: {said}; {rebuild(self.manifest)}")
        self.context = self._make_context(variant)
        self.stream: Any = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self.dtypes = {
            spec.name: getattr(torch, spec.dtype) for spec in (*self.manifest.inputs, *self.manifest.outputs)
        }

    def _make_context(self, variant: TensorRTVariant) -> Any:
        """TensorRT-RTX captures CUDA graphs by itself where the shape is fixed; TensorRT leaves that to us."""
        if variant.name == "tensorrt" or self._dynamic:
            return self.engine.create_execution_context()
        config = self.engine.create_runtime_config()
        config.cuda_graph_strategy = self.library.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return self.engine.create_execution_context(config)

    @property
    def _dynamic(self) -> bool:
        return bool(self.manifest.engine and self.manifest.engine.profile)

    def _run(self, images: np.ndarray) -> Sequence[np.ndarray]:
        return [output.cpu().numpy() for output in self.run_tensors(torch.from_numpy(np.ascontiguousarray(images)))]

    @torch.inference_mode()
    def run_tensors(self, images: Tensor) -> list[Tensor]:
        """Outputs of a batch, in the manifest's order, on the GPU.

        Args:
            images: Of the manifest's type and layout. What lies on the GPU is read where it lies; what does
                not is copied there.

        Returns:
            Memory of torch's own, which the next call does not touch.

        Raises:
            ValueError: A type or shape that the engine does not take.
        """
        spec = self.manifest.inputs[0]
        if images.dtype != self.dtypes[spec.name]:
            raise ValueError(f"images must be {spec.dtype}, got {str(images.dtype).removeprefix('torch.')}")
        self._check_shape(tuple(images.shape))
        images = images.to(self.device, non_blocking=True).contiguous()
        with self._lock, self._on_stream(images):
            if self._captures:
                outputs = self._replay(images)
            else:
                outputs = self._allocate(images)
                self._enqueue()
        if self.stream is not None:
            for output in outputs:  # made on our stream, read on the caller's
                output.record_stream(torch.cuda.current_stream(self.device))
        return outputs

    @property
    def _captures(self) -> bool:
        return self.stream is not None and not self._dynamic and self.manifest.target["variant"] == "tensorrt"

    def _on_stream(self, images: Tensor) -> AbstractContextManager[Any]:
        """Within it, work follows what the caller has queued; what the caller queues next follows it."""
        return nullcontext() if self.stream is None else _Following(self.stream, images)

    def _allocate(self, images: Tensor) -> list[Tensor]:
        """Tell the context where input and outputs are; memory for the outputs is torch's."""
        name = self.manifest.inputs[0].name
        self._take_profile(tuple(images.shape))
        if not self.context.set_input_shape(name, tuple(images.shape)):
            raise ValueError(f"the engine does not take {tuple(images.shape)}; {rebuild(self.manifest)}")
        self.context.set_tensor_address(name, images.data_ptr())
        outputs = []
        for spec in self.manifest.outputs:
            shape = tuple(self.context.get_tensor_shape(spec.name))
            outputs.append(torch.empty(shape, dtype=self.dtypes[spec.name], device=self.device))
            self.context.set_tensor_address(spec.name, outputs[-1].data_ptr())
        return outputs

    def _take_profile(self, shape: tuple[int, ...]) -> None:
        """Of an engine with several profiles, the first that holds the shape."""
        name = self.manifest.inputs[0].name
        for index in range(self.engine.num_optimization_profiles if self._dynamic else 0):
            smallest, _, largest = (tuple(dims) for dims in self.engine.get_tensor_profile_shape(name, index))
            if all(low <= length <= high for low, length, high in zip(smallest, shape, largest, strict=True)):
                if index != self.context.active_optimization_profile:
                    self.context.set_optimization_profile_async(index, self._handle)
                return

    @property
    def _handle(self) -> int:
        return 0 if self.stream is None else int(self.stream.cuda_stream)

    def _enqueue(self) -> None:
        if not self.context.execute_async_v3(self._handle):
            said = self._logger.errors[-1].splitlines()[0] if self._logger.errors else "it gave no reason"
            raise RuntimeError(f"the engine failed: {said}")

    def _replay(self, images: Tensor) -> list[Tensor]:
        """Queue a fixed shape's work as a whole, as it was queued once; its memory stays, so results are copied."""
        if self._captured is None:
            kept = images.clone()
            outputs = self._allocate(kept)
            self._enqueue()  # TensorRT asks for one run before a capture
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                self._enqueue()
            self._captured = graph, kept, outputs
        graph, kept, outputs = self._captured
        kept.copy_(images)
        graph.replay()
        return [output.clone() for output in outputs]


class _Following:
    """A stream that runs after the caller's, and the caller's after it."""

    def __init__(self, stream: torch.cuda.Stream, images: Tensor) -> None:
        self.stream, self.images = stream, images
        self.within = torch.cuda.stream(stream)

    def __enter__(self) -> None:
        self.stream.wait_stream(torch.cuda.current_stream(self.images.device))
        self.images.record_stream(self.stream)
        self.within.__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        self.within.__exit__(*error)
        torch.cuda.current_stream(self.images.device).wait_stream(self.stream)


def check_file(path: Path, manifest: Manifest) -> EngineRecord:
    """What can be said of an engine file before it is opened.

    Raises:
        ValueError: Not whole, not the one of its manifest, of another tool's graph, or of another version than is here.
    """
    record = manifest.engine
    if record is None:
        raise ValueError(f"{path}.json is the manifest of a {manifest.format} file, not of an engine; export it again")
    header = read_header(path)
    if (header.variant, header.version) != (record.variant, record.version) or sha256_of(path) != record.sha256:
        raise ValueError(f"{path} is not the engine that {path.name}.json describes; copy both, or export it again")
    if manifest.architecture["name"] == FOREIGN_GRAPH:
        raise ValueError(
            f"{path} was built from another tool's graph, so its outputs have no names that are known here; run it "
            "with TensorRT itself, or export the model's weights with gtsa export"
        )
    variant = import_variant(record.variant)
    if variant.version != record.version:
        raise ValueError(
            f"{path} was built by {record.variant} {record.version}, and {variant.version} is installed, which can't "
            f"open it; {rebuild(manifest)}"
        )
    return record


def rebuild(manifest: Manifest) -> str:
    """The command that makes an engine like this one for the machine at hand."""
    assert manifest.engine is not None
    words = [
        "gtsa export SOURCE --format trt",
        f"--runtime {manifest.engine.variant}",
        f"--precision {manifest.precision}",
    ]
    words += [f"--layers {','.join(map(str, manifest.layers))}"] if manifest.layers else []
    words += ["--input uint8"] if manifest.inputs[0].dtype == "uint8" else []
    batch, height, width = (manifest.range_of(axis) for axis in ("batch", "height", "width"))
    words.append(f"--batch {batch.min}" if batch.fixed else f"--batch {batch.min}:{batch.max}")
    if height.fixed and width.fixed:
        words.append(f"--size {height.min}x{width.min}")
    else:
        words.append(f"--min-size {height.min}x{width.min} --max-size {height.max}x{width.max}")
    return f"build it for this machine: {' '.join(words)}"
