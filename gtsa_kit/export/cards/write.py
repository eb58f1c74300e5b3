"""Writing the model card and the bill of materials beside an artifact."""

from pathlib import Path

from gtsa_kit.export.cards.bill import bill_of_materials
from gtsa_kit.export.cards.facts import read_facts
from gtsa_kit.export.cards.model_card import model_card
from gtsa_kit.export.cards.runtimes import minimum_versions
from gtsa_kit.export.cards.shipped import Shipped
from gtsa_kit.export.formats.content import open_manifest
from gtsa_kit.export.spec import SUFFIX
from gtsa_kit.files import write_text


def write_cards(shipped: Shipped, source: Path) -> None:
    """Write the model card and the bill of materials of an artifact.

    Args:
        shipped: The artifact.
        source: Run folder, weights or exported file that it was made from.
    """
    graph = next((shipped.folder / name for name in shipped.files if name.endswith(SUFFIX["onnx"])), None)
    minimum = minimum_versions(graph) if graph else None
    opened = (read_facts(path, shipped.source_sha256) for path in _paths(source))
    facts = next((one for one in opened if one), None)
    write_text(shipped.card_path, model_card(shipped, facts, minimum))
    write_text(shipped.bill_path, bill_of_materials(shipped, minimum))


def _paths(source: Path) -> list[Path]:
    """Return where the run of a source may be: beside it, or for an exported file where its manifest says."""
    if source.suffix not in SUFFIX.values() or source.is_dir():
        return [source]
    try:
        return [source, *open_manifest(source).manifest.source.candidates(source)]
    except ValueError:  # another tool's graph
        return [source]
