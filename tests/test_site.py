"""The documentation site: pages in its menu, pages made from the code, and texts that must still be true."""

import ast
import re
import sys
from functools import cache

import pytest
import yaml
from helpers.paths import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import long_description
import reference_pages

DOCS = ROOT / "docs"
NAMED_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
HEADINGS = re.findall(r"^## (.+)$", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)


@cache
def texts_of_code() -> list[str]:
    """Texts of each f-string or literal of the package; what an f-string computes is NUL."""
    texts = []
    for path in (ROOT / "gtsa_kit").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "\0" for part in node.values]
                texts.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return texts


@pytest.mark.parametrize("error", re.findall(r"`([^`]+)`", " ".join(HEADINGS)))
def test_errors_of_the_page_are_those_of_the_code(error: str) -> None:
    pieces = [piece.strip() for piece in error.split("...") if piece.strip()]
    assert pieces
    expected = re.compile(".*".join(map(re.escape, pieces)), re.DOTALL)
    assert any(expected.search(text) for text in texts_of_code()), f"no error of the package reads {error!r}"


def test_the_page_has_twenty_errors() -> None:
    assert len(HEADINGS) >= 20


def test_each_line_of_the_threat_model_names_a_test_that_exists() -> None:
    page = (DOCS / "security.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("|") and not line.startswith(("|---", "| attempt"))]
    assert len(rows) >= 25
    for row in rows:
        named = NAMED_TEST.search(row)
        assert named, row
        assert re.search(rf"def {named[2]}\(", (ROOT / named[1]).read_text(encoding="utf-8")), row


def menu(entry: object) -> list[str]:
    """Paths in the menu of the site."""
    if isinstance(entry, str):
        return [entry]
    return [path for part in (entry.values() if isinstance(entry, dict) else entry) for path in menu(part)]  # type: ignore[attr-defined]


def test_the_menu_holds_every_page() -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    pages = {path.name for path in DOCS.glob("*.md")} | reference_pages.PAGES.keys()
    outside = {name.lower() for name in reference_pages.OUTSIDE}
    assert sorted(menu(settings["nav"])) == sorted(pages | outside)


def test_every_command_and_option_is_in_the_reference() -> None:
    page = reference_pages.commands()
    for name in ("train", "finetune segment", "export", "embed merge", "predict", "serve", "eval table"):
        assert f"## gtsa {name}\n" in page
    for option in ("--epochs", "--calibrate", "--rows-per-shard", "--max-megapixels", "--no-freeze"):
        assert option in page
    assert "[bold]" not in page


def test_every_setting_is_in_the_reference() -> None:
    from gtsa_kit.config import RunConfig, describe_settings

    page = reference_pages.settings()
    assert all(f"`{setting.key}`" in page for setting in describe_settings(RunConfig()))
    assert "`head." in page


def test_the_manifest_and_the_routes_are_in_the_reference() -> None:
    from gtsa_kit.export.manifest import Manifest

    page = reference_pages.manifest()
    assert all(f"| `{name}` |" in page for name in Manifest.model_fields)
    assert "the report is of this content alone" in page
    routes = reference_pages.http_api()
    assert all(f"`{route}`" in routes for route in ("POST /v1/features", "POST /v1/embeddings", "GET /v1/model"))


def test_links_of_the_long_description_lead_somewhere() -> None:
    page = "![a](docs/a.png) [b](docs/b.md#c) [d](https://example.org/) [e](#f)"
    base = "https://example.org/x"
    described = long_description.with_absolute_links(page, f"{base}/")
    assert described == f"![a]({base}/docs/a.png) [b]({base}/docs/b.md#c) [d](https://example.org/) [e](#f)"
    assert long_description.with_absolute_links(page, "") == " b [d](https://example.org/) [e](#f)"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not re.search(r"\]\((?!https?://|#)", long_description.with_absolute_links(readme, ""))
