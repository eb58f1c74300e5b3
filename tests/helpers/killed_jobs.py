"""Jobs that are killed at random times and started again, until one ends."""

import random
import time
from pathlib import Path
from typing import Any

from helpers.processes import start_forked


def run_with_kills(
    folder: Path, setup: str, call: str, arguments: list[object], seed: int, kills: int, max_delay: float
) -> None:
    """Run a job in processes of its own that are killed; assert that at least one was, and that the last one ended.

    Args:
        folder: Folder for the output of the processes.
        setup: Code that imports what the job needs.
        call: Expression that runs the job; `arguments` are its texts.
        arguments: What the job gets, as texts.
        seed: Seed of the delays.
        kills: Number of processes to kill.
        max_delay: Longest life of a process that is killed, in seconds.
    """
    rng, killed = random.Random(seed), 0
    for _ in range(200):
        process = start_forked(folder, _run, setup, call, [*map(str, arguments)])
        if killed < kills:
            time.sleep(rng.uniform(0.0, max_delay))
            process.kill()
        code = process.wait(300)
        assert code in (0, -9), process.stderr
        if code == 0:
            break
        killed += 1
    assert code == 0
    assert killed > 0, "none was killed"


def _run(setup: str, call: str, arguments: list[str]) -> None:
    names: dict[str, Any] = {"arguments": arguments}
    exec(setup, names)
    eval(call, names)
