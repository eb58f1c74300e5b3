"""GTSA for your own images: train, export with proof, embed dense (arXiv 2304.08014).

Nothing heavy is imported here, so that `gtsa --help` answers at once; import what you need from the modules,
for example `gtsa_kit.export.load`. One name is at hand without that: `from gtsa_kit import embed`.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`embed`, imported when it is asked for."""
    if name == "embed":
        return import_module("gtsa_kit.embedding.iterate").embed
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
