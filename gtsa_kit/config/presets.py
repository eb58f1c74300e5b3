"""Settings that go together, by name."""

from typing import Any

METHODS: dict[str, dict[str, Any]] = {
    "gtsa": {},
    # What is published for each, where it is not the defaults; crops and colors are those of all methods.
    "dino": {"views": {"rotate": False, "hflip_p": 0.5}},
    "mocov3": {
        "model": {"drop_path": 0.0},
        "views": {"rotate": False, "hflip_p": 0.5},
        "optim": {"lr": 1.5e-4, "weight_decay": 0.1, "final_weight_decay": 0.1, "teacher_momentum": 0.99},
    },
}
"""Laid below the preset: that says how large a run is, whatever the method."""

PRESETS: dict[str, dict[str, Any]] = {
    # The paper's COCO setting: the defaults above.
    "coco": {},
    "ade20k": {
        "model": {"norm_before_heads": False},
        "views": {"jitter_strength": 0.2},
        "loss": {"rotation_weight": 0.25},
    },
    # ViT-S/16 on a laptop's CPU in minutes: small crops and batches, a quick teacher. It shows that the machinery
    # works on your images; it does not make a good encoder.
    "quick": {
        "views": {"global_size": 96, "local_size": 48, "local_crops": 4},
        "optim": {"lr": 2e-3, "warmup_epochs": 1.0, "teacher_momentum": 0.98},
        "dino": {"prototypes": 1024, "hidden": 256, "bottleneck": 64, "temperature_warmup_epochs": 3.0},
        "mocov3": {"hidden": 512, "output": 128},
        "train": {"epochs": 10.0, "batch_size": 16, "log_every": 1, "checkpoint_every": 50},
    },
}
