"""report.html of a run: one file with all pictures inside, which needs no network and no script."""

import base64
import io
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from gtsa_kit.config import RunConfig
from gtsa_kit.figures import BASELINE, PALETTE, figure_style
from gtsa_kit.files import write_text

MAX_STRIPS = 24
"""Largest number of checkpoints in the report, spread evenly over those that were recorded."""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em; }}
img {{ max-width: 100%; }}
td, th {{ padding: 0 .8em 0 0; text-align: left; vertical-align: middle; font-weight: normal; }}
.strip img {{ image-rendering: pixelated; display: block; width: 100%; }}
.names {{ color: #555; font-size: 12px; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{summary}</p>
<p><strong>{sentence}</strong></p>
{sections}
</body>
</html>
"""


def write_report(
    run_dir: Path,
    config: RunConfig,
    names: Sequence[str],
    sentence: str,
    rows: Sequence[Mapping[str, Any]],
    probe_rows: Sequence[Mapping[str, Any]],
) -> None:
    """Write report.html into a run folder.

    Args:
        run_dir: Run folder with curves.png, and monitor/ with a strip of pictures for each checkpoint.
        config: Settings of the run.
        names: Names of the fixed images.
        sentence: What the run has learned so far.
        rows: Rows of metrics.jsonl.
        probe_rows: Recorded k-NN accuracies, with `step`, `knn_accuracy` and `chance`.
    """
    step = f"step {rows[-1]['step']}, epoch {rows[-1]['epoch']:.1f}" if rows else "not started"
    sections = [_curves(run_dir / "curves.png"), _strips(run_dir / "monitor", names)]
    sections += [_probe(probe_rows)] if probe_rows else []
    page = _PAGE.format(
        title=escape(run_dir.name),
        summary=escape(f"{config.method}, {config.encoder}, images of {_short_source(config.data)}; {step}"),
        sentence=escape(sentence),
        sections="\n".join(section for section in sections if section),
    )
    write_text(run_dir / "report.html", page)


def _curves(file: Path) -> str:
    """Return the section of the curves."""
    if not file.exists():
        return ""
    text = "A loss says something only where it is below its constant baseline: the loss of a student whose output is "
    text += "the same for all images."
    return f"<h2>Curves</h2>\n<p>{text}</p>\n{_image(file.read_bytes(), 'curves')}"


def _strips(folder: Path, names: Sequence[str]) -> str:
    """Return the section of the feature colors, one row for each checkpoint."""
    strips = sorted(folder.glob("step_*.png"))
    if not strips or not (folder / "images.png").exists():
        return ""
    count = min(len(strips), MAX_STRIPS)
    selected = [strips[round(index * (len(strips) - 1) / max(count - 1, 1))] for index in range(count)]
    rows = [("images", folder / "images.png")]
    rows += [(f"step {int(strip.stem.removeprefix('step_'))}", strip) for strip in selected]
    table = "".join(
        f'<tr><th>{label}</th><td class="strip">{_image(file.read_bytes(), label)}</td></tr>\n' for label, file in rows
    )
    text = (
        "Three principal components of the teacher's patch tokens as colors. Each row has the colors that are nearest "
    )
    text += "to those of the row above. Step 0 is the weights that the run started from."
    files = escape(", ".join(_short_names(names)))
    return f'<h2>Features</h2>\n<p>{text}</p>\n<table>{table}</table>\n<p class="names">{files}</p>'


def _short_source(source: str) -> str:
    """Return the name of a source of images; a report is shown to others, who need no folders of this machine."""
    return source if "://" in source else Path(source).name


def _short_names(names: Sequence[str]) -> list[str]:
    """Return names of images, absolute ones (of a list, for instance) relative to the folder that they share."""
    absolute = [name for name in names if os.path.isabs(name)]
    shared = os.path.commonpath([os.path.dirname(name) for name in absolute]) if absolute else ""
    return [os.path.relpath(name, shared) if os.path.isabs(name) else name for name in names]


def _probe(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the section of the k-NN accuracy."""
    last = rows[-1]
    text = (
        f"{100 * last['knn_accuracy']:.1f}% after step {last['step']}, {100 * rows[0]['knn_accuracy']:.1f}% after step "
    )
    text += f"{rows[0]['step']}; always the most frequent class: {100 * last['chance']:.1f}%."
    return f"<h2>k-NN accuracy</h2>\n<p>{text}</p>\n{_image(_probe_plot(rows), 'k-NN accuracy over steps')}"


def _probe_plot(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Return a PNG of the accuracy over steps."""
    from matplotlib.figure import Figure

    buffer = io.BytesIO()
    with figure_style():
        figure = Figure(figsize=(6, 2.6), layout="constrained")
        axis = figure.add_subplot()
        steps = [row["step"] for row in rows]
        axis.plot(steps, [100 * row["knn_accuracy"] for row in rows], "o-", color=PALETTE[0], label="k-NN accuracy")
        axis.axhline(100 * rows[-1]["chance"], color=BASELINE, linestyle="--", label="most frequent class")
        axis.set(xlabel="step", ylabel="%", ylim=(0, 100))
        axis.legend()
        figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def _image(content: bytes, alt: str) -> str:
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{base64.b64encode(content).decode()}">'
