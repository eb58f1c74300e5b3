"""Runner of PyTorch modules: the encoder itself, TorchScript files and torch.export programs."""

import warnings
import zipfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from gtsa_kit.export.manifest import Manifest
from gtsa_kit.export.runtime.runner import Runner


class TorchRunner(Runner):
    """Runner of a PyTorch module on one device."""

    NAMES: ClassVar = {"torchscript": "TorchScript", "pt2": "torch.export", "pytorch": "PyTorch"}
    """Names of the module's kinds for display, by the manifest's format."""

    def __init__(self, module: Any, manifest: Manifest, device: torch.device) -> None:
        self.module = module.to(device)
        self.manifest = manifest
        self.device = device
        self.provider = f"{self.NAMES[manifest.format]} on {device}"

    @torch.inference_mode()
    def _run(self, images: np.ndarray) -> list[np.ndarray]:
        # The copy is torch's own: it warns of arrays that it may not write to.
        outputs = self.module(torch.from_numpy(np.array(images)).to(self.device))
        return [output.cpu().numpy() for output in outputs]


def load_torchscript(path: Path) -> Any:
    """Load the module of a `.ts` file on the CPU.

    Raises:
        ValueError: The file is not readable as TorchScript.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit warns of its deprecation at every call
            return torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path} is not a readable TorchScript file: {str(error).splitlines()[0]}") from error


def load_program(path: Path) -> Any:
    """Load the module of a `.pt2` file.

    Raises:
        ValueError: The file is not readable as a torch.export program.
    """
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not a readable torch.export file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.load(path).module()
    except (RuntimeError, ValueError, KeyError, AssertionError, OSError) as error:
        raise ValueError(f"{path} is not a readable torch.export file: {str(error).splitlines()[0]}") from error
