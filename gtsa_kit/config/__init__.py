"""Settings of a run: frozen, typed, unknown keys rejected; defaults are those of the GTSA paper.

This package does not import torch, so that commands can read settings without delay.
"""

from gtsa_kit.config.channels_section import ChannelsConfig
from gtsa_kit.config.describe import annotated_yaml, describe_settings
from gtsa_kit.config.layers import dump_config, parse_overrides
from gtsa_kit.config.method_sections import DINOConfig, LossConfig, MoCoV3Config
from gtsa_kit.config.presets import METHODS, PRESETS, PUBLISHED_MOMENTUM
from gtsa_kit.config.resolve import given_settings, load_config
from gtsa_kit.config.sections import (
    InitConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TrainConfig,
)
from gtsa_kit.config.types import PATCH, Arch, Positions, RunArch
from gtsa_kit.config.views_section import ViewsConfig

__all__ = [
    "METHODS",
    "PATCH",
    "PRESETS",
    "PUBLISHED_MOMENTUM",
    "Arch",
    "ChannelsConfig",
    "DINOConfig",
    "InitConfig",
    "LossConfig",
    "MoCoV3Config",
    "ModelConfig",
    "OptimConfig",
    "Positions",
    "RunArch",
    "RunConfig",
    "TrainConfig",
    "ViewsConfig",
    "annotated_yaml",
    "describe_settings",
    "dump_config",
    "given_settings",
    "load_config",
    "parse_overrides",
]
