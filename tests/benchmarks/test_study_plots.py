"""Plots of the benchmark study, by their matplotlib objects."""

from pathlib import Path

from matplotlib.colors import to_hex
from study.plots import draw_probes, draw_training
from study.settings import MEASURES

from gtsa_kit.figures import PALETTE, RANDOM, save_figure
from gtsa_kit.files import write_json_lines


def test_each_measure_has_a_plot_with_a_mark_for_each_run_and_the_level_of_random_weights(tmp_path: Path) -> None:
    rows = [
        {"method": method, "seed": seed, "values": {key: [value, value + 4 + seed] for key in MEASURES}}
        for method, value in (("gtsa", 40.0), ("gtsa drop path 0", 35.0), ("random", 30.0))
        for seed in range(2)
    ]
    for row in rows[2:4]:  # a control has fewer probes
        del row["values"]["sensitivity_crop"]
    figure = draw_probes(rows)
    assert [axis.get_title() for axis in figure.axes] == list(MEASURES.values())
    for axis in figure.axes:
        methods = ["gtsa", "gtsa drop path 0", "random"]
        means = {"gtsa": [42.0, 42.5], "gtsa drop path 0": [37.0, 37.5], "random": [32.0, 32.5]}
        if axis.get_title() == MEASURES["sensitivity_crop"]:
            methods.remove("gtsa drop path 0")
        assert [text.get_text() for text in axis.get_yticklabels()] == methods
        marks = [line for line in axis.lines if line.get_marker() in ("o", "s")]
        drawn = [(methods[round(line.get_ydata()[0])], line.get_xdata()[0]) for line in marks]
        assert drawn == [(method, value) for method in methods for value in means[method]]
        assert [to_hex(line.get_color()) for line in marks[-2:]] == [RANDOM] * 2
        assert [to_hex(line.get_color()) for line in marks[:2]] == [PALETTE[0], PALETTE[1]]
        [level] = [line for line in axis.lines if line.get_linestyle() == "--"]
        assert list(level.get_xdata()) == [32.25, 32.25]
        low, high = axis.get_xlim()
        assert low < 32 < 42.5 < high
        assert axis.get_ylim()[0] > axis.get_ylim()[1]  # the first method is at the top
    assert "square: seed 1" in figure.get_supxlabel()
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
