"""Settings that go together, by name."""

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    # The paper's COCO setting: the defaults above.
    "coco": {},
    "ade20k": {
        "model": {"norm_before_heads": False},
        "views": {"jitter_strength": 0.2},
        "loss": {"rotation": 0.25},
    },
    # ViT-S/16 on a laptop's CPU in minutes: small crops and batches, a quick teacher. It shows that the machinery
    # works on your photographs; it does not make a good encoder.
    "quick": {
        "views": {"global_size": 96, "local_size": 48, "local_crops": 4},
        "optim": {"lr": 2e-3, "warmup_epochs": 1.0, "momentum": 0.98},
        "train": {"epochs": 10.0, "batch_size": 16, "log_every": 1, "checkpoint_every": 50},
    },
}
