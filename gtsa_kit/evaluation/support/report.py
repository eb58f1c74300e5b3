"""Report of an evaluation: the rows of a table, for JSON, the terminal and plots."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gtsa_kit.files import write_json
from gtsa_kit.version import __version__

CHANCE = "(chance)"
"""Name of the line of a summary that holds the results of guessing."""


@dataclass(frozen=True)
class Report:
    """Results of one evaluation of several models under one or more seeds."""

    name: str
    """Name of the evaluation's command."""
    title: str
    """Title of tables and plots."""
    measures: Mapping[str, str]
    """Column key to heading with unit, in the order of the table."""
    rows: Sequence[Mapping[str, Any]]
    """One row for each model and seed: `model`, `seed`, the measures, and further columns for the JSON."""
    settings: Mapping[str, Any]
    """Everything that the numbers depend on."""
    chance: Mapping[str, float] = field(default_factory=dict)
    """Results of guessing without a model, by key of the measures; the last line of the summary."""
    notes: Sequence[str] = ()
    """Sentences on what the numbers do not cover."""

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-serializable data."""
        return {
            "evaluation": self.name,
            "gtsa_kit": __version__,
            "settings": dict(self.settings),
            "rows": [dict(row) for row in self.rows],
            "summary": self.summary(),
            "notes": list(self.notes),
        }

    def write(self, folder: Path) -> Path:
        """Write `<name>.json` into a folder, which is created if needed, and return its path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.json"
        write_json(path, self.to_dict())
        return path

    def summary(self) -> list[dict[str, Any]]:
        """Return a row for each model in order of appearance: each measure's mean over seeds, and `<key>_std`.

        The standard deviation is the sample's (n - 1), and None for one seed. A measure without values is None. The
        last row holds the results of guessing, if they are known.
        """
        summary = []
        for model in dict.fromkeys(row["model"] for row in self.rows):
            rows = [row for row in self.rows if row["model"] == model]
            line: dict[str, Any] = {"model": model, "seeds": len(rows)}
            for key in self.measures:
                values = [row[key] for row in rows if row.get(key) is not None]
                line[key] = statistics.fmean(values) if values else None
                line[f"{key}_std"] = statistics.stdev(values) if len(values) > 1 else None
            summary.append(line)
        if self.chance:
            line = {"model": CHANCE, "seeds": 0}
            for key in self.measures:
                line |= {key: self.chance.get(key), f"{key}_std": None}
            summary.append(line)
        return summary


def enumerate_names(names: Sequence[str]) -> str:
    """Return names separated by commas; of more than five, the first five and the number of the others."""
    rest = len(names) - 5
    return ", ".join(names[:5]) + (f" and {rest} more" if rest > 0 else "")
