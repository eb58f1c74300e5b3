from collections.abc import Iterator

import pytest
from helpers.cores import two_cores


@pytest.fixture(autouse=True, scope="module")
def divided() -> Iterator[None]:
    """Tests run on one thread of torch, on which a runner would not divide a batch."""
    with two_cores():
        yield
