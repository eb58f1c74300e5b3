"""Reports as bar charts."""

from pathlib import Path

import numpy as np

from gtsa_kit.evaluation.figures import save
from gtsa_kit.evaluation.report import Report


def bar_chart(report: Report, key: str, out: Path) -> None:
    """A bar for each model: the mean over seeds, a dot for each seed, and the 95% interval of one run.

    Args:
        report: Rows hold `key`, and `<key>_low` and `<key>_high` where there is an interval.
        key: A measure.
        out: PNG.
    """
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row["model"] for row in report.rows))
    figure = Figure(figsize=(7.0, 1.1 + 0.45 * len(names)), layout="constrained")
    axis = figure.subplots()
    for place, name in enumerate(names):
        rows = [row for row in report.rows if row["model"] == name and row.get(key) is not None]
        if not rows:
            continue
        values = np.array([row[key] for row in rows])
        axis.barh(place, values.mean(), height=0.6, color="#7aa6c2")
        ends = [(row[f"{key}_low"], row[f"{key}_high"]) for row in rows if row.get(f"{key}_low") is not None]
        if ends:
            low, high = np.mean(ends, axis=0)
            axis.errorbar((low + high) / 2, place, xerr=(high - low) / 2, color="black", capsize=4, linestyle="none")
        if len(values) > 1:
            axis.plot(values, np.full(len(values), place), "o", color="#20425a", markersize=3)
        axis.annotate(f"{values.mean():.1f}", (0, place), (4, 0), textcoords="offset points", va="center", fontsize=9)
    axis.set_yticks(range(len(names)), names, fontsize=9)
    axis.invert_yaxis()
    axis.set_xlim(left=0)
    axis.set_xlabel(f"{report.measures[key]}; line: 95% interval of one run; dots: seeds", fontsize=9)
    axis.set_title(report.title, fontsize=10)
    save(figure, out)
