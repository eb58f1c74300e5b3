"""Libraries of the extra `eval`, asked for where they are needed."""

import importlib
from typing import Any


def sklearn() -> Any:
    """scikit-learn, else `ValueError`."""
    return _need("sklearn", "scikit-learn")


def torchmetrics() -> Any:
    """torchmetrics, else `ValueError`."""
    return _need("torchmetrics", "torchmetrics")


def _need(module: str, name: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"{name} is not installed; pip install 'gtsa-kit[eval]'") from error
