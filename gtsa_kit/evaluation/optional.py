"""Libraries of the extra `eval`, asked for where they are needed."""

import importlib
from typing import Any


def sklearn() -> Any:
    """scikit-learn, else `ValueError`."""
    try:
        return importlib.import_module("sklearn")
    except ImportError as error:
        raise ValueError("scikit-learn is not installed; pip install 'gtsa-kit[eval]'") from error
