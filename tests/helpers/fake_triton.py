"""Fake Triton server: its gRPC protocol, for a model repository as Triton documents it, on ONNX Runtime."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime
import tritonclient.grpc.model_config_pb2 as schema
from google.protobuf import text_format
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import triton_to_np_dtype

NUMPY = {
    schema.TYPE_FP32: np.float32,
    schema.TYPE_FP16: np.float16,
    schema.TYPE_UINT8: np.uint8,
    schema.TYPE_UINT16: np.uint16,
}


def read_config(model: Path) -> schema.ModelConfig:
    """Parse a configuration by Triton's published schema; unknown fields and wrong types raise."""
    config = text_format.Parse((model / "config.pbtxt").read_text(), schema.ModelConfig())
    assert config.name == model.name
    versions = [entry for entry in model.iterdir() if entry.is_dir() and entry.name.isdecimal()]
    assert versions, "a model has a version"
    return config


def full_shape(config: schema.ModelConfig, tensor: Any) -> list[int]:
    """Return the shape with batch: `dims` after -1 where Triton joins requests, else `dims`."""
    return [-1, *tensor.dims] if config.max_batch_size else list(tensor.dims)


def check_tensor(config: schema.ModelConfig, tensor: Any, value: np.ndarray) -> None:
    """Raise `ValueError` unless a tensor has the shape and type of the configuration."""
    shape = full_shape(config, tensor)
    fits = len(shape) == value.ndim and all(a in (-1, b) for a, b in zip(shape, value.shape, strict=True))
    if not fits or (config.max_batch_size and value.shape[0] > config.max_batch_size):
        raise ValueError(f"{config.name}: {tensor.name} {value.shape} is not {shape}, {config.max_batch_size}")
    if value.dtype != NUMPY[tensor.data_type]:
        raise ValueError(f"{config.name}: {tensor.name} is {value.dtype}")


def infer(repository: Path, name: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run a model, or the steps of an ensemble, and return its outputs by name."""
    config = read_config(repository / name)
    for tensor in config.input:
        check_tensor(config, tensor, inputs[tensor.name])
    if config.platform == "ensemble":
        tensors = dict(inputs)
        for step in config.ensemble_scheduling.step:
            step_inputs = {own: tensors[name] for own, name in step.input_map.items()}
            step_outputs = infer(repository, step.model_name, step_inputs)
            tensors |= {name: step_outputs[own] for own, name in step.output_map.items()}
        outputs = {tensor.name: tensors[tensor.name] for tensor in config.output}
    else:
        names = [tensor.name for tensor in config.output]
        session = onnxruntime.InferenceSession(
            repository / name / "1" / "model.onnx", providers=["CPUExecutionProvider"]
        )
        outputs = dict(zip(names, session.run(names, inputs), strict=True))
    for tensor in config.output:
        check_tensor(config, tensor, outputs[tensor.name])
    return outputs


class _Service(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    def __init__(self, repository: Path) -> None:
        self.repository = repository

    def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ModelConfigResponse(config=read_config(self.repository / request.name))

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        inputs = {
            tensor.name: np.frombuffer(raw, triton_to_np_dtype(tensor.datatype)).reshape(tensor.shape)
            for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)
        }
        try:
            outputs = infer(self.repository, request.model_name, inputs)
        except ValueError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        response = service_pb2.ModelInferResponse(model_name=request.model_name)
        for name, value in outputs.items():
            response.outputs.add(name=name, datatype="FP32", shape=value.shape)
            response.raw_output_contents.append(value.tobytes())
        return response


@contextmanager
def serving(repository: Path) -> Iterator[str]:
    """Serve a repository, and yield the address of the server."""
    server = grpc.server(ThreadPoolExecutor(2))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Service(repository), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
