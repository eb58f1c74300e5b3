"""The documentation against the code: links resolve, files exist, and the diagram of packages is the real one."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.page_commands import parse, shell_commands
from helpers.paths import ROOT

PACKAGE = ROOT / "gtsa_kit"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])


def imported_packages(package: Path) -> Iterator[tuple[str, str]]:
    """Pairs (package, imported package) of all imports between packages of gtsa_kit, also inside functions."""
    for module in package.rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for name in names:
                parts = name.split(".")
                ours = parts[0] == "gtsa_kit" and len(parts) > 1 and (PACKAGE / parts[1]).is_dir()
                if ours and parts[1] != package.name:
                    yield package.name, parts[1]


def reachable(edges: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The transitive closure of a relation."""
    closure = set(edges)
    while more := {(a, d) for a, b in closure for c, d in closure if b == c} - closure:
        closure |= more
    return closure


def test_the_diagram_shows_the_real_packages() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    diagram = re.search(r"```mermaid\n(.*?)```", page, re.DOTALL)
    assert diagram
    drawn = set(re.findall(r"^\s*(\w+) --> (\w+)$", diagram[1], re.MULTILINE))
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    real = {pair for name in packages for pair in imported_packages(PACKAGE / name)}
    assert {name for pair in drawn for name in pair} == packages
    assert drawn <= real, f"drawn and not imported: {sorted(drawn - real)}"
    assert real <= reachable(drawn), f"imported and not drawn: {sorted(real - reachable(drawn))}"
    assert not {(b, a) for a, b in reachable(drawn)} & reachable(drawn), "packages import each other in a circle"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_paths_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    missing = [
        target
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
        if "://" not in target and not (page.parent / target).exists()
    ]
    missing += [
        path
        for path in re.findall(
            r"\b(?:gtsa_kit|tests|benchmarks|docs|examples)/[\w./-]*\w\.(?:py|md|toml|png|json)\b", text
        )
        if "NAME" not in path and not (ROOT / path).exists()
    ]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_names_in_python_snippets_exist(page: Path) -> None:
    """Every `from gtsa_kit... import name` and `gtsa_kit.name` of a page can be imported."""
    import importlib

    text = page.read_text(encoding="utf-8")
    for module, names in re.findall(r"from (gtsa_kit[\w.]*) import ([\w, ]+)", text):
        opened = importlib.import_module(module)
        for name in names.split(","):
            assert hasattr(opened, name.strip()), f"{module}.{name.strip()}"


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if shell_commands(page.read_text(encoding="utf-8"))],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_commands_of_a_page_are_valid(page: Path) -> None:
    """The command line takes every `gtsa` command as it stands: its options, their values and settings."""
    for words in shell_commands(page.read_text(encoding="utf-8")):
        parse(words)
