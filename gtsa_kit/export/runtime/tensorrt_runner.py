"""Runner of TensorRT engines on a GPU, for both variants of the library."""

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gtsa_kit.export.manifest import Manifest
from gtsa_kit.export.manifest_records import EngineRecord
from gtsa_kit.export.runtime.engine_header import THIRD_PARTY_GRAPH, read_header
from gtsa_kit.export.runtime.runner import Runner
from gtsa_kit.export.runtime.tensorrt_variant import TensorRTVariant, cannot_run, import_variant, make_logger
from gtsa_kit.files import sha256_of

CapturedGraph = tuple[Any, Tensor, list[Tensor]]
"""A CUDA graph, its input tensor and its output tensors."""


class EngineRunner(Runner):
    """Runner of an engine of TensorRT or TensorRT-RTX.

    An execution context serves one call at a time, so calls from several threads wait for each other.
    """

    def __init__(self, path: Path, manifest: Manifest, device: torch.device) -> None:
        """Open an engine.

        Raises:
            ValueError: There is no GPU, the engine is for another GPU or library version, or the file is damaged.
        """
        self.manifest = manifest
        record = check_file(path, self.manifest)
        if device.type != "cuda":
            raise ValueError(
                f"{path} needs an NVIDIA GPU, but the device is {device.type}; gtsa verify checks it without "
                f"one, and ONNX Runtime runs the same graph, {record.graph.file}"
            )
        if reason := cannot_run(record):
            raise ValueError(
                f"{path} can't run here: {reason.removeprefix('not run: ')}; {rebuild_hint(self.manifest)}"
            )
        variant = import_variant(record.variant)
        try:
            self._open(path, variant, device)
        except BaseException:
            vars(self).clear()  # frees the engine now; the garbage collector must not: see `freed_after_error`
            raise
        self.provider = f"{record.variant} {record.version} on {torch.cuda.get_device_name(device)}"

    def _open(self, path: Path, variant: TensorRTVariant, device: torch.device) -> None:
        self.device, self.library = device, variant.library
        self._lock = threading.Lock()
        self._captured: CapturedGraph | None = None
        self._logger = make_logger(variant)
        self._runtime = self.library.Runtime(self._logger)  # it must outlive the engine
        self.engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self.engine is None:
            error = self._logger.errors[0].splitlines()[0] if self._logger.errors else "it gave no reason"
            raise ValueError(f"{variant.name} can't open {path}: {error}; {rebuild_hint(self.manifest)}")
        self.context = self._make_context(variant)
        self.stream: Any = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self.dtypes = {
            spec.name: getattr(torch, spec.dtype) for spec in (*self.manifest.inputs, *self.manifest.outputs)
        }

    def _make_context(self, variant: TensorRTVariant) -> Any:
        """Create an execution context; TensorRT-RTX captures CUDA graphs by itself, TensorRT does not (`_replay`)."""
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
        """Run a batch of torch tensors.

        Args:
            images: Tensor of the manifest's dtype and layout. A contiguous tensor on the GPU is read without a copy;
                any other is copied there.

        Returns:
            Outputs on the GPU, in the order of the manifest. They are new tensors; the next call does not change them.

        Raises:
            ValueError: The engine does not accept the dtype or the shape.
        """
        spec = self.manifest.inputs[0]
        if images.dtype != self.dtypes[spec.name]:
            raise ValueError(f"images must be {spec.dtype}, got {str(images.dtype).removeprefix('torch.')}")
        self._check_shape(tuple(images.shape))
        images = images.to(self.device, non_blocking=True).contiguous()
        with self._lock, self._on_stream(images):
            if self._uses_cuda_graph:
                outputs = self._replay(images)
            else:
                outputs = self._bind(images)
                self._enqueue()
        if self.stream is not None:
            for output in outputs:  # allocated on the runner's stream, read on the caller's
                output.record_stream(torch.cuda.current_stream(self.device))
        return outputs

    @property
    def _uses_cuda_graph(self) -> bool:
        return self.stream is not None and not self._dynamic and self.manifest.target["variant"] == "tensorrt"

    def _on_stream(self, images: Tensor) -> AbstractContextManager[Any]:
        return nullcontext() if self.stream is None else _OrderedStream(self.stream, images)

    def _bind(self, images: Tensor) -> list[Tensor]:
        """Set the addresses of the input and of newly allocated outputs in the context, and return the outputs."""
        name = self.manifest.inputs[0].name
        self._select_profile(tuple(images.shape))
        if not self.context.set_input_shape(name, tuple(images.shape)):
            raise ValueError(f"the engine does not accept {tuple(images.shape)}; {rebuild_hint(self.manifest)}")
        self.context.set_tensor_address(name, images.data_ptr())
        outputs = []
        for spec in self.manifest.outputs:
            shape = tuple(self.context.get_tensor_shape(spec.name))
            outputs.append(torch.empty(shape, dtype=self.dtypes[spec.name], device=self.device))
            self.context.set_tensor_address(spec.name, outputs[-1].data_ptr())
        return outputs

    def _select_profile(self, shape: tuple[int, ...]) -> None:
        """Activate the first optimization profile that holds the shape."""
        name = self.manifest.inputs[0].name
        for index in range(self.engine.num_optimization_profiles if self._dynamic else 0):
            min_shape, _, max_shape = (tuple(dims) for dims in self.engine.get_tensor_profile_shape(name, index))
            if all(low <= length <= high for low, length, high in zip(min_shape, shape, max_shape, strict=True)):
                if index != self.context.active_optimization_profile:
                    self.context.set_optimization_profile_async(index, self._stream_handle)
                return

    @property
    def _stream_handle(self) -> int:
        return 0 if self.stream is None else int(self.stream.cuda_stream)

    def _enqueue(self) -> None:
        if not self.context.execute_async_v3(self._stream_handle):
            error = self._logger.errors[-1].splitlines()[0] if self._logger.errors else "it gave no reason"
            raise RuntimeError(f"the engine failed: {error}")

    def _replay(self, images: Tensor) -> list[Tensor]:
        """Replay a CUDA graph that the first call captures; outputs are copied, since the graph reuses its memory."""
        if self._captured is None:
            graph_input = images.clone()
            outputs = self._bind(graph_input)
            self._enqueue()  # TensorRT requires one run before a capture
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                self._enqueue()
            self._captured = graph, graph_input, outputs
        graph, graph_input, outputs = self._captured
        graph_input.copy_(images)
        graph.replay()
        return [output.clone() for output in outputs]


