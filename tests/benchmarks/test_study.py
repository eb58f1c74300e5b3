"""Regime and tables of the benchmark study."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from study import stages
from study.earlier import read_earlier, row_settings
from study.settings import (
    ALL,
    CHECKPOINTS,
    COMMON,
    MAIN_METHODS,
    MEASURES,
    PROBES,
    RANDOM,
    RATES,
    SCALES,
    Run,
    Scale,
    list_runs,
    run_config,
)
from study.tables import as_markdown, compare_on_masks, stages_table, summarize

from gtsa_kit.config import PUBLISHED_MOMENTUM, RunConfig, dump_config
from gtsa_kit.training.optim import initial_share, make_schedules

IMAGES = 9432


@pytest.mark.parametrize("method", ALL)
def test_the_regime_of_each_run(method: str, tmp_path: Path) -> None:
    scale = SCALES["full"]
    config = run_config((method, 1), scale, tmp_path, IMAGES)
    steps = config.train.steps
    assert steps == scale.steps * (4 if method == "gtsa four times as long" else 1)
    assert (config.train.seed, config.train.batch_size) == (1, scale.batch)
    warmup = round(config.optim.warmup_epochs * IMAGES / scale.batch)
    assert warmup == round(0.1 * steps)
    made = make_schedules(
        config.optim, steps, warmup, scale.batch, published_momentum=PUBLISHED_MOMENTUM[config.method]
    )
    assert initial_share(made.teacher_momentum) < 1e-3
    assert config.train.checkpoint_every * CHECKPOINTS == steps
    assert config.train.keep_checkpoints > 2 * CHECKPOINTS  # a stop adds one of its own
    grid = config.views.global_size // 16
    assert grid**2 > 100  # the published rule: regions of 10 for global maps of more than 100 patches
    if method in RATES:
        factor = 0.5 if method.endswith("slower") else 2.0
        assert config.optim.lr == factor * COMMON["optim.lr"]


def test_baselines_train_the_class_token_unless_they_are_the_control(tmp_path: Path) -> None:
    pools = {
        name: getattr(run_config((name, 0), SCALES["full"], tmp_path, IMAGES), method).pool
        for method in ("dino", "mocov3")
        for name in (method, f"{method} mean of patches", f"{method} faster")
    }
    assert {name: pool for name, pool in pools.items() if pool == "mean"}.keys() == {
        "dino mean of patches",
        "mocov3 mean of patches",
    }


def test_seeds_come_after_all_methods() -> None:
    runs = list_runs(SCALES["main"])
    assert runs == [(method, seed) for seed in (0, 1) for method in MAIN_METHODS]


def rows_of(values: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Return rows of the study: `values` holds by method an array of shape (pretraining seeds, probe seeds)."""
    return [
        {"method": name, "seed": seed, "values": {"finetuned": list(own), "camvid_tiles": list(own + 1)}}
        for name, each in values.items()
        for seed, own in enumerate(each)
    ]


def test_distances_and_intervals_are_those_of_tukeys_test() -> None:
    rng = np.random.default_rng(0)
    values = {name: rng.normal(30, 2, (seeds, 4)) for name, seeds in (("gtsa", 3), ("dino", 2), ("mocov3", 4))}
    rows = rows_of(values | {RANDOM: rng.normal(20, 9, (3, 4))})  # random weights have another deviation
    means = {name: each.mean(axis=1) for name, each in values.items()}
    tukey = stats.tukey_hsd(*means.values())
    compared = compare_on_masks(rows)
    assert [(one["measure"], one["method"]) for one in compared] == [
        (measure, method) for measure in ("finetuned", "camvid_tiles") for method in ("dino", "mocov3")
    ]
    for one, other in zip(compared, (1, 2, 1, 2), strict=True):
        assert one["ahead"] == pytest.approx(tukey.statistic[0, other])
        q = abs(one["ahead"]) / one["standard_error"] * math.sqrt(2)
        assert stats.studentized_range.sf(q, 3, 6) == pytest.approx(tukey.pvalue[0, other])
    groups = stats.f_oneway(*means.values())
    between = sum(len(m) * (m.mean() - np.concatenate([*means.values()]).mean()) ** 2 for m in means.values()) / 2
    deviation = math.sqrt(between / groups.statistic)
    lines = {line["method"]: line for line in summarize(rows)}
    assert lines["dino"]["finetuned"] == pytest.approx(means["dino"].mean())
    assert lines["dino"]["finetuned_interval"] == pytest.approx(stats.t.interval(0.95, 6, 0, deviation / 2**0.5)[1])
    assert lines[RANDOM]["finetuned_interval"] is None


def test_one_seed_has_neither_interval_nor_standard_error() -> None:
    rows = rows_of({"gtsa": np.array([[30.0, 31.0]]), "dino": np.array([[29.0, 29.0]])})
    assert {one["standard_error"] for one in compare_on_masks(rows)} == {None}
    assert [line["finetuned_interval"] for line in summarize(rows)] == [None, None]


