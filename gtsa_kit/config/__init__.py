"""A run's settings: frozen, typed, unknown keys rejected; defaults are the paper's (design.md, "Method, in numbers").

This package imports no torch, so that the command line can read it and show it at once.
"""

from gtsa_kit.config.presets import METHODS, PRESETS
from gtsa_kit.config.resolve import dump_config, load_config, parse_overrides
from gtsa_kit.config.sections import (
    PATCH,
    Arch,
    DINOConfig,
    LossConfig,
    MoCoV3Config,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TrainConfig,
    ViewsConfig,
)

__all__ = [
    "METHODS",
    "PATCH",
    "PRESETS",
    "Arch",
    "DINOConfig",
    "LossConfig",
    "MoCoV3Config",
    "ModelConfig",
    "OptimConfig",
    "RunConfig",
    "TrainConfig",
    "ViewsConfig",
    "dump_config",
    "load_config",
    "parse_overrides",
]
