"""Jobs that are killed at random times and started again, until one ends."""

import subprocess
import sys

from helpers.commands import one_thread

# Imports the package once, then forks a child for each attempt and kills it after a random delay.
_ATTEMPTS = """
import os, random, signal, sys, time

seed, kills, max_delay = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
arguments = sys.argv[4:]
{setup}
rng = random.Random(seed)
killed = 0
for attempt in range(200):
    child = os.fork()
    if child == 0:
        try:
            {call}
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    if killed < kills:
        time.sleep(rng.uniform(0.0, max_delay))
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        killed += 1
    elif os.WEXITSTATUS(status):
        sys.exit(1)
    else:
        print(killed)
        break
"""


def run_with_kills(setup: str, call: str, arguments: list[object], seed: int, kills: int, max_delay: float) -> None:
    """Run a job in processes of its own that are killed; assert that at least one was, and that the last one ended.

    Args:
        setup: Code without indentation that imports what the job needs.
        call: Code in one line that runs the job; `arguments` are its texts.
        arguments: What the job gets, as texts.
        seed: Seed of the delays.
        kills: Number of processes to kill.
        max_delay: Longest life of a process that is killed, in seconds.
    """
    script = _ATTEMPTS.format(setup=setup, call=call)
    command = [sys.executable, "-c", script, *map(str, (seed, kills, max_delay)), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=one_thread(), timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0, "none was killed"
