"""Runners as on a machine of two cores: they divide batches, whatever the machine and torch's own threads."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch


@contextmanager
def two_cores() -> Iterator[None]:
    """Within it, a runner that is opened counts two."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: 2)
        yield
