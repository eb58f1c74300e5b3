"""Figure of the evaluation of detectors: AP of each class, and precision by recall."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gtsa_kit.evaluation.support.plots import bar_style, shorten, shorten_name
from gtsa_kit.figures import LINE_STYLES, PALETTE, axes_grid, figure_style
from gtsa_kit.tasks.detection_metrics import PrecisionCurves

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_CLASSES = 40
"""Maximum number of classes with a bar; these are the first ones that have objects."""


@figure_style()
def draw_detections(
    ap: Mapping[str, Sequence[float]], curves: Mapping[str, PrecisionCurves], classes: Sequence[str], what: str
) -> "Figure":
    """Draw AP of each class as bars, and the mean precision of all classes by recall at IoU 0.5, for each model.

    Args:
        ap: AP of each class in percent by model, NaN for a class without objects.
        curves: Curves by model.
        classes: Names of the classes.
        what: "boxes" or "masks".
    """
    values = np.array([*ap.values()], float)
    drawn = np.flatnonzero(~np.isnan(values).all(0))[:MAX_CLASSES]
    figure = axes_grid(2, 1, 4.2, max(3.0, 1.0 + len(drawn) * (0.12 + 0.13 * len(ap))))
    bars, lines = figure.axes
    height, centers = 0.8 / len(ap), np.arange(len(drawn))
    handles: list[Any] = []
    for index, (name, row) in enumerate(zip(ap, values[:, drawn], strict=True)):
        y = centers + (index - (len(ap) - 1) / 2) * height
        handles.append(bars.barh(y, np.nan_to_num(row), 0.92 * height, **bar_style(name, index)))
        for position, value in zip(y, row, strict=True):
            bars.annotate(
                f"{value:.3g}", (value, position), (3, 0), textcoords="offset points", va="center", fontsize=6
            )
        style = LINE_STYLES[index % len(LINE_STYLES)]
        precision = np.nanmean(curves[name].precision, axis=0)
        lines.plot(curves[name].recall, precision, color=PALETTE[index % len(PALETTE)], linestyle=style)
    bars.set_yticks(centers, [shorten(classes[number]) for number in drawn])
    more = f"; {len(classes) - len(drawn)} more classes" if len(classes) > len(drawn) else ""
    bars.set(xlim=(0, 105), ylim=(len(drawn) - 0.4, -0.6), xlabel=f"AP of {what}, %{more}")
    lines.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision, mean of the classes")
    lines.set_title(f"{what} at IoU 0.5")
    figure.legend(handles, [shorten_name(name) for name in ap], loc="outside lower center", ncols=2)
    return figure
