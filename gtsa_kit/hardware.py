"""What this process may use of the machine."""

import os
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def should_compile(device: "torch.device") -> bool:
    """Whether torch should compile a model: on a GPU for which it can (Triton, and a C compiler for Triton)."""
    from torch.utils._triton import has_triton

    return device.type == "cuda" and bool(has_triton()) and shutil.which(os.environ.get("CC", "cc")) is not None


def should_use_fused_attention(device: "torch.device", bf16: bool) -> bool:
    """Whether training should leave attention to torch's fused kernel: everywhere but in bf16 on a CPU."""
    return not (bf16 and device.type == "cpu")


def available_cores() -> int:
    """Cores that it may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