class _OrderedStream:
    """Block in which work runs on `stream`, after the caller's earlier work and before the caller's later work."""

    def __init__(self, stream: torch.cuda.Stream, images: Tensor) -> None:
        self.stream, self.images = stream, images
        self.context = torch.cuda.stream(stream)

    def __enter__(self) -> None:
        self.stream.wait_stream(torch.cuda.current_stream(self.images.device))
        self.images.record_stream(self.stream)
        self.context.__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        self.context.__exit__(*error)
        torch.cuda.current_stream(self.images.device).wait_stream(self.stream)


def check_file(path: Path, manifest: Manifest) -> EngineRecord:
    """Check an engine file before it is opened, and return the manifest's record of the engine.

    Raises:
        ValueError: The file is damaged, does not belong to the manifest, was built from another tool's graph, or needs
            another version of the library.
    """
    record = manifest.engine
    if record is None:
        raise ValueError(f"{path}.json is the manifest of a {manifest.format} file, not of an engine; export it again")
    header = read_header(path)
    if (header.variant, header.version) != (record.variant, record.version) or sha256_of(
        path
    ) != manifest.content_sha256:
        raise ValueError(f"{path} is not the engine that {path.name}.json describes; copy both, or export it again")
    if manifest.architecture["name"] == THIRD_PARTY_GRAPH:
        raise ValueError(
            f"{path} was built from another tool's graph, whose outputs have no known meaning; run it with TensorRT "
            "itself, or export the model's weights with gtsa export"
        )
    variant = import_variant(record.variant)
    if variant.version != record.version:
        raise ValueError(
            f"{path} was built by {record.variant} {record.version}, but {variant.version} is installed and can't open "
            f"it; {rebuild_hint(manifest)}"
        )
    return record


def rebuild_hint(manifest: Manifest) -> str:
    """Return a hint with the command that builds the same engine for this machine."""
    assert manifest.engine is not None
    words = [
        "gtsa export SOURCE --format trt",
        f"--runtime {manifest.engine.variant}",
        f"--precision {manifest.precision}",
    ]
    words += [f"--layers {','.join(map(str, manifest.layers))}"] if manifest.layers else []
    words += ["--class-token"] if manifest.has_class_token else []
    words += [f"--input {manifest.input_type}"] if manifest.input_format.normalizes else []
    batch, height, width = (manifest.range_of(axis) for axis in ("batch", "height", "width"))
    words.append(f"--batch {batch.min}" if batch.fixed else f"--batch {batch.min}:{batch.max}")
    if height.fixed and width.fixed:
        words.append(f"--size {height.min}x{width.min}")
    else:
        words.append(f"--min-size {height.min}x{width.min} --max-size {height.max}x{width.max}")
    return f"build it for this machine: {' '.join(words)}"
