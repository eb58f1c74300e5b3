"""Which precision `auto` is: bf16 where the machine multiplies matrices clearly faster in it."""

import statistics
import time

import torch
from torch import Tensor

FASTER = 1.3
"""Least ratio of matrix products a second, bf16 to float32, for which bf16 is worth its rounding."""
_ROUNDS = 5
_SHAPE = (1576, 384, 1536)
"""Eight images' patch tokens through the first layer of ViT-S's MLP."""


def should_use_bf16(device: torch.device) -> bool:
    """Whether training should run in bf16 (matrix products and convolutions; the rest stays float32).

    On a GPU its own word is taken. On a CPU that has instructions for bf16 both are timed, which takes a tenth of a
    second: some have them and are no faster.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu" or not _cpu_has_bf16():
        return False
    return measured_ratio() >= FASTER


def measured_ratio() -> float:
    """How many times as fast bf16 is as float32 at a matrix product of ViT-S, on this CPU: median of paired rounds."""
    rows, inner, columns = _SHAPE
    wide = torch.randn(rows, inner), torch.randn(inner, columns)
    half = wide[0].bfloat16(), wide[1].bfloat16()
    _seconds(*wide), _seconds(*half)  # the first calls make the kernels
    return statistics.median(_seconds(*wide) / _seconds(*half) for _ in range(_ROUNDS))


def _seconds(a: Tensor, b: Tensor) -> float:
    begun = time.perf_counter()
    torch.mm(a, b)
    return time.perf_counter() - begun


def _cpu_has_bf16() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
