from collections.abc import Iterator

import pytest
from helpers.cores import two_cores


@pytest.fixture(autouse=True, scope="module")
def divided() -> Iterator[None]:
    """Make runners count two cores; on the one thread of the tests they would not divide a batch."""
    with two_cores():
        yield
