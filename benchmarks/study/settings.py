"""Settings of the benchmark study: the regime, the compared methods and hypotheses, the scales, and the measures."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gtsa_kit.config import RunConfig, load_config

ARCH: Final = "vit_micro"
"""Architecture of all runs: width 128, 4 blocks, patches of 16 pixels."""
SIZE: Final = 192
"""Side in pixels of the global views, and of the inputs of all probes but that of whole frames: 12 x 12 patches."""
FPN_CHANNELS: Final = 64
"""Channels of the Semantic FPN, half of the default as the encoder is small; its convolutions take most of the time."""
CHECKPOINTS: Final = 4
"""Checkpoints at equal distances whose teacher and student are probed; more are kept, since each stop adds its own."""
WARMUP: Final = 0.1
"""Share of the steps that learning rate and correspondence loss rise in, and that DINO's prototypes are frozen in."""
COMMON: Final[Mapping[str, Any]] = {
    "model.arch": ARCH,
    "model.projector_dim": 128,
    "views.global_size": SIZE,
    "views.local_size": SIZE // 2,
    "views.local_crops": 4,
    "views.blur_side": 224,
    "optim.lr": 12e-3,
    "dino.temperature_warmup_epochs": 0.0,
    "dino.final_teacher_temperature": 0.04,
    "train.precision": "fp32",
    "train.log_every": 10,
    "train.keep_checkpoints": 100,
    "train.checkpoint_minutes": 1e6,
    "train.validate_images": 0,
}
"""Settings of all runs, on top of the small heads of the preset `quick`. The teacher's momentum is `auto`, so that less
than 0.1% of it are initial weights, and regions have the published sides (10 globally, 4 locally)."""
MAIN_METHODS: Final[Mapping[str, Mapping[str, Any]]] = {
    "gtsa": {},
    "dino": {"method": "dino", "dino.pool": "cls"},
    "mocov3": {"method": "mocov3", "mocov3.pool": "cls"},
}
"""Methods that are compared; the baselines train the class token, as published."""
HYPOTHESES: Final[Mapping[str, Mapping[str, Any]]] = {
    "dino mean of patches": {"method": "dino"},
    "mocov3 mean of patches": {"method": "mocov3"},
    "gtsa momentum 0.97": {"optim.teacher_momentum": 0.97},
    "gtsa without correspondence": {"loss.correspondence_weight": 0.0},
    "gtsa a tenth of the matches": {"loss.match_fraction": 0.05},
    "gtsa four times as long": {},
    "gtsa finer grid": {"views.global_size": 256, "views.local_size": 128},
    "gtsa drop path 0": {"model.drop_path": 0.0},
    "gtsa regions 4 and 2": {"loss.roi_size_global": 4, "loss.roi_size_local": 2},
}
"""Controls that could explain the order of the main methods, each with one change."""
ADDITIONS: Final[Mapping[str, Mapping[str, Any]]] = {
    "gtsa variance-covariance": {"loss.variance_weight": 1.0, "loss.covariance_weight": 0.04},
    "gtsa centered targets": {"loss.target_center_momentum": 0.9},
    "gtsa image loss": {"loss.image_weight": 1.0},
}
"""Terms of other methods beside GTSA's losses (docs/training.md names the papers)."""
RATES: Final[Mapping[str, Mapping[str, Any]]] = {
    f"{method} {name}": {**MAIN_METHODS[method], "optim.lr": factor * COMMON["optim.lr"]}
    for name, factor in (("slower", 0.5), ("faster", 2.0))
    for method in MAIN_METHODS
}
"""Settings of the main methods at half and at twice the learning rate."""
ALL: Final = {**MAIN_METHODS, **HYPOTHESES, **ADDITIONS, **RATES}
LONGER: Final = {"gtsa four times as long": 4}
"""Factor of the number of steps, by method."""
RANDOM: Final = "random"
"""Name of the models with random weights."""
REFERENCE: Final = "gtsa"
"""Method that costs and distances refer to."""
STAGED: Final = (*MAIN_METHODS, "gtsa momentum 0.97")
"""Methods whose teacher and student are probed at each checkpoint."""

