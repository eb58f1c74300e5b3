"""No import circle between modules or packages, whether an import stands at the top, in a function or for types alone.

import-linter holds the order of layers; this test finds the circles inside of them too.
"""

import ast
from pathlib import Path

from helpers.paths import ROOT

PACKAGE = ROOT / "gtsa_kit"


def module_name(path: Path) -> str:
    """Dotted name of a module file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports() -> dict[str, set[str]]:
    """Modules of gtsa_kit, each with those that it imports anywhere; a package's `__init__` re-exports lazily."""
    files = {module_name(path): path for path in PACKAGE.rglob("*.py")}
    graph: dict[str, set[str]] = {}
    for module, path in files.items():
        names = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                submodules = {f"{node.module}.{alias.name}" for alias in node.names} & files.keys()
                names |= submodules or {node.module}
            elif isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
        graph[module] = (names & files.keys()) - {module, "gtsa_kit"}
    return graph


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Strongly connected components of more than one node, by Kosaraju's algorithm."""
    order: list[str] = []
    seen: set[str] = set()

    def visit(node: str) -> None:
        seen.add(node)
        for other in graph[node]:
            if other not in seen:
                visit(other)
        order.append(node)

    for node in graph:
        if node not in seen:
            visit(node)
    reverse: dict[str, set[str]] = {node: set() for node in graph}
    for node, others in graph.items():
        for other in others:
            reverse[other].add(node)
    components, assigned = [], set()
    for node in reversed(order):
        component, waiting = set(), [node]
        while waiting:
            current = waiting.pop()
            if current not in assigned:
                assigned.add(current)
                component.add(current)
                waiting += reverse[current]
        if len(component) > 1:
            components.append(component)
    return components


def test_the_search_finds_a_circle() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [{"a", "b", "c"}]
    assert not circles({"a": {"b", "c"}, "b": {"c"}, "c": set()})


def test_modules_import_each_other_in_no_circle() -> None:
    assert not circles(imports())


def test_packages_import_each_other_in_no_circle() -> None:
    """Siblings at every level: `export.runtime` and `export.formats` as well as `export` and `models`."""
    graph = imports()
    for package in {module_name(path) for path in PACKAGE.rglob("__init__.py")}:
        depth = package.count(".") + 2
        siblings: dict[str, set[str]] = {}
        for module, others in graph.items():
            inside = {name for name in (module, *others) if name.startswith(package + ".")}
            short = {name: ".".join(name.split(".")[:depth]) for name in inside}
            for name in short.values():
                siblings.setdefault(name, set())
            if module in inside:
                siblings[short[module]] |= {short[name] for name in inside} - {short[module]}
        assert not circles(siblings), package
