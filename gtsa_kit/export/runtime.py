"""Opening artifacts: whatever the file, `runner(images) -> Features` on numpy float32."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gtsa_kit.checkpoint import find_weights, load_encoder
from gtsa_kit.encoder import Features, Preprocessing, check_size
from gtsa_kit.export.manifest import METADATA_KEY, Manifest, describe, manifest_path, parse_manifest, read_manifest
from gtsa_kit.export.spec import EMBEDDING, FEATURE_MAP, INPUT, SUFFIX
from gtsa_kit.files import sha256_of


class Runner(ABC):
    """An opened artifact. Calls are independent of each other and may come from several threads."""

    manifest: Manifest
    provider: str
    """What computes, in words for people."""

    def __call__(self, images: np.ndarray) -> Features:
        """Features of a batch.

        Args:
            images: (B, 3, H, W) float32, preprocessed as the manifest says; H and W multiples of 16.

        Returns:
            numpy float32: embedding (B, D), feature_map (B, D, H/16, W/16).

        Raises:
            ValueError: A wrong shape or dtype; the message says what is allowed.
        """
        if not isinstance(images, np.ndarray) or images.dtype != np.float32:
            raise ValueError(f"images must be a numpy array of float32, got {getattr(images, 'dtype', type(images))}")
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[0] == 0:
            raise ValueError(f"images must be (batch, 3, height, width) with at least one, got {images.shape}")
        check_size(*images.shape[2:])
        return self._run(images)

    @property
    def preprocessing(self) -> Preprocessing:
        """How photographs become inputs of this artifact."""
        return Preprocessing.from_dict(self.manifest.preprocessing)

    @abstractmethod
    def _run(self, images: np.ndarray) -> Features: ...


class TorchRunner(Runner):
    """The encoder itself, or its TorchScript."""

    def __init__(self, module: Any, manifest: Manifest, device: torch.device) -> None:
        self.module = module.to(device).eval()
        self.manifest = manifest
        self.device = device
        self.provider = f"{'TorchScript' if manifest.format == 'torchscript' else 'PyTorch'} on {device}"

    @torch.inference_mode()
    def _run(self, images: np.ndarray) -> Features:
        embedding, feature_map = self.module(torch.from_numpy(images).to(self.device))[:2]
        return Features(embedding.cpu().numpy(), feature_map.cpu().numpy())


class OnnxRunner(Runner):
    """ONNX Runtime."""

    def __init__(self, path: Path, device: torch.device) -> None:
        import onnxruntime as ort
        from onnxruntime.capi import onnxruntime_pybind11_state as c

        wanted = ["CUDAExecutionProvider"] if device.type == "cuda" else []
        options = ort.SessionOptions()
        options.log_severity_level = 3
        try:
            self.session = ort.InferenceSession(str(path), options, providers=[*wanted, "CPUExecutionProvider"])
        except (
            c.Fail,
            c.InvalidArgument,
            c.InvalidGraph,
            c.InvalidProtobuf,
            c.NotImplemented,
            c.RuntimeException,
        ) as error:
            raise ValueError(f"{path} can't be opened by ONNX Runtime: {str(error).splitlines()[0]}") from error
        text = self.session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        beside = manifest_path(path).exists()
        self.manifest = read_manifest(path) if beside or text is None else parse_manifest(text, str(path))
        self.provider = f"ONNX Runtime, {self.session.get_providers()[0]}"

    def _run(self, images: np.ndarray) -> Features:
        return Features(*self.session.run([EMBEDDING, FEATURE_MAP], {INPUT: images}))


def load(path: str | Path, device: str = "auto") -> Runner:
    """Open a run folder, a `.safetensors`, or an exported file (`.onnx`, `.ts`).

    Args:
        path: What to open.
        device: "auto" (a GPU if there is one), "cpu", or "cuda".

    Raises:
        ValueError: Nothing there, no such device, or not something of ours; the message says what would be.
    """
    path = Path(path)
    target = pick_device(device)
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    if path.is_dir() or path.suffix == ".safetensors":
        encoder = load_encoder(path)
        weights = sha256_of(find_weights(path))
        manifest = describe(encoder, "pytorch", "fp32", {"torch": str(torch.__version__)}, weights)
        return TorchRunner(encoder, manifest, target)
    if path.suffix == SUFFIX["torchscript"]:
        manifest = read_manifest(path)
        return TorchRunner(load_torchscript(path), manifest, target)
    if path.suffix == SUFFIX["onnx"]:
        return OnnxRunner(path, target)
    raise ValueError(f"{path} is not a run folder nor a file ending in .safetensors, {', '.join(SUFFIX.values())}")


def load_torchscript(path: Path) -> Any:
    """The module of a `.ts` file on the CPU, else `ValueError`."""
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit announces its retirement at every call
            return torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path} is not a readable TorchScript file: {str(error).splitlines()[0]}") from error


def pick_device(device: str) -> torch.device:
    """From "auto", "cpu", "cuda" or "cuda:N" to a device that is there, else `ValueError`."""
    cuda = torch.cuda.is_available()
    if device == "auto":
        return torch.device("cuda" if cuda else "cpu")
    if device != "cpu" and not (device.startswith("cuda") and cuda):
        raise ValueError(f"device {device!r} is not here; choose auto, cpu{' or cuda' if cuda else ''}")
    return torch.device(device)
