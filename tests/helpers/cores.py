"""Simulation of a machine of two cores, on which runners divide batches."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch


@contextmanager
def two_cores() -> Iterator[None]:
    """Make runners that are opened inside count two cores."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: 2)
        yield
