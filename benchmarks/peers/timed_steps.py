"""Runs a training program and writes the clock and the CPU time at the end of each optimizer step.

The same file times every trainer, in its own environment: timed_steps.py TIMES.json MODULE ARGUMENTS. It has no
imports but torch. The CPU time is that of all processes of the session, workers that load images included.
"""

import json
import os
import runpy
import sys
import time
from pathlib import Path


def session_cpu_seconds() -> float:
    """Return the CPU seconds of all running processes of this session and of those that they waited for."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[3]) == os.getsid(0):
            ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Time the steps of the program that the arguments name."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    times, module = Path(sys.argv[1]), sys.argv[2]
    rows = []

    def add(*_: object) -> None:
        rows.append({"seconds": time.perf_counter(), "cpu_seconds": session_cpu_seconds()})
        times.write_text(json.dumps(rows))

    register_optimizer_step_post_hook(add)
    sys.argv = [module, *sys.argv[3:]]
    if module.endswith(".py"):
        sys.path.insert(0, str(Path(module).parent))
        runpy.run_path(module, run_name="__main__")
    else:
        runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
