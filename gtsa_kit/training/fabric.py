"""Lightning Fabric, without what its import would drag in."""

import sys

_HIDDEN = "torchmetrics"
"""Fabric learns its version by importing it where it is installed, which takes five seconds, and has no use for it."""

_present = _HIDDEN in sys.modules
if not _present:
    sys.modules[_HIDDEN] = None  # type: ignore[assignment]
try:
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
finally:
    if not _present:
        del sys.modules[_HIDDEN]

__all__ = ["Fabric", "SLURMEnvironment", "TorchElasticEnvironment"]
