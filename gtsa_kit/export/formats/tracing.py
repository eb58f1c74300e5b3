"""Contexts in which graphs are traced."""

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


@contextmanager
def exporting() -> Iterator[None]:
    """Do what `tracing` does, for torch.export: also without its cache of the shapes of results.

    With symbolic sizes, filling the cache and reading it takes longer than computing the shapes again.
    """
    from torch._dynamo import config  # torch.export imports it; torch.jit does not

    with tracing(), config.patch(fake_tensor_cache_enabled=False):
        yield
