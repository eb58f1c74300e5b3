"""Signals in tests: Ctrl-C as in a terminal, and how long to wait for its effect."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

WAIT_SECONDS = 120
"""Limit of every wait for an event; only a fault reaches it, however busy the machine is."""


@contextmanager
def ctrl_c_raises() -> Iterator[None]:
    """Make SIGINT raise `KeyboardInterrupt`, as in a terminal.

    A shell without job control starts background commands with SIGINT ignored, and Python then leaves it ignored: a
    test run started with `&` would never see the interrupt.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Gate:
    """Gate for forked processes; unlike an event of multiprocessing, it survives that a waiting one is killed."""

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()

    def wait(self, _: object = None) -> None:
        os.read(self._reading, 1)

    def open(self) -> None:
        """Let the next 60,000 calls of `wait` pass."""
        os.write(self._writing, bytes(60_000))
