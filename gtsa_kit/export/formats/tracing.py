"""Context in which graphs are traced."""

import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def tracing() -> Iterator[None]:
    """Compute without gradients, torch's warnings, and the search for reference cycles, a large part of a trace's time.

    torch.jit warns of its deprecation, and of shapes in Python code; the parity gate tests several shapes. A trace
    makes many small objects, and cycles among them are collected after it.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if enabled:
            gc.enable()
