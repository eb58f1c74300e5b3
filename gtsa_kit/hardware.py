"""Capabilities of this machine: CPU cores, memory, precision, compilation, attention kernel.

torch is imported inside the functions that need it, so that reading settings does not load it.
"""

import os
import shutil
import statistics
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MIN_BF16_SPEEDUP = 1.3
"""Smallest ratio of bf16 to float32 matrix product speed on a CPU for which training uses bf16."""
_BENCHMARK_ROUNDS = 5
_BENCHMARK_SHAPE = (1576, 384, 1536)
"""Rows, inner size and columns of the timed product: patch tokens of eight images in the first MLP layer of ViT-S."""


def available_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compute_threads() -> int:
    """Return the number of threads of one model: as many as the process set for torch, else one for each physical core.

    torch itself starts with OMP_NUM_THREADS, or with the physical cores; this needs no torch.
    """
    if torch := sys.modules.get("torch"):
        return int(torch.get_num_threads())
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        if (value := os.environ.get(name, "")).isdecimal() and int(value):
            return int(value)
    return _physical_cores()


def share_cores(processes: int) -> None:
    """Let this process use its part of the cores, by as many threads of one model, now and once torch is imported."""
    threads = max(1, compute_threads() // processes)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)


def _physical_cores() -> int:
    """Return the number of cores that this process may use; the threads of one core count once."""
    cores = set()
    with suppress(OSError, AttributeError):
        for cpu in os.sched_getaffinity(0):
            cores.add(Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text())
        return len(cores)
    return available_cores()


def available_memory() -> int:
    """Return the memory in bytes that this machine, or the container, leaves; without a known limit a huge number."""
    free = [_meminfo("MemAvailable") + _meminfo("SwapFree")]
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):  # another version of cgroups, or no limit ("max")
            free.append(int(Path(limit).read_text()) - int(Path(used).read_text()))
    return max(0, min(free))


def used_memory() -> int:
    """Return the resident memory of this process in bytes, 0 where the system does not tell."""
    with suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def peak_memory() -> int:
    """Return the largest resident memory of this process so far in bytes, 0 where the system does not tell."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def _meminfo(name: str) -> int:
    """Return one value of /proc/meminfo in bytes; a system without that file has no known limit."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 1 << 62
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), 0)


def should_compile(device: "torch.device") -> bool:
    """Return whether to compile models: on a GPU if Triton and the C compiler that Triton needs are installed."""
    from torch.utils._triton import has_triton

    return device.type == "cuda" and bool(has_triton()) and shutil.which(os.environ.get("CC", "cc")) is not None


def should_use_fused_attention(device: "torch.device", bf16: bool) -> bool:
    """Return whether training should use torch's fused attention: always except in bf16 on a CPU, where it is slow."""
    return not (bf16 and device.type == "cpu")


def should_use_bf16(device: "torch.device") -> bool:
    """Return whether training should run in bf16 (matrix products and convolutions; the rest stays float32).

    A GPU runs in bf16 if it supports bf16. On a CPU with bf16 instructions the speed is measured for a tenth of a
    second, because bf16 is not faster on all of them.
    """
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu" or not _cpu_has_bf16():
        return False
    return bf16_speedup() >= MIN_BF16_SPEEDUP


@cache
def bf16_speedup() -> float:
    """Measure, once in a process, how fast a matrix product of ViT-S is in bf16 relative to float32 on this CPU."""
    import torch

    rows, inner, columns = _BENCHMARK_SHAPE
    float32 = torch.randn(rows, inner), torch.randn(inner, columns)
    bf16 = float32[0].bfloat16(), float32[1].bfloat16()
    _time_matmul(*float32), _time_matmul(*bf16)  # warm-up: the first calls create the kernels
    return statistics.median(_time_matmul(*float32) / _time_matmul(*bf16) for _ in range(_BENCHMARK_ROUNDS))


def _time_matmul(a: "Tensor", b: "Tensor") -> float:
    """Return the duration of one matrix product in seconds."""
    import torch

    start = time.perf_counter()
    torch.mm(a, b)
    return time.perf_counter() - start


def _cpu_has_bf16() -> bool:
    """Return whether the CPU has bf16 instructions that torch uses."""
    import torch

    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
