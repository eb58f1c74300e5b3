"""Jobs that are killed at random times and started again, until one ends."""

import random
import shutil
import time
from pathlib import Path
from typing import Any

from helpers.processes import start_forked


def run_with_kills(
    folder: Path, setup: str, call: str, arguments: list[object], seed: int, kills: int, max_delay: float
) -> None:
    """Run a job in processes of its own, of which one at least is killed, until it ends.

    A fast machine may end the job before the first kill; it is then begun anew with half the delays.

    Args:
        folder: Folder for the output of the processes.
        setup: Code that imports what the job needs.
        call: Expression that runs the job; `arguments` are its texts.
        arguments: What the job gets, as texts; the third is its output folder.
        seed: Seed of the delays.
        kills: Number of processes to kill.
        max_delay: Longest life of a process that is killed, in seconds.
    """
    rng = random.Random(seed)
    while not _kill_and_end(folder, setup, call, [*map(str, arguments)], rng, kills, max_delay):
        shutil.rmtree(str(arguments[2]))
        max_delay /= 2


def _kill_and_end(
    folder: Path, setup: str, call: str, arguments: list[str], rng: random.Random, kills: int, max_delay: float
) -> int:
    """Start processes until one ends by itself; return the number of those that were killed before."""
    killed = 0
    while True:
        process = start_forked(folder, _run, setup, call, arguments)
        if killed < kills:
            time.sleep(rng.uniform(0.0, max_delay))
            process.kill()
        code = process.wait(300)
        assert code in (0, -9), process.stderr
        if code == 0:
            return killed
        killed += 1


def _run(setup: str, call: str, arguments: list[str]) -> None:
    names: dict[str, Any] = {"arguments": arguments}
    exec(setup, names)
    eval(call, names)
