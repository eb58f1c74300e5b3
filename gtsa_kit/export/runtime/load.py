"""Opening an artifact of any format, a run folder or weights as a runner."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from gtsa_kit.export.formats.content import ArtifactManifest, ReportWarning, open_manifest
from gtsa_kit.export.formats.onnx_file import read_model
from gtsa_kit.export.manifest import Manifest
from gtsa_kit.export.open_options import ImportOptions
from gtsa_kit.export.runtime.device import pick_onnx_device, unavailable_device
from gtsa_kit.export.runtime.onnx_runner import OnnxRunner, check_names
from gtsa_kit.export.runtime.providers import ProviderRequest
from gtsa_kit.export.runtime.runner import Runner
from gtsa_kit.export.source_facts import check_no_import_options, is_exported_file
from gtsa_kit.export.spec import SUFFIX, ExportOptions
from gtsa_kit.extras import hint_at_extra

if TYPE_CHECKING:
    import torch

__all__ = ["Runner", "load", "pick_device"]


def load(
    path: str | Path,
    device: str = "auto",
    provider: str = "auto",
    engine_cache: str | Path | None = None,
    fallback: bool = False,
    layers: tuple[int, ...] = (),
    import_options: ImportOptions | None = None,
    class_token: bool = False,
) -> Runner:
    """Open an exported file (`.onnx`, `.ts`, `.pt2`, `.xml`, `.engine`), a run folder, or weights of any tool.

    Args:
        path: File or folder.
        device: "auto" (a GPU if there is one and the file can use it), "cpu", or "cuda".
        provider: Provider of ONNX Runtime, for `.onnx` files: "cpu", "cuda", "tensorrt" or "tensorrt-rtx"; "auto"
            follows the device.
        engine_cache: Folder in which the providers "tensorrt" and "tensorrt-rtx" keep the engines that they build.
        fallback: Whether a slower provider may replace, with a warning, one that can't run here.
        layers: Indices of blocks whose feature maps are outputs. Weights have every layer, a file those that it was
            exported with.
        import_options: Facts that weights of another tool do not contain. The runner's `note` says what was assumed
            for those that are not given.
        class_token: Whether the class token is an output. A file has it if it was exported so.

    Returns:
        The runner. Its `manifest` holds a parity report only if that is of the file's present content; else there is a
        `ReportWarning`.

    Raises:
        ValueError: The path does not exist, is no artifact of gtsa-kit, lacks a layer or the class token, or the device
            or provider is not available; the message says what is.
    """
    path = Path(path)
    request = ProviderRequest(provider, Path(engine_cache) if engine_cache else None, fallback)
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    if not request.is_default and (path.is_dir() or path.suffix != SUFFIX["onnx"]):
        raise ValueError(f"{path} is not run by ONNX Runtime; omit --provider, --engine-cache and --fallback")
    if not is_exported_file(path):
        with hint_at_extra(f"{path} holds weights, which PyTorch runs"):
            return _open_weights(path, device, ExportOptions(layers=layers, class_token=class_token), import_options)
    check_no_import_options(path, import_options or ImportOptions())
    opened = _open_manifest(path)
    if opened.manifest.kind == "head":
        raise ValueError(
            f"{path} is a head, which takes features; run it beside its encoder: gtsa serve ENCODER --head"
        )
    with hint_at_extra(f"{path} is run by PyTorch"):
        runner = _open_file(path, opened.manifest, device, request)
    if remark := opened.remark(path):
        warnings.warn(remark, ReportWarning, stacklevel=2)
    if missing := [layer for layer in layers if layer not in runner.manifest.layers]:
        names = ",".join(map(str, layers))
        raise ValueError(f"{path} has no map of layer {missing[0]}; export it with --layers {names}")
    if class_token and not runner.manifest.has_class_token:
        raise ValueError(f"{path} has no output class_token; export it with --class-token")
    return runner


def _open_weights(path: Path, device: str, options: ExportOptions, import_options: ImportOptions | None) -> Runner:
    from gtsa_kit.export.runtime.weights_runner import open_model
    from gtsa_kit.export.source import open_source

    target = pick_device(device)
    return open_model(open_source(path, import_options), target, options)


def _open_manifest(path: Path) -> ArtifactManifest:
    """Read the manifest of an artifact, and check that an ONNX file still has the tensors that it names."""
    if path.suffix != SUFFIX["onnx"]:
        return open_manifest(path)
    model = read_model(path)
    opened = open_manifest(path, model)
    check_names(path, opened.manifest, model)
    return opened


def _open_file(path: Path, manifest: Manifest, device: str, request: ProviderRequest) -> Runner:
    if path.suffix == SUFFIX["onnx"]:
        gpu_or_cpu = pick_onnx_device(device)
        return OnnxRunner(path, manifest, gpu_or_cpu, request.resolve(device, gpu_or_cpu), request.engine_cache)
    if path.suffix == SUFFIX["openvino"]:
        from gtsa_kit.export.runtime.openvino_runner import OpenVinoRunner

        pick_onnx_device(device)
        if device not in ("auto", "cpu"):
            raise ValueError(f"{path} runs on the CPU only; omit --device {device}")
        return OpenVinoRunner(path, manifest)
    target = pick_device(device)
    if path.suffix == SUFFIX["trt"]:
        from gtsa_kit.export.runtime.tensorrt_runner import EngineRunner

        return EngineRunner(path, manifest, target)
    from gtsa_kit.export.runtime.torch_runner import TorchRunner, load_program, load_torchscript

    module = load_torchscript(path) if path.suffix == SUFFIX["torchscript"] else load_program(path)
    return TorchRunner(module, manifest, target)


def pick_device(device: str) -> "torch.device":
    """Return the torch device for "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        ValueError: The device is not available.
    """
    import torch

    cuda = torch.cuda.is_available()
    if device == "auto":
        return torch.device("cuda" if cuda else "cpu")
    if device != "cpu" and not (device.startswith("cuda") and cuda):
        raise ValueError(unavailable_device(device, cuda))
    return torch.device(device)
