"""Classes of commands: flags without a type in the help, conventional usage lines, no path that is an empty text."""

from functools import partial
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup


class _PlainHelp:
    """Mixin of commands whose help shows `--resume` and `FILE...`, where typer shows `--resume <bool>` and `{FILE}`."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters: flags with an empty type, paths that refuse an empty text."""
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            if getattr(parameter, "is_flag", False):
                parameter.metavar = ""
            if parameter.bare_type() in ("Path", "list[Path]"):
                parameter.process_value = partial(_process_path, parameter)
        return parameters

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the parts of the usage line after the name of the command."""
        arguments = [one for one in self.get_params(ctx) if one.param_type_name == "argument"]
        end = [self.subcommand_metavar] if isinstance(self, TyperGroup) else []
        return ["[OPTIONS]", *map(_argument_usage, arguments), *end]


def _process_path(parameter: Any, ctx: Any, value: Any) -> Any:
    """Convert the value of a path, of which an empty text would mean the present folder."""
    texts = value if isinstance(value, list | tuple) else [value]
    if any(isinstance(text, str) and not text.strip() for text in texts):
        is_option = parameter.param_type_name == "option"
        name = parameter.opts[0] if is_option else parameter.metavar or parameter.name.upper()
        raise ValueError(f"{name} is an empty text; give a path, and for the present folder a dot")
    return type(parameter).process_value(parameter, ctx, value)


def _argument_usage(argument: Any) -> str:
    name = (argument.metavar or argument.name.upper()) + ("..." if argument.nargs != 1 else "")
    return name if argument.required else f"[{name}]"


class PlainCommand(_PlainHelp, TyperCommand):
    """Command with plain help."""


class PlainGroup(_PlainHelp, TyperGroup):
    """Group of commands with plain help."""


class _ContextOfGroup(typer.Context):
    """Context of a command that runs under the name of its group."""

    @property
    def command_path(self) -> str:
        """Name of the group, for the usage line and for errors."""
        assert self.parent is not None
        return self.parent.command_path


class DefaultCommand(PlainCommand):
    """Command that its group runs if none is named; users never type its own name."""

    context_class = _ContextOfGroup
