"""Style, colors and files of all figures.

A figure is drawn inside `with figure_style():` and written by `save_figure`. Matplotlib is imported only there, so
that the palette costs nothing.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gtsa_kit.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
"""Colors of series, in order: those of Okabe and Ito without black and yellow. They differ for color-blind readers too.
Blue means right, orange wrong; red against green is never used."""
RIGHT, WRONG = PALETTE[0], PALETTE[1]
"""Colors of right and wrong results. Give the wrong ones another line style or marker too, for prints in gray."""
RANDOM = "#c4c4c4"
"""Color of models with random weights."""
SOFTWARE = "gtsa-kit"
"""Value of `Software` in PNG figures, by which a listing of images leaves them out."""
EVALUATION_FIGURES = (
    *("pca", "attention", "matches", "neighbors", "knn", "linear", "segment", "segment-classes", "segment-images"),
    "detect",
    *("sensitivity", "correspondence", "rotation", "ablation", "curves", "table"),
)
"""Names of the figures that `gtsa eval` writes, without suffix."""
_FIGURE_FILES = frozenset(f"{name}.png" for name in EVALUATION_FIGURES)

BASELINE = "#000000"
"""Color of chance levels and baselines, which are dashed lines."""
LINE_STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
"""Line style of each color of `PALETTE`, so that series differ in gray as well."""
MARKERS = ("o", "s", "^", "D", "v", "P")
"""Marker of each color of `PALETTE`."""
HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "----")
"""Hatch of the bars of each color of `PALETTE`."""
COLOR_MAP = "viridis"
"""Color map of numbers; its lightness rises evenly, so it can be read in gray. Draw it with a color bar."""

FORMATS = ("png", "svg", "pdf")
"""File formats of figures."""
DPI = 200
"""Resolution of PNG files and of images inside of SVG and PDF files, in dots per inch."""

_STYLE: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "figure.titlesize": 10,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": True,
    "legend.framealpha": 0.85,
    "legend.edgecolor": "white",
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#d9d9d9",
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.6,
    "image.cmap": COLOR_MAP,
    "text.parse_math": False,  # names of files and models may hold dollar signs
    "pdf.fonttype": 42,  # TrueType: publishers refuse Type 3
    "svg.hashsalt": "gtsa-kit",  # the same figure gives the same file
}


@contextmanager
def figure_style() -> Iterator[None]:
    """Set the style of what is drawn inside the block; it is a decorator as well.

    It changes matplotlib's settings of the whole process until the block ends, so draw in one thread at a time.
    """
    from cycler import cycler
    from matplotlib import style

    cycle = cycler(color=PALETTE, linestyle=LINE_STYLES)
    with style.context(["default", _STYLE | {"axes.prop_cycle": cycle}]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # a box is drawn in its place
        yield


def axes_grid(columns: int, rows: int, width: float = 2.2, height: float = 1.6) -> "Figure":
    """Create a figure with a grid of axes, which `figure.axes` lists row by row.

    Args:
        columns, rows: Numbers of axes.
        width, height: Size of one of the axes, in inches.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    figure.subplots(rows, columns, squeeze=False)
    return figure


def save_figure(figure: "Figure", out: Path, formats: Sequence[str] = FORMATS) -> None:
    """Write a figure in the format of the suffix of `out`; its folder is created if needed.

    Raises:
        ValueError: The suffix is none of `formats`.
    """
    figure_format = out.suffix.lower().removeprefix(".")
    check_format(figure_format, formats)
    metadata: dict[str, Any] = {"png": {"Software": SOFTWARE}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    out.parent.mkdir(parents=True, exist_ok=True)
    with figure_style(), atomic_write(out) as file:
        figure.savefig(file, format=figure_format, dpi=DPI, metadata=metadata.get(figure_format))


def is_own_figure(folder: Path, name: str) -> bool:
    """Return whether a file has the name of a figure of `gtsa eval`, and was written by `save_figure`."""
    if name not in _FIGURE_FILES:
        return False
    try:
        with open(folder / name, "rb") as file:
            return f"Software\0{SOFTWARE}".encode() in file.read(1024)
    except OSError:
        return False


def check_format(figure_format: str, formats: Sequence[str] = FORMATS) -> None:
    """Raise `ValueError` unless a file format is one of `formats`."""
    if figure_format not in formats:
        raise ValueError(f"unknown format of figures {figure_format!r}; choose one of {', '.join(formats)}")
