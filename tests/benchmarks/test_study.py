"""Regime and tables of the benchmark study."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from study import stages
from study.settings import ALL, CHECKPOINTS, COMMON, MAIN_METHODS, RATES, SCALES, list_runs, run_config
from study.tables import compare_on_masks, stages_table, summarize

from gtsa_kit.config import PUBLISHED_MOMENTUM, dump_config
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


def test_distances_on_masks_are_those_of_a_t_test() -> None:
    rng = np.random.default_rng(0)
    values = {name: rng.normal(30, 2, (3, 4)) for name in ("gtsa", "dino", "random")}
    rows = [
        {"method": name, "seed": seed, "values": {"finetuned": list(own), "camvid_tiles": list(own + 1)}}
        for name, each in values.items()
        for seed, own in enumerate(each)
    ]
    compared = compare_on_masks(rows)
    assert [(one["measure"], one["method"]) for one in compared] == [("finetuned", "dino"), ("camvid_tiles", "dino")]
    means = {name: each.mean(axis=1) for name, each in values.items()}
    test = stats.ttest_ind(means["gtsa"], means["dino"], equal_var=False)
    for one in compared:
        assert one["ahead"] / one["standard_error"] == pytest.approx(test.statistic)
    single = compare_on_masks([row for row in rows if row["seed"] == 0])
    assert single[0]["standard_error"] is None
    [gtsa, *_] = summarize(rows)
    assert gtsa["finetuned"] == pytest.approx(means["gtsa"].mean())
    assert gtsa["finetuned_half_range"] == pytest.approx(np.ptp(means["gtsa"]) / 2)


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
    rows = [(about["step"], about["branch"], model) for _, about, model in stages.stages({("gtsa", 0): tmp_path})]
    assert rows == [(step, branch, True) for step in (150, 300, 450, 600) for branch in ("teacher", "student")]
