"""Command `gtsa config`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from gtsa_kit.cli.support.options import JsonOption


def config(
    preset: Annotated[str, typer.Option(help="coco (the paper's), ade20k, quick or adapt.")] = "coco",
    method: Annotated[
        str | None, typer.Option(help="gtsa, dino or mocov3. Default: that of --config, else gtsa.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="YAML file of settings, such as config.yaml of a run folder. Default: none.", metavar="FILE"),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="One setting; repeatable. Default: none.", metavar="KEY=VALUE"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print every setting of a run with its value, default and meaning, as YAML that --config accepts.

    [bold]Examples[/bold]

      gtsa config

      gtsa config --preset quick > settings.yaml; gtsa train photos/ --config settings.yaml

      gtsa config --config runs/street/config.yaml --json
    """
    from gtsa_kit.config import annotated_yaml, describe_settings, load_config, parse_overrides

    overrides = parse_overrides(set_ or []) | ({"method": method} if method else {})
    settings = load_config(preset, config, overrides)
    if as_json:
        print(json.dumps([asdict(setting) for setting in describe_settings(settings)], indent=2))
    else:
        print(annotated_yaml(settings), end="")
