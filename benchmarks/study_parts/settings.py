"""Settings of the benchmark study: the compared methods, the scales, and the measures."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gtsa_kit.config import RunConfig, load_config

ARCH = "vit_mini"
"""Architecture of all runs."""
SIZE = 96
"""Side, in pixels, of the global crops in training, and of the inputs of all probes but that of whole frames."""
COMMON: Mapping[str, Any] = {
    "model.arch": ARCH,
    "model.projector_dim": 192,
    "optim.lr": 6e-3,
    "optim.teacher_momentum": 0.99,
    "optim.warmup_epochs": 0.5,
    "dino.temperature_warmup_epochs": 0.0,
    "dino.final_teacher_temperature": 0.04,
    "dino.freeze_epochs": 0.5,
    "train.log_every": 10,
    "train.checkpoint_every": 50,
    "train.keep_checkpoints": 1,
}
"""Settings of all runs, on top of the preset `quick`, which has crops of 2 x 96 and 4 x 48 pixels and small heads."""
METHODS: Mapping[str, Mapping[str, Any]] = {
    "gtsa": {},
    "dino": {"method": "dino"},
    "mocov3": {"method": "mocov3"},
    "gtsa without rotation": {"views.rotate": False, "loss.rotation_weight": 0.0},
    "dino with rotation": {"method": "dino", "views.rotate": True},
    "dino sharper": {"method": "dino", "dino.teacher_temperature": 0.02, "dino.final_teacher_temperature": 0.02},
    "gtsa weaker colors": {"views.jitter_strength": 0.5},
    "gtsa l": {"loss.correspondence_weight": 0.0, "loss.rotation_weight": 0.0},
    "gtsa l + l_pc": {"loss.rotation_weight": 0.0},
}
"""Settings of each method and control, by name."""
RANDOM = "random"
"""Name of the models with random weights."""
MAIN = ("gtsa", "dino", "mocov3")
"""Methods that are compared; the others are controls."""
RATES: Mapping[str, Mapping[str, Any]] = {
    f"{method} {name}": {**METHODS[method], "optim.lr": factor * COMMON["optim.lr"]}
    for name, factor in (("slower", 0.5), ("faster", 2.0))
    for method in MAIN
}
"""Settings of the main methods at half and at twice the learning rate."""
ALL = {**METHODS, **RATES}


@dataclass(frozen=True)
class Scale:
    """Budget of a study."""

    images: int
    """Number of training samples of each run; images are repeated over epochs."""
    batch: int
    """Images per optimizer step."""
    seeds: int
    """Pretraining seeds of the main methods; controls have one."""
    methods: tuple[str, ...]
    """Names of the methods."""
    probes: tuple[str, ...]
    """Names of the probes."""
    probe_seeds: int = 3
    """Seeds of each probe."""


PROBES = ("places", "places linear", "tiles", "tiles k-NN", "whole", "correspondence", "rotation", "sensitivity")
SCALES = {
    "quick": Scale(
        images=9_600, batch=32, seeds=1, methods=MAIN, probes=("places", "places linear", "tiles", "correspondence")
    ),
    "rates": Scale(images=9_600, batch=32, seeds=1, methods=(*MAIN, *RATES), probes=("places",)),
    "full": Scale(images=19_200, batch=32, seeds=2, methods=tuple(METHODS), probes=PROBES),
}
"""Scales by name; `rates` reuses the runs of `quick` in the same folder."""

MEASURES = {
    "places_knn": "places k-NN, top-1 %",
    "places_linear": "places linear, top-1 %",
    "camvid_tiles": "CamVid mIoU %, 96-pixel tiles",
    "camvid_tiles_knn": "CamVid mIoU %, tiles, k-NN",
    "camvid_whole": "CamVid mIoU %, whole frames",
    "crop": "correspondence recall@1 %, crop",
    "crop_rotation": "recall@1 %, crop and rotation",
    "rotation": "rotation accuracy %",
    "embedding_rank": "rank, pooled",
    "token_rank": "rank, tokens",
    "sensitivity_color": "sensitivity to color %",
    "sensitivity_rotation": "sensitivity to rotation %",
    "sensitivity_crop": "sensitivity to crop %",
}
"""Name of each measure in tables and plots, by key."""

Run = tuple[str, int]
"""Method and pretraining seed."""


def run_config(run: Run, scale: Scale, data: Path) -> RunConfig:
    """Return the settings of one run."""
    method, seed = run
    own = {
        "data": str(data.absolute()),
        "train.batch_size": scale.batch,
        "train.steps": scale.images // scale.batch,
        "train.seed": seed,
    }
    return load_config("quick", None, {**COMMON, **ALL[method], **own})


def folder_name(run: Run) -> str:
    """Return the folder name of a run."""
    method, seed = run
    return f"{method.replace(' + ', '-').replace(' ', '-')}-{seed}"


def list_runs(scale: Scale) -> list[Run]:
    """Return the runs in order of training: seed 0 of the main methods, their other seeds, then the controls."""
    main, controls = [m for m in scale.methods if m in MAIN], [m for m in scale.methods if m not in MAIN]
    other_seeds = [(method, seed) for seed in range(1, scale.seeds) for method in main]
    return [(method, 0) for method in main] + other_seeds + [(method, 0) for method in controls]