Run = tuple[str, int]
"""Method and pretraining seed."""


@dataclass(frozen=True)
class Scale:
    """Budget of a study."""

    steps: int
    """Optimizer steps of each run."""
    batch: int
    """Images per step."""
    seeds: int
    """Pretraining seeds of each method."""
    methods: tuple[str, ...]
    """Names of the methods."""
    probes: tuple[str, ...]
    """Names of the probes of the teacher at the end."""
    control_probes: tuple[str, ...] = ("finetuned", "tiles")
    """Those of them for the controls: `HYPOTHESES` and `RATES`."""
    stages: bool = True
    """True probes teacher and student of `STAGED` at each checkpoint, by `tiles`."""
    probe_seeds: int = 3
    """Seeds of each frozen probe."""
    finetune_steps: int = 300
    """Steps of 8 crops when a Semantic FPN is fine-tuned."""

    def probes_of(self, method: str) -> tuple[str, ...]:
        """Return the names of a method's probes."""
        control = method in HYPOTHESES or method in RATES
        return tuple(name for name in self.probes if name in self.control_probes or not control)


PROBES: Final = ("finetuned", "tiles", "tiles k-NN", "places", "places linear", "correspondence", "sensitivity")
"""Probes of the last teacher: the headline first, then those of frozen features."""
SCALES: Final = {
    "quick": Scale(
        40, 16, 1, tuple(MAIN_METHODS), ("finetuned", "tiles"), stages=False, probe_seeds=1, finetune_steps=40
    ),
    "rates": Scale(600, 16, 1, (*MAIN_METHODS, *RATES), ("tiles",), stages=False),
    "main": Scale(600, 16, 2, tuple(MAIN_METHODS), PROBES),
    "full": Scale(600, 16, 2, (*MAIN_METHODS, *ADDITIONS, *HYPOTHESES), PROBES),
}
"""Scales by name. `quick` shows the machinery in 20 minutes of two cores and says nothing about the methods; `full`
goes on in the folder of `main`."""
MEASURES: Final = {
    "finetuned": "CamVid mIoU %, fine-tuned FPN",
    "camvid_tiles": f"CamVid mIoU %, frozen, {SIZE}-pixel tiles",
    "camvid_tiles_knn": "CamVid mIoU %, in context (k-NN of patches)",
    "places_knn": "places k-NN, top-1 %",
    "places_linear": "places linear, top-1 %",
    "crop": "correspondence recall@1 %, crop",
    "crop_rotation": "recall@1 %, crop and rotation",
    "sensitivity_color": "sensitivity to color %",
    "sensitivity_rotation": "sensitivity to rotation %",
    "sensitivity_crop": "sensitivity to crop %",
}
"""Name of each measure in tables and plots, by key; the first is the headline."""
MASKS: Final = ("finetuned", "camvid_tiles", "camvid_tiles_knn")
"""Measures on masks, by which methods are compared."""


def run_config(run: Run, scale: Scale, data: Path, images: int) -> RunConfig:
    """Return the settings of one run.

    Args:
        run: Method and seed.
        scale: Budget.
        data: Folder of the training images.
        images: Number of images in it, which turns steps into epochs.
    """
    method, seed = run
    steps = scale.steps * LONGER.get(method, 1)
    warmup = WARMUP * steps * scale.batch / images
    own = {
        "data": str(data.absolute()),
        "optim.warmup_epochs": warmup,
        "dino.freeze_epochs": warmup,
        "train.batch_size": scale.batch,
        "train.steps": steps,
        "train.checkpoint_every": steps // CHECKPOINTS,
        "train.seed": seed,
    }
    return load_config("quick", None, {**COMMON, **own, **ALL[method]})


def folder_name(run: Run) -> str:
    """Return the folder name of a run."""
    method, seed = run
    return f"{method.replace(' ', '-')}-{seed}"


def list_runs(scale: Scale) -> list[Run]:
    """Return the runs in order of training: all methods with seed 0, then with the next seed."""
    return [(method, seed) for seed in range(scale.seeds) for method in scale.methods]
