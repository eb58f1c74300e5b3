"""lightly, imported when a baseline is trained and not before."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any


def require_lightly(method: str) -> None:
    """Raise `ValueError` where the library is missing, before any work is done."""
    if find_spec("lightly") is None:
        raise ValueError(
            f"the method {method} takes its heads and loss from lightly: pip install 'gtsa-kit[baselines]'"
        )


def lightly(module: str) -> Any:
    """A module of the library."""
    return import_module(f"lightly.{module}")