def test_the_table_leaves_out_what_a_control_is_not_probed_for() -> None:
    rows = rows_of({"gtsa": np.array([[30.0], [32.0]]), "gtsa drop path 0": np.array([[29.0]])})
    for row in rows[:2]:
        row["values"]["places_knn"] = [50.0]
    for row, rate in zip(rows, (12.0, 8.0, 8.0), strict=True):
        row["images_per_second"] = rate
    table = as_markdown(summarize(rows))
    head, _, gtsa, control = ([entry.strip() for entry in line.split("|")[1:-1]] for line in table.splitlines())
    assert head == [
        "method (seeds)",
        *(MEASURES[k] for k in ("finetuned", "camvid_tiles", "places_knn")),
        "cost of a step",
    ]
    assert (gtsa[0], gtsa[-1], control[-2:]) == ("gtsa (2)", "1.00", ["", "1.25"])
    assert SCALES["full"].probes_of("gtsa drop path 0") == ("finetuned", "tiles")
    assert SCALES["full"].probes_of("gtsa image loss") == PROBES


def test_teacher_and_student_stand_side_by_side() -> None:
    rows = [
        {"method": "gtsa", "seed": seed, "step": step, "branch": branch, "values": {"camvid_tiles": [value + seed]}}
        for step, value in ((10, 20.0), (20, 24.0))
        for branch, value in (("teacher", value), ("student", value + 2))
        for seed in (0, 1)
    ]
    columns = [list(column.cells) for column in stages_table(rows).columns]
    assert columns == [["gtsa"] * 2, ["10", "20"], ["20.5", "24.5"], ["22.5", "26.5"]]
    assert not math.isnan(float(columns[2][0]))


def test_checkpoints_of_stops_are_not_probed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = run_config(("gtsa", 0), SCALES["main"], tmp_path, IMAGES)
    (tmp_path / "config.yaml").write_text(dump_config(config))
    (tmp_path / "checkpoints").mkdir()
    for step in (150, 300, 431, 450, 600):
        (tmp_path / "checkpoints" / f"step_{step:08d}.ckpt").touch()
    opened = []
    monkeypatch.setattr(stages, "open_branch", lambda run, path, branch: opened.append(path) or path.exists())
    rows = [(about["step"], about["branch"], model) for _, about, model in stages.stages(tmp_path)]
    assert rows == [(step, branch, True) for step in (150, 300, 450, 600) for branch in ("teacher", "student")]


def earlier_rows(tmp_path: Path, scale: Scale, **changes: Any) -> tuple[Path, dict[Run, RunConfig | None]]:
    """Write a row of DINO and one of random weights, and return the file and the settings of three runs."""
    runs: list[Run] = [("gtsa", 0), ("dino", 0)]
    configs: dict[Run, RunConfig | None] = {run: run_config(run, scale, tmp_path, IMAGES) for run in runs}
    configs[RANDOM, 0] = None
    rows = [
        {
            "method": run[0],
            "seed": run[1],
            "settings": row_settings(configs[run], scale),
            "values": {"finetuned": [30.0]},
            "seconds": dict.fromkeys(scale.probes, 1.0),
        }
        for run in (("dino", 0), (RANDOM, 0))
    ]
    rows[0]["stages"] = []
    rows[0] |= changes
    (tmp_path / "results.json").write_text(json.dumps({"rows": rows}))
    return tmp_path / "results.json", configs


def test_earlier_results_are_those_of_the_same_settings_wherever_the_images_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale = SCALES["main"]
    file, configs = earlier_rows(tmp_path, scale)
    elsewhere = {run: config and run_config(run, scale, tmp_path / "other", IMAGES) for run, config in configs.items()}
    assert read_earlier(file, elsewhere, scale).keys() == {("dino", 0), (RANDOM, 0)}
    with pytest.raises(ValueError, match="dino-0 with other settings"):
        read_earlier(file, configs, replace(scale, finetune_steps=100))
    longer = {
        run: config and run_config(run, replace(scale, steps=1200), tmp_path, IMAGES) for run, config in configs.items()
    }
    with pytest.raises(ValueError, match="other settings"):
        read_earlier(file, longer, scale)
    monkeypatch.setattr("study.earlier.FPN_CHANNELS", 128)
    with pytest.raises(ValueError, match="other settings"):
        read_earlier(file, configs, scale)


@pytest.mark.parametrize("missing", [{"seconds": {"tiles": 1.0}}, {"stages": None}])
def test_a_row_that_misses_a_probe_is_run_again(missing: dict[str, Any], tmp_path: Path) -> None:
    file, configs = earlier_rows(tmp_path, SCALES["main"], **missing)
    if "stages" in missing:
        content = json.loads(file.read_text())
        del content["rows"][0]["stages"]
        file.write_text(json.dumps(content))
    assert read_earlier(file, configs, SCALES["main"]).keys() == {(RANDOM, 0)}
