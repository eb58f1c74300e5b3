"""Options of commands on fine-tuned models, in groups that `options.with_option_groups` adds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

TASK_PANEL = "Fine-tuned models (runs of gtsa finetune)"


@dataclass(frozen=True)
class ScoreOptions:
    """Options of commands that score an artifact on labeled images."""

    score: Annotated[
        Path | None,
        typer.Option(
            help="Labeled images (as for gtsa finetune) on which the file and the float32 model are scored; the file "
            "fails if it loses more than --max-drop. Default: not scored.",
            metavar="DATA",
            rich_help_panel=TASK_PANEL,
        ),
    ] = None
    max_drop: Annotated[
        float,
        typer.Option(
            help="Largest loss of mIoU, top-1 or AP (of masks, if there are any) against the float32 model, in points.",
            min=0.0,
            rich_help_panel=TASK_PANEL,
        ),
    ] = 0.5


@dataclass(frozen=True)
class TaskExportOptions(ScoreOptions):
    """Options of the export of fine-tuned models."""

    output: Annotated[
        str | None,
        typer.Option(
            help="logits, or mask: the class of each pixel as uint8, computed in the graph. Default: logits.",
            rich_help_panel=TASK_PANEL,
        ),
    ] = None
    keep_float: Annotated[
        str | None,
        typer.Option(
            help="Parts that stay float32 in fp16, int8 and fp8: head; in int8 and fp8 also layers, such as "
            "head,blocks.0.mlp.fc1. Default: in int8 and fp8 those that lose most by it.",
            rich_help_panel=TASK_PANEL,
        ),
    ] = None

    part: Annotated[
        str,
        typer.Option(
            help="model, or head: an ONNX file that takes the outputs of an exported encoder, so that several heads "
            "share one. For heads that were trained with --freeze.",
            rich_help_panel=TASK_PANEL,
        ),
    ] = "model"

    head: Annotated[
        list[str] | None,
        typer.Option(
            help="Name and run or file (--part head) of a head for --format triton: the model is then an ensemble of "
            "the encoder and its heads; repeatable. Default: none.",
            metavar="NAME=HEAD",
            rich_help_panel=TASK_PANEL,
        ),
    ] = None

    @property
    def kept_layers(self) -> tuple[str, ...]:
        """Names of --keep-float.

        Raises:
            ValueError: A name is empty.
        """
        names = tuple(name.strip() for name in (self.keep_float or "").split(",")) if self.keep_float else ()
        if not all(names):
            raise ValueError(f"--keep-float takes names such as head,blocks.0.mlp.fc1; got {self.keep_float!r}")
        return names
