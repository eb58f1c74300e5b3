"""What an evaluation found: rows of a table, the same in JSON, on the terminal and in plots."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gtsa_kit import __version__
from gtsa_kit.files import write_json

KEYS = ("model", "seed")


@dataclass(frozen=True)
class Report:
    """One evaluation of several models, perhaps under several seeds."""

    name: str
    """As the command calls it."""
    title: str
    measures: Mapping[str, str]
    """Key of a row to the heading that people read, in the order of the table; units belong in the heading."""
    rows: Sequence[Mapping[str, Any]]
    """One for each model and seed: `model`, `seed`, the measures, and what else is worth keeping."""
    settings: Mapping[str, Any]
    """What the numbers depend on."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "evaluation": self.name,
            "gtsa_kit": __version__,
            "settings": dict(self.settings),
            "rows": [dict(row) for row in self.rows],
            "summary": self.summary(),
        }

    def write(self, folder: Path) -> Path:
        """Write `<name>.json` into a folder, which is made."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.json"
        write_json(path, self.to_dict())
        return path

    def summary(self) -> list[dict[str, Any]]:
        """A row for each model in order of appearance: mean of each measure over seeds, and its deviation as `*_std`.

        The deviation is the sample's (n - 1), None for one seed; a measure that is missing (None) stays so.
        """
        found = []
        for model in dict.fromkeys(row["model"] for row in self.rows):
            rows = [row for row in self.rows if row["model"] == model]
            line: dict[str, Any] = {"model": model, "seeds": len(rows)}
            for key in self.measures:
                values = [row[key] for row in rows if row.get(key) is not None]
                line[key] = statistics.fmean(values) if values else None
                line[f"{key}_std"] = statistics.stdev(values) if len(values) > 1 else None
            found.append(line)
        return found
