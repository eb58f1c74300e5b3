"""Steps of `gtsa export --card`; the modules that write the cards import torch, so they are imported last."""

from pathlib import Path

from gtsa_kit.cli.support.checks import require_module
from gtsa_kit.cli.support.export_result import ExportResult
from gtsa_kit.cli.support.progress import make_console
from gtsa_kit.export.spec import FRAMEWORKS


def check_card(source: Path, format_name: str, out: Path | None, force: bool, dry_run: bool) -> None:
    """Check that a model card and a bill of materials can be written.

    Raises:
        ValueError: A package is missing, nothing is to be written, or a folder has a README.md of its own.
    """
    for module in ("cyclonedx", "huggingface_hub"):
        require_module(module)
    if dry_run:
        raise ValueError("--dry-run writes nothing; omit --card")
    if format_name in FRAMEWORKS:
        card = (out or (source if source.is_dir() else source.parent) / format_name) / "README.md"
        if card.exists() and not force:
            raise ValueError(f"{card} exists; add --force to replace it, or choose another --out")


def write_cards_of(result: ExportResult, source: Path) -> None:
    """Write a model card and a bill of materials beside each artifact of an export, and print their names."""
    from gtsa_kit.export.cards.shipped import Shipped
    from gtsa_kit.export.cards.write import write_cards
    from gtsa_kit.export.manifest import Manifest

    console = make_console()
    for (path, record), entry in zip(result.written, result.artifacts, strict=True):
        shipped = Shipped.of_file(path, record) if isinstance(record, Manifest) else Shipped.of_folder(path, record)
        write_cards(shipped, source)
        entry |= {"card": str(shipped.card_path), "bill_of_materials": str(shipped.bill_path)}
        text = f"{shipped.card_path}  model card; {shipped.bill_path.name} is its bill of materials"
        console.print(text, soft_wrap=True, markup=False)
