"""Options of `gtsa train`."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from gtsa_kit.cli.support.common import require
from gtsa_kit.cli.support.options import LoggerOption
from gtsa_kit.cli.support.parsing import number_or_word
from gtsa_kit.export.open_options import ImportOptions

SAME_NAME = ("epochs", "steps", "accumulate", "workers", "augment_on", "precision", "devices", "seed", "logger")
"""Options that are the settings of their name in the section `train`."""


@dataclass(frozen=True)
class TrainOptions:
    """Options of a pretraining run; None leaves a setting to the preset."""

    init: Annotated[
        Path | None,
        typer.Option(
            help="Weights to start from: a run folder, or weights that gtsa export reads (gtsa-kit, timm, Hugging "
            "Face, DINO, MoCo v3, the paper's authors). Default: random weights.",
            metavar="WEIGHTS",
        ),
    ] = None
    to_patch: Annotated[
        int | None,
        typer.Option(help="Side of the patches, in pixels, to convert those weights to, such as 16. Default: theirs."),
    ] = None
    preset: Annotated[
        str | None,
        typer.Option(
            help="coco (the paper's), ade20k, quick (minutes on a CPU, to test the setup), or adapt (low rates, with "
            "--init). Default coco."
        ),
    ] = None
    method: Annotated[
        str | None,
        typer.Option(
            help="gtsa, or a baseline to compare it with: dino or mocov3 "
            "(pip install 'gtsa-kit\\[baselines]'). Default gtsa."
        ),
    ] = None
    config: Annotated[
        Path | None, typer.Option(help="YAML file of settings, as gtsa config prints. Default: none.", metavar="FILE")
    ] = None
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="One setting, such as loss.rotation_weight=0.25; repeatable; gtsa config lists them. Default: none.",
            metavar="KEY=VALUE",
        ),
    ] = None
    channels: Annotated[
        str | None,
        typer.Option(
            help="Channels of the images: rgb (8-bit), a number, or auto (that of most images); with a number or auto "
            "all channels are read at full depth (16-bit, float, TIFF, .npy, DICOM). Default rgb.",
            metavar="rgb|INT|auto",
        ),
    ] = None
    epochs: Annotated[float | None, typer.Option(help="Passes over the images. Default 100; quick: 10.")] = None
    steps: Annotated[
        int | None, typer.Option(help="Number of optimizer steps; overrides --epochs. Default: by --epochs.")
    ] = None
    batch_size: Annotated[
        str | None,
        typer.Option(
            help="Images per device and micro-step, or auto: what fits into memory. Default 512; quick: 16.",
            metavar="INT|auto",
        ),
    ] = None
    accumulate: Annotated[
        int | None, typer.Option(help="Micro-steps per optimizer step; their gradients are averaged. Default 1.")
    ] = None
    workers: Annotated[
        int | None, typer.Option(help="Processes that load images and make views; 0 uses none. Default: by cores.")
    ] = None
    augment_on: Annotated[
        str | None,
        typer.Option(help="Where views are made: cpu (by the workers) or device (the GPU). Default cpu."),
    ] = None
    precision: Annotated[
        str | None, typer.Option(help="fp32, bf16, or auto (bf16 if it is faster on this machine). Default auto.")
    ] = None
    devices: Annotated[
        int | None, typer.Option(help="Number of GPUs, or of processes on a CPU. Default: all GPUs, or 1 process.")
    ] = None
    seed: Annotated[int | None, typer.Option(help="Seed of all random numbers. Default 0.")] = None
    probe: Annotated[
        Path | None,
        typer.Option(
            help="Labeled images (class folders, or a CSV) for a k-NN accuracy at every checkpoint. Default: none.",
            metavar="FOLDER",
        ),
    ] = None
    logger: LoggerOption = None
    out: Annotated[Path | None, typer.Option(help="Run folder. Default runs/<name of SOURCE>.", metavar="DIR")] = None
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Resume the run in --out from its last checkpoint; more --steps extend it."),
    ] = False
    finish: Annotated[
        bool,
        typer.Option(
            "--finish", help="Write encoder.safetensors from the last checkpoint of the run in --out, and end."
        ),
    ] = False
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Measure three steps; print steps, images/s, hours, memory and disk space of the run; write nothing.",
        ),
    ] = False

    def settings(self, facts: ImportOptions) -> dict[str, Any]:
        """Return the given settings by dotted key, without the source of the images.

        Raises:
            ValueError: A value is invalid, or a file does not exist.
        """
        from gtsa_kit.config import parse_overrides

        named: Mapping[str, Any] = {
            **{f"train.{name}": getattr(self, name) for name in SAME_NAME},
            "channels.count": number_or_word(self.channels),
            "train.batch_size": _number_or_auto(self.batch_size),
            "train.probe": str(require(self.probe).absolute()) if self.probe else None,
            "method": self.method,
            **self._initial_weights(facts),
        }
        return parse_overrides(self.set_ or []) | {key: value for key, value in named.items() if value is not None}

    def _initial_weights(self, facts: ImportOptions) -> dict[str, Any]:
        """Return the settings of the weights to start from; raise `ValueError` for facts about weights without any."""
        from gtsa_kit.models.packaged_weights import resolve_weights

        given = [*facts.given, *(["to-patch"] if self.to_patch is not None else [])]
        if self.init is None and given:
            raise ValueError(f"--{given[0]} is about weights to start from; name them with --init")
        return {
            "init.weights": str(require(resolve_weights(self.init)).absolute()) if self.init else None,
            "init.to_patch": self.to_patch,
            **{f"init.{name}": value for name, value in asdict(facts).items()},
        }


def _number_or_auto(batch_size: str | None) -> int | str | None:
    """Return the value of --batch-size; whether it is in range is checked with the other settings."""
    if batch_size is None or batch_size == "auto":
        return batch_size
    if not batch_size.isdecimal():
        raise ValueError(f"--batch-size takes a number of images or auto, got {batch_size!r}")
    return int(batch_size)
