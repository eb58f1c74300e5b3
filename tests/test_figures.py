"""Style of figures: colors for color-blind readers and prints in gray, file formats, resolution."""

from itertools import combinations
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from gtsa_kit.figures import (
    BASELINE,
    HATCHES,
    LINE_STYLES,
    MARKERS,
    PALETTE,
    RANDOM,
    RIGHT,
    WRONG,
    figure_style,
    save_figure,
)

# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
DEFICIENCIES = {
    "none": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


def linear_rgb(color: str) -> np.ndarray:
    levels = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB (D65) of linear RGB."""
    to_xyz = np.array([[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]])
    xyz = to_xyz @ np.clip(rgb, 0, 1) / np.array([0.9505, 1, 1.0888])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("name", DEFICIENCIES)
def test_all_colors_differ_for_color_blind_readers(name: str) -> None:
    """A CIELAB difference of 2.3 is just noticeable; red against green of equal lightness has 5 in deuteranopia."""
    seen = {color: lab(DEFICIENCIES[name] @ linear_rgb(color)) for color in (*PALETTE, RANDOM, BASELINE)}
    differences = {pair: np.linalg.norm(seen[pair[0]] - seen[pair[1]]) for pair in combinations(seen, 2)}
    assert min(differences.values()) > 15, min(differences, key=differences.__getitem__)


def test_right_and_wrong_differ_in_gray_and_for_color_blind_readers() -> None:
    assert abs(lab(linear_rgb(RIGHT))[0] - lab(linear_rgb(WRONG))[0]) > 20
    for matrix in DEFICIENCIES.values():
        right, wrong = (lab(matrix @ linear_rgb(color)) for color in (RIGHT, WRONG))
        assert np.linalg.norm(right - wrong) > 40


def test_series_differ_without_color() -> None:
    for marks in (LINE_STYLES, MARKERS, HATCHES):
        assert len(set(marks)) == len(PALETTE)


def test_the_style_is_readable_and_ends_with_its_block() -> None:
    matplotlib.get_backend()  # chosen at its first use
    before = matplotlib.rcParams.copy()
    with figure_style():
        axis = Figure().subplots()
        lines = [axis.plot([0, 1], [k, k], label=f"series {k}")[0] for k in range(3)]
        axis.set_title("title $x_1 of a file")
        texts = [axis.title, axis.xaxis.label, *axis.get_xticklabels(), *axis.legend().get_texts()]
    assert [line.get_color() for line in lines] == list(PALETTE[:3])
    assert len({line.get_linestyle() for line in lines}) == 3
    assert min(line.get_linewidth() for line in lines) >= 1
    assert min(text.get_fontsize() for text in texts) >= 7
    assert not axis.title.get_parse_math()
    assert matplotlib.rcParams == before


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("PDF", b"%PDF")])
def test_formats(tmp_path: Path, suffix: str, start: bytes) -> None:
    with figure_style():
        figure = Figure(figsize=(2, 1))
        figure.subplots().set_title("a_$b")
    out = tmp_path / "new" / f"figure.{suffix}"
    save_figure(figure, out)
    first = out.read_bytes()
    assert first.startswith(start)
    save_figure(figure, out)
    assert out.read_bytes() == first  # no date, no random identifiers
    if suffix == "png":
        with Image.open(out) as image:
            assert image.size == (400, 200)
            assert image.info["dpi"] == pytest.approx((200, 200), abs=0.1)
    if suffix == "PDF":
        assert b"/Type3" not in first


def test_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'jpg'; choose one of png, svg, pdf"):
        save_figure(Figure(), tmp_path / "new" / "figure.jpg")
    assert not (tmp_path / "new").exists()
