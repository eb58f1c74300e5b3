"""One encoder, many files: each with a manifest that describes it and a parity report that proves it.

`load` opens any of them, and the encoder itself, behind one interface.
"""

from gtsa_kit.export.runner import Runner
from gtsa_kit.export.runtime import load

__all__ = ["Runner", "load"]
