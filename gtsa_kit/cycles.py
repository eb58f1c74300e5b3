"""Python's search for reference cycles, left out where it costs much and finds nothing."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_cycle_search() -> Iterator[None]:
    """Run the block without the search for reference cycles: a third of the time of imports and traces goes there.

    Cycles that the block leaves are found after it. Nested blocks end with the outermost.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
