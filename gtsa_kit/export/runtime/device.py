"""Devices of ONNX Runtime, found without torch."""

import ctypes
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Protocol


class AnyDevice(Protocol):
    """A `Device` or a torch.device."""

    @property
    def type(self) -> str:
        """Return cpu or cuda."""

    @property
    def index(self) -> int | None:
        """Return the index of the GPU; None for the first."""


@dataclass(frozen=True)
class Device:
    """A kind of device, and its index if one is named."""

    type: str
    index: int | None = None


@cache
def count_gpus() -> int:
    """Return how many GPUs NVIDIA's driver shows to this process; 0 without a driver."""
    count = ctypes.c_int(0)
    with suppress(OSError):
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
            return 0
    return count.value


def pick_onnx_device(device: str) -> Device:
    """Return the device for "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        ValueError: The device is not available.
    """
    gpus = count_gpus()
    if device == "auto":
        return Device("cuda" if gpus else "cpu")
    kind, _, index = device.partition(":")
    exists = kind == "cpu" or (kind == "cuda" and gpus and (not index or (index.isdecimal() and int(index) < gpus)))
    if not exists:
        raise ValueError(unavailable_device(device, gpus > 0))
    return Device(kind, int(index) if index else None)


def unavailable_device(device: str, has_gpu: bool) -> str:
    """Return the message about a device that is not available."""
    return f"device {device!r} is not available; choose auto, cpu{' or cuda' if has_gpu else ''}"
