"""Text of others, such as paths, is printed as it is: never as markup of rich, never as an emoji."""

import ast
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.paths import ROOT
from rich.console import Console
from rich.table import Table

from gtsa_kit.cli.support import progress
from gtsa_kit.cli.support.progress import Steps, make_console, make_result_console, progress_bar

NAMES = ["a[/b]", "runs/try[big]", "[red]x[/red]", "[link=y]", ":dog:.jpg", "a\\[b]"]


RICH = {"Console", "from_markup", "TextColumn", "secho", "echo"}
"""Functions that print text or read markup."""


def test_consoles_are_made_in_one_module_alone() -> None:
    """`make_console` and `make_result_console` print plain text; any other console would read markup."""
    for path in (ROOT / "gtsa_kit").rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        modules = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
        assert not modules & {"rich", "rich.markup"}, path
        names = [ast.unparse(node.func).split(".")[-1] for node in nodes if isinstance(node, ast.Call)]
        expected = {"Console", "TextColumn"} if path.parts[-2:] == ("support", "progress.py") else set()
        assert set(names) & RICH == expected, path


@pytest.mark.parametrize("make", [make_console, make_result_console])
@pytest.mark.parametrize("name", NAMES)
def test_consoles_print_names_as_they_are(
    make: Callable[[], Console], name: str, capsys: pytest.CaptureFixture
) -> None:
    console = make()
    table = Table(name, title=name, caption=name)
    table.add_column(name)
    table.add_row(name, f"x {name}")
    console.print(f"wrote {name}", soft_wrap=True)
    console.print(table)
    printed = "".join(capsys.readouterr())
    assert f"wrote {name}\n" in printed
    assert printed.count(name) == 7


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("terminal", [True, False])
def test_progress_prints_names_as_they_are(name: str, terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    made = make_console()
    console = Console(file=out, force_terminal=terminal, width=200, markup=made._markup, emoji=made._emoji)
    with Steps(console) as steps:
        steps.begin(f"reading {name}", 2)
        steps.update(1, f"at {name}")
        steps.update(2, f"at {name}", f"line {name}")
    assert f"reading {name}" in out.getvalue()
    assert (f"at {name}" if terminal else f"line {name}") in out.getvalue()
    out.truncate(0)
    monkeypatch.setattr(progress, "make_console", lambda: console)
    with progress_bar() as on_progress:
        on_progress(name, 1, 1)
    assert name in out.getvalue()


def test_commands_print_names_as_they_are(
    gtsa_here: Callable, tiny_run: Path, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a[" / "b] [red]"  # the path holds `a[/b]`, which rich refuses
    folder.mkdir(parents=True)
    (folder / "run").symlink_to(tiny_run)
    (folder / "photos").symlink_to(few)
    run, photos, out = folder / "run", folder / "photos", folder / "out"
    commands = (
        (("info", run / "encoder.safetensors"), str(run)),
        (("embed", photos, "--model", run, "--out", out / "vectors", "--size", 32), str(out)),
        (("embed", "search", out / "vectors", "--image", next(few.iterdir())), str(out)),
        (("embed", "duplicates", out / "vectors"), ""),
        (("embed", "map", out / "vectors"), str(out)),
        (("embed", "merge", out / "merged", out / "vectors"), str(out)),
        (("eval", "pca", run, "--images", photos, "--out", out, "--size", 32, "--count", 1), str(out)),
        (("eval", "neighbors", run, "--images", photos, "--out", out, "--size", 32, "--count", 1), str(out)),
    )
    for command, path in commands:
        done = gtsa_here(*command)
        assert done.returncode == 0, (command, done.stderr)
        assert path in (done.stdout + done.stderr).replace("\n", ""), command
    for command in (("info", folder / "gone"), ("embed", folder / "gone", "--model", run, "--out", out / "x")):
        done = gtsa_here(*command)
        assert done.returncode == 2
        assert f"{folder / 'gone'}" in done.stderr
    assert gtsa_here("[/b]").returncode == gtsa_here("info", "x", "--[/b]").returncode == 2
