"""Commands with their wall time, CPU time, and the peak memory of all their processes."""

import os
import re
import resource
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from peers_parts.environments import PeerError, last_line

INTERVAL = 0.25
"""Seconds between two looks at the memory, at least."""
LOOKING = 0.03
"""Largest share of the time that is spent looking: the kernel walks all pages, 0.1 s for some GB."""


@dataclass(frozen=True)
class Usage:
    """Time, memory and output of a command."""

    code: int
    seconds: float
    cpu_seconds: float
    peak_mb: float
    """Largest sum of the proportional memory of all its processes."""
    output: str
    """Standard output and error together."""


def run_measured(command: list[str], log: Path, timeout: float = 1200, **environment: str) -> Usage:
    """Run a command to its end.

    Args:
        command: Program and arguments.
        log: File for what it prints.
        timeout: Seconds after which it is killed.
        **environment: Environment variables to add.
    """
    before, started, peak = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter(), 0.0
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", errors="replace") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=os.environ | environment, start_new_session=True
        )
        try:
            while process.poll() is None:
                looked = time.perf_counter()
                peak = max(peak, session_memory_mb(process.pid))
                if time.perf_counter() - started > timeout:
                    break
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(INTERVAL, (time.perf_counter() - looked) / LOOKING))
        finally:
            kill_session(process.pid)
        code, seconds = process.wait(), time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Usage(code, seconds, cpu, peak, log.read_text(errors="replace"))


def run_checked(command: list[str], log: Path, timeout: float = 1200, **environment: str) -> Usage:
    """Run a command like `run_measured`.

    Raises:
        PeerError: It failed.
    """
    usage = run_measured(command, log, timeout, **environment)
    if usage.code:
        raise PeerError(f"exit code {usage.code}: {last_line(usage.output)}")
    return usage


def session_processes(session: int) -> list[int]:
    """Return the processes of a session: a command started with a new session, and all that it started."""
    processes = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (OSError, ValueError):  # it has ended
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            processes.append(int(stat.parent.name))
    return processes


def session_memory_mb(session: int) -> float:
    """Return the sum of the proportional memory of a session's processes, which counts shared pages once."""
    total = 0
    for process in session_processes(session):
        try:
            text = Path(f"/proc/{process}/smaps_rollup").read_text()
        except OSError:
            continue
        if match := re.search(r"^Pss: +([0-9]+) kB", text, re.MULTILINE):
            total += int(match[1])
    return total / 1024


def session_cpu_seconds(session: int) -> float:
    """Return the CPU seconds of a session's processes, and of those that ended and that they waited for."""
    ticks = 0
    for process in session_processes(session):
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def kill_session(session: int) -> None:
    """End all processes of a session that still run."""
    for process in session_processes(session):
        with suppress(ProcessLookupError):
            os.kill(process, 9)
