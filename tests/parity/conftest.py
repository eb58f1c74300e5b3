from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.cores import two_cores


@pytest.fixture(autouse=True, scope="module")
def divided() -> Iterator[None]:
    """Make runners count two cores; on the one thread of the tests they would not divide a batch."""
    with two_cores():
        yield


@pytest.fixture(scope="module")
def traces(once: Callable[[str, Callable[[Path], object]], Path]) -> Iterator[None]:
    """Share traces of equal graphs between the tests of a module, and with other modules that do."""
    from helpers.traces import shared_traces

    with shared_traces(once):
        yield
