"""Self-supervised pretraining methods: GTSA and the baselines DINO and MoCo v3."""

from dataclasses import replace

from gtsa_kit.config import RunConfig
from gtsa_kit.methods.base import Method
from gtsa_kit.models.encoder_spec import EncoderSpec

COMPARED_COLUMNS: dict[str, tuple[str, str]] = {
    "gtsa": ("region", "region_loss_constant_baseline"),
    "dino": ("loss", "loss_constant_baseline"),
    "mocov3": ("loss", "loss_constant_baseline"),
}
"""Columns of metrics.jsonl by method: a loss, and the loss of a student whose output is the same for all images. Only a
student that has learned something about the images is below it."""


def embedding_of(config: RunConfig) -> str:
    """Return the kind of embedding that a method trains: mean, or cls for a baseline with that setting."""
    pools: dict[str, str] = {"dino": config.dino.pool, "mocov3": config.mocov3.pool}
    return pools.get(config.method, "mean")


def random_spec(config: RunConfig) -> EncoderSpec:
    """Return the specification of the encoder of a run that starts from random weights."""
    spec = EncoderSpec.named(config.model.arch)
    return replace(spec, architecture=spec.architecture.with_embedding(embedding_of(config)))


def make_method(config: RunConfig, encoder: EncoderSpec | None = None) -> Method:
    """Build student and teacher of `config.method` with random weights from torch's global generator.

    Args:
        config: Settings of the run.
        encoder: Architecture and preprocessing of both encoders; by default those of `config.model.arch`.

    Modules are imported here so that lightly is only needed for a baseline.
    """
    encoder = encoder or random_spec(config)
    if config.method == "dino":
        from gtsa_kit.methods.dino import DINO

        return DINO(config, encoder)
    if config.method == "mocov3":
        from gtsa_kit.methods.mocov3 import MoCoV3

        return MoCoV3(config, encoder)
    from gtsa_kit.methods.gtsa import GTSA

    return GTSA(config, encoder)
