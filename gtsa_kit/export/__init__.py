"""Export of one encoder to many file formats, each with a manifest that describes it and a parity report.

The module is callable, since the package and the function of the public API share this name: `gtsa_kit.export(source)`
calls `gtsa_kit.export.api.export`. `load` opens any exported file and returns a `Runner`.
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if __name__ != "gtsa_kit.export":
    raise ImportError("import gtsa_kit.export; `export` in the root of the repository is only a link to its folder")

if TYPE_CHECKING:
    from gtsa_kit.export.runtime.load import load
    from gtsa_kit.export.runtime.runner import Runner

__all__ = ["Runner", "load"]


def __getattr__(name: str) -> Any:
    """Import a name on its first use: reading a manifest needs no torch."""
    if name == "load":
        from gtsa_kit.export.runtime.load import load

        return load
    if name == "Runner":
        from gtsa_kit.export.runtime.runner import Runner

        return Runner
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _CallableModule(ModuleType):
    """The type of this module, which makes it callable."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Export an encoder; see `gtsa_kit.export.api.export`."""
        from gtsa_kit.extras import require

        require("torch", "gtsa_kit.export")
        from gtsa_kit.export.api import export

        return export(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule
