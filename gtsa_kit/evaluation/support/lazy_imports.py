"""Imports of the libraries of the extra `eval`, made when an evaluation needs them."""

import importlib
from typing import Any


def import_sklearn() -> Any:
    """Import scikit-learn; raise `ValueError` with the command that installs it if it is missing."""
    return _import("sklearn", "scikit-learn")


def import_torchmetrics() -> Any:
    """Import torchmetrics; raise `ValueError` with the command that installs it if it is missing."""
    return _import("torchmetrics", "torchmetrics")


def _import(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"{package} is not installed; pip install 'gtsa-kit[eval]'") from error
