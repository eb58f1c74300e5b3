"""Options that several commands share, each defined once: single ones, and groups that `with_option_groups` adds."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from gtsa_kit.cli.support.parsing import parse_color
from gtsa_kit.config import Positions
from gtsa_kit.export.open_options import ImportOptions, LoadOptions

WEIGHTS_PANEL = "Weights (--branch, --embedding: any; the others: of other tools)"
POSITION_WORDS = get_args(Positions)
ONNX_PANEL = "ONNX Runtime (for .onnx files)"

DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
LoggerOption = Annotated[
    str | None,
    typer.Option(
        help="tensorboard, wandb or mlflow (pip install 'gtsa-kit\\[wandb]'), several with commas, or none. Default "
        "tensorboard.",
        metavar="NAMES",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
LayersOption = Annotated[
    str | None, typer.Option(help="Blocks whose feature maps are outputs too, such as 2,5,8,11. Default: none.")
]
ClassTokenOption = Annotated[
    bool, typer.Option("--class-token", help="The class token after the final norm is an output too, class_token.")
]


@dataclass(frozen=True)
class WeightsOptions:
    """Options of commands that open weights."""

    branch: Annotated[
        str | None,
        typer.Option(
            help="teacher or student, for a run or a checkpoint with both. Default: teacher; MoCo v3: student.",
            rich_help_panel=WEIGHTS_PANEL,
        ),
    ] = None
    heads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of attention heads. Default: that of a file beside the weights, else by their width.",
            rich_help_panel=WEIGHTS_PANEL,
        ),
    ] = None
    mean: Annotated[
        str | None,
        typer.Option(
            help="Mean of red, green and blue in training, such as 0.5,0.5,0.5. Default: that of a file beside the "
            "weights, else 0.5 for transformers and ImageNet's for others.",
            rich_help_panel=WEIGHTS_PANEL,
        ),
    ] = None
    std: Annotated[
        str | None,
        typer.Option(
            help="Standard deviation of red, green and blue in training. Default: as for --mean.",
            rich_help_panel=WEIGHTS_PANEL,
        ),
    ] = None
    positions: Annotated[
        str | None,
        typer.Option(
            help="Resampling of position embeddings: antialiased (timm), bicubic (transformers) or offset (DINO, "
            "DINOv2). Default: by the names of the weights.",
            rich_help_panel=WEIGHTS_PANEL,
        ),
    ] = None
    embedding: Annotated[
        str | None,
        typer.Option(
            help="mean (of the patch tokens) or cls (the class token). Default: what the code of the weights' own "
            "family returns, or what the run trained.",
            rich_help_panel=WEIGHTS_PANEL,
        ),
    ] = None

    @property
    def import_options(self) -> ImportOptions:
        """The options as facts about weights.

        Raises:
            ValueError: A value is invalid.
        """
        if self.branch not in (None, "teacher", "student"):
            raise ValueError(f"--branch takes teacher or student, got {self.branch!r}")
        if self.positions not in (None, *POSITION_WORDS):
            raise ValueError(f"--positions takes {', '.join(POSITION_WORDS)}, got {self.positions!r}")
        if self.embedding not in (None, "mean", "cls"):
            raise ValueError(f"--embedding takes mean or cls, got {self.embedding!r}")
        colors = parse_color(self.mean, "--mean"), parse_color(self.std, "--std")
        return ImportOptions(self.branch, self.heads, *colors, self.positions, self.embedding)  # type: ignore[arg-type]


@dataclass(frozen=True)
class RuntimeOptions:
    """Options of commands that run models."""

    device: DeviceOption = "auto"
    provider: Annotated[
        str,
        typer.Option(
            help="auto (cuda if there is a GPU that it can use, else cpu), cpu, cuda, tensorrt or tensorrt-rtx.",
            rich_help_panel=ONNX_PANEL,
        ),
    ] = "auto"
    engine_cache: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the engines of tensorrt and tensorrt-rtx. Default: none; they are built at each start.",
            metavar="DIR",
            rich_help_panel=ONNX_PANEL,
        ),
    ] = None
    fallback: Annotated[
        bool,
        typer.Option(
            "--fallback",
            help="If the provider can't run here, use cuda, else cpu, with a warning. Without it that is an error.",
            rich_help_panel=ONNX_PANEL,
        ),
    ] = False

    def runtime_load_options(self) -> LoadOptions:
        """Return the arguments of `gtsa_kit.export.load`."""
        return LoadOptions(self.device, self.provider, self.engine_cache, self.fallback)


@dataclass(frozen=True)
class ModelOptions(RuntimeOptions, WeightsOptions):
    """Options of commands that open models and run them."""

    def load_options(self, layers: tuple[int, ...] = (), class_token: bool = False) -> LoadOptions:
        """Return the arguments of `gtsa_kit.export.load`.

        Raises:
            ValueError: A value is invalid.
        """
        options = self.runtime_load_options()
        return replace(options, layers=layers, import_options=self.import_options, class_token=class_token)


def with_option_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command in whose signature each parameter of a dataclass type is replaced by that class's fields.

    Typer then reads them as options of the command. The fields are collected in an instance when the command is called.
    """
    signature = inspect.signature(command)
    groups: dict[str, Any] = {
        name: parameter.annotation
        for name, parameter in signature.parameters.items()
        if is_dataclass(parameter.annotation)
    }
    plain = [parameter for name, parameter in signature.parameters.items() if name not in groups]
    options = [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
        for group in groups.values()
        for field in fields(group)
    ]

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        for name, group in groups.items():
            given = {field.name: kwargs.pop(field.name) for field in fields(group) if field.name in kwargs}
            kwargs[name] = group(**given)
        command(*args, **kwargs)

    run.__signature__ = signature.replace(parameters=[*plain, *options])  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*plain, *options)}
    return run
