"""What this process may use of the machine."""

import os


def available_cores() -> int:
    """Cores that it may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
