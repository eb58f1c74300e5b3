"""Context in which graphs are traced."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gtsa_kit.cycles import no_cycle_search


@contextmanager
def tracing() -> Iterator[None]:
    """Compute without gradients, torch's warnings, and the search for reference cycles among many small objects.

    torch.jit warns of its deprecation, and of shapes in Python code; the parity gate tests several shapes.
    """
    with no_cycle_search(), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
