"""Rules of names and sentences: what a docstring begins with, and words that must not come back.

The table of words is the project's vocabulary. A word that ordinary English needs ("place", "found") is checked as a
name alone, a word that is only ever spelled wrongly ("colour") everywhere.
"""

import ast
import itertools
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.paths import ROOT

from gtsa_kit.cycles import no_cycle_search

FRAGMENTS = frozenset(
    "What Of As By How Whoever Whose Who Where Whether That Which Likewise Out For From To With Without If Told "
    "None Because So Than When Until".split()
)
"""First words of a docstring that names no subject."""

RETIRED = re.compile(
    r"photograph|quarter[ _]turn|colour|\bgr[e]y|\bcent[r]e|normali[s]e|neighbou[r]|\bfavou?r|flavou[r]"
    r"|(?<!aria-)labell[e]d|optimi[s]e|quanti[s]e|seriali[s]e|behaviou[r]|whoeve[r]|\bconfes[s]|tell_nobod[y]"
    r"|BrokenImag[e]|(?-i:\bMOST_[A-Z])|(?-i:\bLONGEST\b)|way out\b|let_g[o]\b|\batlas\b",
    re.IGNORECASE,
)
"""Words that nothing may use."""

RETIRED_NAMES = frozenset(
    # everywhere
    "place places spot cell cells turn turns turned found said told shown asked form usual sound wanted tell way_out "
    "flavour left_out remedy "
    # geometry, losses, data
    "turn_boxes turn_maps carry_points within align_regions constant_loss turn_accuracy _widen _lengths matched "
    "global_region local_region draws Draws draw Colours render Presentations Share Found broken_among windowed_map "
    # training
    "Watcher checking starting stepped Outcome panels signals settle_precision differing launched FREE_ON_RESUME "
    "bf16_pays compiling_pays clip_each spell_attention recompute quarter_turns flip_p grey_p "
    # export
    "Taken Hints prove OFFERED check_offer Wanted Order Asked Usual smallest largest skills SplittingRunner "
    "readback left_to_others Unbuildable Verdict Finding Turns Begun meet "
    # embedding, evaluation
    "sheet Ready take_up shelf Groups SizeRule Tell telling Looks looks Bank mean_row spread patches_apart "
    # service
    "Labelled Masked Refusal refuse Pending Outer Exchange guard known bodies answers wire near PatientProtocol "
    "Ask".split()
)
"""Names of functions, classes, variables, arguments and attributes that have another name now."""

PYTHON = sorted(
    path for folder in ("gtsa_kit", "tests", "benchmarks", "examples") for path in (ROOT / folder).rglob("*.py")
)
TEXT = frozenset(".py .md .js .css .html .toml .yml .yaml .cpp .mjs .cff".split())


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of every docstring, those below attributes included."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        for before, statement in zip([None, *body], body, strict=False):
            text = getattr(getattr(statement, "value", None), "value", None)
            if isinstance(statement, ast.Expr) and isinstance(text, str):
                first = before is None and documented
                if first or isinstance(before, ast.Assign | ast.AnnAssign):
                    yield statement.lineno, text


def names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and name of everything that a module defines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id if isinstance(node, ast.Name) else node.attr


@pytest.fixture(scope="module")
def modules() -> dict[str, ast.Module]:
    """Parsed modules by path; one test for each would take longer to report than to run."""
    with no_cycle_search():  # among a million nodes it takes longer than to parse them
        return {str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8")) for path in PYTHON}


def test_docstrings_name_their_subject(modules: dict[str, ast.Module]) -> None:
    wrong = [
        f"{path}:{line}: {first}"
        for path, tree in modules.items()
        for line, text in docstrings(tree)
        if (first := text.strip().split("\n")[0]).split(" ")[0].strip(",;:.") in FRAGMENTS or first.startswith("(")
    ]
    assert not wrong, "\n".join(wrong)


def test_retired_names_stay_retired(modules: dict[str, ast.Module]) -> None:
    wrong = [
        f"{path}:{line}: {name}"
        for path, tree in modules.items()
        for line, name in names(tree)
        if name in RETIRED_NAMES
    ]
    assert not wrong, "\n".join(wrong)


def tracked() -> list[Path]:
    """Return the text files of the repository, this one aside."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [ROOT / name for name in listed.split("\0") if name]
    return [path for path in paths if path.suffix in TEXT and path.is_file() and path != Path(__file__)]


def test_retired_words_stay_retired() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}"
        for path in tracked()
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1)
        if RETIRED.search(line)
    ]
    assert not wrong, f"{len(wrong)} lines\n" + "\n".join(wrong)


COMMAND = re.compile(r"(gtsa (embed|export|info|predict|serve|verify)|--out|--model-repository)[ =]$")
"""End of a text behind which a path is a word of a command."""


def test_paths_in_commands_are_shell_words(modules: dict[str, ast.Module]) -> None:
    for path, tree in modules.items():
        if Path(path).parts[0] != "gtsa_kit":
            continue
        texts = [node.values for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
        for before, value in (pair for values in texts for pair in itertools.pairwise(values)):
            if isinstance(before, ast.Constant) and COMMAND.search(str(before.value)):
                assert "shell_word(" in ast.unparse(value), f"{path}:{value.lineno}: use files.shell_word"
