"""Self-supervised pretraining methods: GTSA and the baselines DINO and MoCo v3."""

from gtsa_kit.config import RunConfig
from gtsa_kit.methods.base import Method


def make_method(config: RunConfig) -> Method:
    """Build student and teacher of `config.method` with random weights from torch's global generator.

    Modules are imported here so that lightly is only needed for a baseline.
    """
    if config.method == "dino":
        from gtsa_kit.methods.dino import DINO

        return DINO(config)
    if config.method == "mocov3":
        from gtsa_kit.methods.mocov3 import MoCoV3

        return MoCoV3(config)
    from gtsa_kit.methods.gtsa import GTSA

    return GTSA(config)
