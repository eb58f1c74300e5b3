"""Opening artifacts, whatever the file."""

from pathlib import Path

import torch

from gtsa_kit.export.build_manifest import build_manifest
from gtsa_kit.export.graph import ExportGraph
from gtsa_kit.export.manifest import read_manifest
from gtsa_kit.export.runtime.onnx_runner import OnnxRunner
from gtsa_kit.export.runtime.openvino_runner import OpenVinoRunner
from gtsa_kit.export.runtime.providers import ProviderRequest
from gtsa_kit.export.runtime.runner import Runner
from gtsa_kit.export.runtime.tensorrt_runner import EngineRunner
from gtsa_kit.export.runtime.torch_runner import TorchRunner, load_program, load_torchscript
from gtsa_kit.export.source import open_source
from gtsa_kit.export.spec import SUFFIX, ExportOptions

__all__ = ["Runner", "load", "pick_device"]


def load(
    path: str | Path,
    device: str = "auto",
    provider: str = "auto",
    engine_cache: str | Path | None = None,
    fallback: bool = False,
    layers: tuple[int, ...] = (),
) -> Runner:
    """Open an exported file (`.onnx`, `.ts`, `.pt2`, `.xml`, `.engine`), a run folder, or weights (`.safetensors`).

    Args:
        path: What to open.
        device: "auto" (a GPU if there is one and the file can use it), "cpu", or "cuda".
        provider: Of ONNX Runtime, for `.onnx` files: "cpu", "cuda", "tensorrt" or "tensorrt-rtx"; "auto" follows the
            device.
        engine_cache: Folder in which the last two keep the engines that they build.
        fallback: Whether the next best provider may take over, with a warning, from one that can't run here.
        layers: Blocks whose maps must be outputs; weights give any, a file those that it was exported with.

    Raises:
        ValueError: Nothing there, no such device or provider, or not something of ours; the message says what would be.
    """
    path = Path(path)
    wanted = ProviderRequest(provider, Path(engine_cache) if engine_cache else None, fallback)
    target = pick_device(device)
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    if wanted.told and (path.is_dir() or path.suffix != SUFFIX["onnx"]):
        raise ValueError(f"{path} is not run by ONNX Runtime; leave out --provider, --engine-cache and --fallback")
    if path.is_dir() or path.suffix not in SUFFIX.values():
        opened, options = open_source(path), ExportOptions(layers=layers)
        graph = ExportGraph(opened.encoder, options)
        manifest = build_manifest(opened.encoder, "pytorch", options, {"torch": str(torch.__version__)}, opened.sha256)
        return TorchRunner(graph, manifest, target)
    runner = _open_file(path, device, target, wanted)
    if missing := [layer for layer in layers if layer not in runner.manifest.layers]:
        named = ",".join(map(str, layers))
        raise ValueError(f"{path} has no map of layer {missing[0]}; export it with --layers {named}")
    return runner


def _open_file(path: Path, device: str, target: torch.device, wanted: ProviderRequest) -> Runner:
    if path.suffix == SUFFIX["onnx"]:
        return OnnxRunner(path, target, wanted.order(device, target), wanted.engine_cache)
    if path.suffix == SUFFIX["openvino"]:
        if device not in ("auto", "cpu"):
            raise ValueError(f"{path} runs on the processor only; leave out --device {device}")
        return OpenVinoRunner(path)
    if path.suffix == SUFFIX["trt"]:
        return EngineRunner(path, target)
    manifest = read_manifest(path)
    module = load_torchscript(path) if path.suffix == SUFFIX["torchscript"] else load_program(path)
    return TorchRunner(module, manifest, target)


def pick_device(device: str) -> torch.device:
    """From "auto", "cpu", "cuda" or "cuda:N" to a device that is there, else `ValueError`."""
    cuda = torch.cuda.is_available()
    if device == "auto":
        return torch.device("cuda" if cuda else "cpu")
    if device != "cpu" and not (device.startswith("cuda") and cuda):
        raise ValueError(f"device {device!r} is not here; choose auto, cpu{' or cuda' if cuda else ''}")
    return torch.device(device)
