"""One encoder, many files: each with a manifest that describes it and a parity report that proves it.

`load` opens any of them, and the encoder itself, behind one interface.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gtsa_kit.export.runtime.load import load
    from gtsa_kit.export.runtime.runner import Runner

__all__ = ["Runner", "load"]


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is: reading a manifest needs no torch."""
    if name == "load":
        from gtsa_kit.export.runtime.load import load

        return load
    if name == "Runner":
        from gtsa_kit.export.runtime.runner import Runner

        return Runner
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
