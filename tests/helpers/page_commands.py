"""Commands of the documentation and of example scripts: as a shell reads them, and as the command line parses them."""

import re
import shlex
from collections.abc import Sequence
from typing import Any

from typer.main import get_command

from gtsa_kit.cli import app
from gtsa_kit.config import load_config, parse_overrides
from gtsa_kit.config.finetune_presets import load_finetune_config

COMMAND = re.compile(r"^(?:\$ | {4,}|srun )(?:srun )?(gtsa [^\n]*)$", re.MULTILINE)
"""A command in a block of code or a script, behind a prompt, an indent or `srun`."""


def shell_commands(text: str) -> list[list[str]]:
    """Return the words of the `gtsa` commands of a page or script; lines that end in a backslash go on.

    Lines of usage, with an optional [WORD], are left out.
    """
    joined = re.sub(r"\s*\\\n\s*", " ", text)
    lines = [line for line in COMMAND.findall(joined) if not re.search(r"\[[A-Z]", line)]
    return [shlex.split(line, comments=True) for line in lines]


def parse(words: Sequence[str]) -> dict[str, Any]:
    """Parse a command as the command line does, without running it; its settings must be valid.

    Returns:
        Values of the arguments and options of the command, by name.
    """
    command, name, rest, context = get_command(app), words[0], list(words[1:]), None
    while True:
        context = command.make_context(name, rest, parent=context)
        if not hasattr(command, "resolve_command"):
            break
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
    values: dict[str, Any] = context.params
    if words[1] == "train":
        load_config(values["preset"] or "coco", None, parse_overrides(values["set_"] or []))
    if words[1] == "finetune":
        load_finetune_config(words[2], values["preset"], None, parse_overrides(values["set_"] or []))
    return values
