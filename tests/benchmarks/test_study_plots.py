"""Plots of the benchmark study, by their matplotlib objects."""

from pathlib import Path

from matplotlib.colors import to_hex
from study.plots import draw_probes, draw_training
from study.settings import MEASURES

from gtsa_kit.figures import PALETTE, RANDOM, save_figure
from gtsa_kit.files import write_json_lines


def test_each_measure_has_a_plot_from_zero_with_a_mark_for_each_run(tmp_path: Path) -> None:
    rows = [
        {"method": method, "seed": seed, "values": {key: [40.0, 44.0 + seed] for key in MEASURES}}
        for method in ("gtsa", "random")
        for seed in range(2)
    ]
    figure = draw_probes(rows)
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == [name for key, name in MEASURES.items() if not key.endswith("rank")]
    for axis in figure.axes:
        assert axis.get_ylim()[0] == 0
        assert [text.get_text() for text in axis.get_xticklabels()] == ["gtsa", "random"]
        marks = [line for line in axis.lines if line.get_marker() in ("o", "s")]
        assert [to_hex(line.get_color()) for line in marks] == [PALETTE[0]] * 2 + [RANDOM] * 2
        assert {line.get_ydata()[0] for line in marks} == {42.0, 42.5}
    assert "standard deviation" in figure.get_supxlabel()
    save_figure(figure, tmp_path / "probes.svg")


def test_training_plots_are_those_that_some_run_logs(tmp_path: Path) -> None:
    """The second run has no log yet."""
    columns = ("effective_rank", "feature_std", "region", "region_loss_constant_baseline")
    (tmp_path / "a").mkdir()
    write_json_lines(tmp_path / "a" / "metrics.jsonl", [{"step": s, **dict.fromkeys(columns, 0.5)} for s in (1, 2)])
    figure = draw_training({("gtsa", 0): tmp_path / "a", ("dino", 0): tmp_path / "b"})
    labels = {axis.get_title(): [text.get_text() for text in axis.get_legend().get_texts()] for axis in figure.axes}
    assert labels == {
        "effective rank of tokens": ["gtsa 0", "collapse"],
        "std of tokens": ["gtsa 0", "collapse"],
        "region loss": ["gtsa 0", "gtsa 0, constant baseline"],
    }
    assert all(axis.get_xlabel() == "step" for axis in figure.axes)
