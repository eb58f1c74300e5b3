"""Commands of the documentation and of example scripts: as a shell reads them, and as the command line parses them."""

import re
import shlex
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from typer.main import get_command

from gtsa_kit.cli import app
from gtsa_kit.config import load_config, parse_overrides
from gtsa_kit.config.finetune_presets import load_finetune_config

PROMPT = r"^(?:\$ | {4,})(?:srun )?"
"""Pattern of the start of a line of code: a prompt or an indent, and maybe `srun`."""
CONNECTORS = frozenset("| || && ; > &".split())
"""Words that end a command."""


def shell_commands(text: str, program: str = "gtsa") -> list[list[str]]:
    """Return the words of the commands of a page or script; lines that end in a backslash go on.

    Lines of usage, with an optional [WORD], are left out.
    """
    joined = re.sub(r"\s*\\\n\s*", " ", text)
    lines = re.findall(rf"{PROMPT}({program} [^\n]*)$", joined, re.MULTILINE)
    words = (shlex.split(line, comments=True) for line in lines if not re.search(r"\[[A-Z]", line))
    return [list(takewhile(lambda word: word not in CONNECTORS, line)) for line in words]


def code_blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of code in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


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
