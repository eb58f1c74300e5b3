"""Help of commands: flags without a type."""

from typing import Any

from typer.core import TyperCommand, TyperGroup


class _PlainFlags:
    """Mixin of commands whose help shows `--resume`, where typer shows `--resume <bool>`."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, flags with an empty type."""
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            if getattr(parameter, "is_flag", False):
                parameter.metavar = ""
        return parameters


class PlainCommand(_PlainFlags, TyperCommand):
    """Command with plain flags."""


class PlainGroup(_PlainFlags, TyperGroup):
    """Group of commands with plain flags."""
