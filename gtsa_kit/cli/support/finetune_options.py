"""Options that the commands of `gtsa finetune` share."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from gtsa_kit.cli.support.options import LoggerOption
from gtsa_kit.cli.support.parsing import number_or_word
from gtsa_kit.export.open_options import ImportOptions

TRAINING = "Training"
DATA = "Data"


@dataclass(frozen=True)
class FinetuneOptions:
    """Options of a fine-tuning run; None leaves a setting to the preset."""

    model: Annotated[
        Path | None,
        typer.Option(
            help="Weights to start from: a run folder, or weights that gtsa export reads (gtsa-kit, timm, Hugging "
            "Face, DINO, MoCo v3, the paper's authors). Default: none; --random is needed.",
            metavar="WEIGHTS",
        ),
    ] = None
    to_patch: Annotated[
        int | None,
        typer.Option(help="Patch size in pixels to convert the weights to first. Default: none.", metavar="PIXELS"),
    ] = None
    random: Annotated[
        str | None,
        typer.Option(
            help="Random weights of an architecture, such as vit_small, to compare with. Default: none.", metavar="ARCH"
        ),
    ] = None
    channels: Annotated[
        str | None,
        typer.Option(
            help="With weights for RGB: rgb, or a number of channels, or auto (that of most images), which are read at "
            "full depth, and the weights are adapted to them. Default: the channels of the weights.",
            metavar="rgb|INT|auto",
        ),
    ] = None
    out: Annotated[Path | None, typer.Option(help="Run folder. Default runs/<name of DATA>-<task>.", metavar="DIR")] = (
        None
    )
    preset: Annotated[
        str | None,
        typer.Option(
            help="auto (by the data and this machine), ade20k-fpn (segment), coco-mask-rcnn (detect) or inat19 "
            "(classify): the paper's. Default auto."
        ),
    ] = None
    config: Annotated[
        Path | None,
        typer.Option(help="YAML file of settings, such as the config.yaml of a run. Default: none.", metavar="FILE"),
    ] = None
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="One setting, such as optim.lr=3e-4; repeatable. Default: none.", metavar="KEY=VALUE"
        ),
    ] = None
    logger: LoggerOption = None
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Resume the run in --out from its last checkpoint; more --steps or --epochs extend it."
        ),
    ] = False
    finish: Annotated[
        bool, typer.Option("--finish", help="Write the result of the run in --out from its last checkpoint, and end.")
    ] = False
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Measure three steps; print classes, steps, images/s, hours, memory and disk space of the run; write "
            "nothing.",
        ),
    ] = False
    freeze: Annotated[
        bool | None,
        typer.Option(
            "--freeze/--no-freeze",
            help="Train the head alone, on features that are computed once. Default: on a CPU.",
            rich_help_panel=TRAINING,
        ),
    ] = None
    views: Annotated[
        int | None,
        typer.Option(
            help="With --freeze: versions of each image, 2 with its mirror image, more with crops. Default 2.",
            rich_help_panel=TRAINING,
        ),
    ] = None
    features: Annotated[
        Path | None,
        typer.Option(
            help="With --freeze: folder that keeps the features for other runs. Default: none are kept.",
            metavar="DIR",
            rich_help_panel=TRAINING,
        ),
    ] = None
    steps: Annotated[
        int | None,
        typer.Option(help="Number of optimizer steps. Default: by the number of images.", rich_help_panel=TRAINING),
    ] = None
    epochs: Annotated[
        float | None,
        typer.Option(help="Passes over the images, in place of --steps. Default: none.", rich_help_panel=TRAINING),
    ] = None
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Images per device and micro-step. Default 16, or 4 for all layers on a CPU; detect: 8, 4 and 2.",
            rich_help_panel=TRAINING,
        ),
    ] = None
    accumulate: Annotated[
        int | None, typer.Option(help="Micro-steps per optimizer step. Default 1.", rich_help_panel=TRAINING)
    ] = None
    size: Annotated[
        int | None,
        typer.Option(
            help="Input in pixels: the short side for segment and detect, the side of the square for classify. "
            "Default: that of the images, at most 512 (detect: 448, or 800 on a GPU), or that of the weights.",
            rich_help_panel=TRAINING,
        ),
    ] = None
    class_weights: Annotated[
        str | None,
        typer.Option(
            help="Weights of rare classes in the loss: none, inverse, sqrt or log. Default none.",
            rich_help_panel=TRAINING,
        ),
    ] = None
    workers: Annotated[
        int | None,
        typer.Option(help="Processes that load images; 0 uses none. Default: by cores.", rich_help_panel=TRAINING),
    ] = None
    precision: Annotated[
        str | None,
        typer.Option(
            help="fp32, bf16, or auto (bf16 if it is faster on this machine). Default auto.", rich_help_panel=TRAINING
        ),
    ] = None
    devices: Annotated[
        int | None,
        typer.Option(
            help="Number of GPUs, or of processes on a CPU. Default: all GPUs, or 1 process.", rich_help_panel=TRAINING
        ),
    ] = None
    seed: Annotated[
        int | None, typer.Option(help="Seed of all random numbers. Default 0.", rich_help_panel=TRAINING)
    ] = None
    val_split: Annotated[
        str | None,
        typer.Option(
            help="Validation images of data without a split: a fraction, and how they are chosen, such as 0.2:order, "
            "0.2:folder, 0.2:prefix, 0.2:random or 0.2:regex=PATTERN. Default: 0.2, whole groups of like names.",
            metavar="SPLIT",
            rich_help_panel=DATA,
        ),
    ] = None
    max_missing: Annotated[
        float | None,
        typer.Option(
            help="Largest share of unusable images or pairs. Default 0.05.", min=0.0, max=1.0, rich_help_panel=DATA
        ),
    ] = None

    def settings(self, facts: ImportOptions) -> dict[str, Any]:
        """Return the given settings by dotted key, without those of the data."""
        from gtsa_kit.cli.support.common import require
        from gtsa_kit.config import parse_overrides
        from gtsa_kit.models.packaged_weights import resolve_weights

        given = [*facts.given, *(["to-patch"] if self.to_patch is not None else [])]
        if self.model is None and given:
            raise ValueError(f"--{given[0]} is a fact about weights to start from; name them with --model")
        named = {
            "model.weights": str(require(resolve_weights(self.model)).absolute()) if self.model else None,
            "model.to_patch": self.to_patch,
            "model.random": self.random,
            "channels.count": number_or_word(self.channels),
            **{f"model.{name}": value for name, value in asdict(facts).items()},
            "augment.size": self.size,
            "data.val_split": self.val_split,
            "data.max_missing": self.max_missing,
            "train.logger": self.logger,
            "train.features": str(self.features.absolute()) if self.features else None,
        }
        names = ("freeze", "views", "steps", "epochs", "batch_size", "accumulate", "class_weights")
        named |= {f"train.{name}": getattr(self, name) for name in (*names, "workers", "precision", "devices", "seed")}
        return parse_overrides(self.set_ or []) | {key: value for key, value in named.items() if value is not None}
