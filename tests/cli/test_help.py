"""Help of all commands, and `gtsa config`."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from gtsa_kit.cli import app
from gtsa_kit.config import PRESETS, RunConfig, annotated_yaml, describe_settings, load_config


def leaves(command: Any, name: str = "gtsa") -> Iterator[tuple[str, Any]]:
    """Yield every command by its name."""
    children = getattr(command, "commands", None) or {}
    if not children:
        yield name, command
    for child, inner in children.items():
        yield from leaves(inner, f"{name} {child}")


ROOT = typer.main.get_command(app)
COMMANDS = dict(leaves(ROOT))
GROUPS = {"gtsa": ROOT} | {f"gtsa {name}": group for name, group in ROOT.commands.items() if hasattr(group, "commands")}  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_flags_without_a_type_and_every_default(name: str, gtsa_here: Callable) -> None:
    done = gtsa_here(*name.split()[1:], "--help")
    assert done.returncode == 0, done.stderr
    assert "--help" in done.stdout
    assert "bool" not in done.stdout
    for option in COMMANDS[name].params:
        if option.param_type_name != "option" or option.is_flag or option.required:
            continue
        if option.default in (None, []) and not isinstance(option.show_default, str):
            assert "efault" in option.help, f"{name} {option.opts[0]} does not say what happens without it"
        else:
            assert option.show_default or "efault" in option.help, f"{name} {option.opts[0]} hides its default"


OPENING = [
    name
    for name, command in COMMANDS.items()
    if not name.startswith(("gtsa train", "gtsa finetune"))
    and any(parameter.name == "branch" for parameter in command.params)
]
"""Commands that open models; training begins with weights, and has options of its own."""


@pytest.mark.parametrize("name", [*OPENING, "gtsa eval ablation"])
def test_commands_that_open_a_model_take_the_shared_options_or_say_why_not(name: str) -> None:
    command, parent = COMMANDS[name], GROUPS[name.rpartition(" ")[0]]
    taken = {option for parameter in command.params for option in parameter.opts}
    texts = " ".join(f"{command.help} {parent.help}".split())
    for option in ("--device", "--provider", "--layers", "--size", "--json"):
        assert option in taken or option in texts, f"{name} neither has {option} nor says why"


@pytest.mark.parametrize(
    ("command", "usage"),
    [
        ("", "[OPTIONS] COMMAND [ARGS]..."),
        ("train", "[OPTIONS] [SOURCE]"),
        ("export", "[OPTIONS] SOURCE"),
        ("bench", "[OPTIONS] FILE..."),
        ("embed", "[OPTIONS] FOLDER"),
        ("embed merge", "[OPTIONS] DIR PART..."),
        ("eval", "[OPTIONS] COMMAND [ARGS]..."),
        ("eval pca", "[OPTIONS] [MODEL...]"),
    ],
)
def test_usage_lines_have_the_conventional_notation(command: str, usage: str, gtsa_here: Callable) -> None:
    line = f"Usage: gtsa {command} {usage}".replace("  ", " ")
    assert line in [one.strip() for one in gtsa_here(*command.split(), "--help").stdout.splitlines()]
    wrong = gtsa_here(*command.split(), "--no-such-option")
    assert wrong.returncode == 2
    assert wrong.stderr.splitlines()[0] == line


@pytest.mark.parametrize("name", COMMANDS)
def test_no_usage_line_has_braces_or_types(name: str, gtsa_here: Callable) -> None:
    usage = gtsa_here(*name.split()[1:], "--no-such-option").stderr.splitlines()[0]
    assert usage.startswith(f"Usage: {name.removesuffix(' FOLDER')} [OPTIONS]")
    assert not set("{}<>") & set(usage)


PATHS = [
    (name, parameter.opts[0])
    for name, command in COMMANDS.items()
    for parameter in command.params
    if parameter.param_type_name == "option" and parameter.bare_type() in ("Path", "list[Path]")
]


@pytest.mark.parametrize(("name", "option"), PATHS)
def test_a_path_that_is_an_empty_text_is_refused(
    name: str, option: str, gtsa_here: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = gtsa_here(*name.removesuffix(" FOLDER").split()[1:], option, "")
    assert done.returncode == 2
    assert f"gtsa: {option} is an empty text\n  hint: give a path" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [("verify", ""), ("info", " "), ("bench", "x", ""), ("embed", "merge", "", "x")])
def test_an_argument_that_is_an_empty_text_is_refused(arguments: tuple[str, ...], gtsa_here: Callable) -> None:
    done = gtsa_here(*arguments)
    assert done.returncode == 2
    assert "is an empty text\n  hint: give a path, and for the present folder a dot" in done.stderr


@pytest.mark.parametrize("preset", PRESETS)
def test_config_prints_what_config_accepts(preset: str, gtsa_here: Callable, tmp_path: Path) -> None:
    done = gtsa_here("config", "--preset", preset, "--set", "train.batch_size=24")
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "settings.yaml").write_text(done.stdout)
    assert load_config(file=tmp_path / "settings.yaml") == load_config(preset, None, {"train.batch_size": 24})
    assert "# Images per device and micro-step; an optimizer step uses" in done.stdout
    again = gtsa_here("config", "--config", tmp_path / "settings.yaml")
    assert again.stdout == done.stdout


def test_every_setting_has_a_meaning_and_its_default() -> None:
    config = load_config("quick")
    settings = {setting.key: setting for setting in describe_settings(config)}
    flat = {
        f"{section}.{name}" if isinstance(values, dict) else section
        for section, values in config.model_dump(mode="json").items()
        for name in (values if isinstance(values, dict) else [section])
    }
    assert settings.keys() == flat
    for setting in settings.values():
        assert setting.meaning.endswith("."), setting.key
    defaults = RunConfig().model_dump(mode="json")
    assert settings["views.global_size"].default == defaults["views"]["global_size"] == 224
    assert settings["views.global_size"].value == 96
    assert settings["method"].choices == ("gtsa", "dino", "mocov3")
    text = annotated_yaml(config)
    assert "  # Side of a global view in pixels. Default: 224.\n  global_size: 96\n" in text
    assert max(map(len, text.splitlines())) <= 112
    assert yaml.safe_load(text) == config.model_dump(mode="json")


def test_config_as_json(gtsa_here: Callable) -> None:
    done = gtsa_here("config", "--method", "dino", "--json")
    assert done.returncode == 0, done.stderr
    entries = {entry["key"]: entry for entry in json.loads(done.stdout)}
    assert entries["method"]["value"] == "dino"
    assert entries["views.hflip_p"] | {"meaning": ""} == {
        "key": "views.hflip_p",
        "value": 0.5,
        "default": 0.0,
        "meaning": "",
        "choices": [],
    }
    assert gtsa_here("config", "--preset", "imagenet").returncode == 2
