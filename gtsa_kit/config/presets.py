"""Named groups of settings: one per method, and presets."""

from typing import Any

METHODS: dict[str, dict[str, Any]] = {
    "gtsa": {},
    # Published values that differ from the defaults. Crops and colors are the same for all methods.
    "dino": {"views": {"rotate": False, "hflip_p": 0.5}},
    "mocov3": {
        "model": {"drop_path": 0.0},
        "views": {"rotate": False, "hflip_p": 0.5},
        "optim": {"lr": 1.5e-4, "weight_decay": 0.1, "final_weight_decay": 0.1},
    },
}
"""Settings of each method. The preset overrides them."""

PUBLISHED_MOMENTUM: dict[str, float] = {"gtsa": 0.996, "dino": 0.996, "mocov3": 0.99}
"""Initial teacher momentum that each method was published with, for its number of steps."""

PRESETS: dict[str, dict[str, Any]] = {
    # COCO setting of the GTSA paper: all defaults.
    "coco": {},
    "ade20k": {
        "model": {"norm_before_heads": False},
        "views": {"jitter_strength": 0.2},
        "loss": {"rotation_weight": 0.25},
    },
    # ViT-S/16 on a laptop CPU in minutes: small crops and batches. It tests a setup on your images and
    # does not give a good encoder.
    "quick": {
        "views": {"global_size": 96, "local_size": 48, "local_crops": 4},
        "optim": {"lr": 2e-3, "warmup_epochs": 1.0},
        "dino": {"prototypes": 1024, "hidden": 256, "bottleneck": 64, "temperature_warmup_epochs": 3.0},
        "mocov3": {"hidden": 512, "output": 128},
        "train": {"epochs": 10.0, "batch_size": 16, "log_every": 1, "checkpoint_every": 50},
    },
    # To go on training weights that exist, on images of one domain: the heads alone for an epoch, then all layers, the
    # encoder at a tenth of the rate of the new heads, its first layers at the lowest.
    "adapt": {
        "optim": {
            "lr": 1e-3,
            "encoder_lr_scale": 0.1,
            "layer_decay": 0.8,
            "final_lr": 1e-6,
            "warmup_epochs": 1.0,
            "final_weight_decay": 0.04,
            "teacher_momentum": 0.95,
        },
        "train": {"epochs": 10.0, "freeze_encoder_epochs": 1.0},
    },
}
