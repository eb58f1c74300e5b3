"""Ablation: settings of the three runs, and the merged table."""

from pathlib import Path
from typing import Any

import pytest
from helpers.evaluation_data import quick_config

from gtsa_kit.config import RunConfig
from gtsa_kit.evaluation.ablation import ablation_runs, merge_reports
from gtsa_kit.evaluation.models import Model
from gtsa_kit.evaluation.support.report import Report


def flatten(config: RunConfig) -> dict[str, Any]:
    return {
        f"{section}.{key}": value
        for section, content in config.model_dump().items()
        if isinstance(content, dict)
        for key, value in content.items()
    }


def test_runs_differ_in_the_loss_weights_alone(images: Path, tiny: dict[str, object]) -> None:
    whole = quick_config(images, tiny)
    runs = ablation_runs(whole)
    changed = {
        name: {key: value for key, value in flatten(run).items() if value != flatten(whole)[key]}
        for name, run in runs.items()
    }
    assert changed == {
        "region": {"loss.correspondence_weight": 0.0, "loss.rotation_weight": 0.0},
        "region-correspondence": {"loss.rotation_weight": 0.0},
        "whole": {},
    }


@pytest.mark.parametrize(
    ("change", "named"),
    [({"loss.rotation_weight": 0.0}, "loss.rotation_weight"), ({"loss.correspondence_weight": 0.0}, "correspondence")],
)
def test_equal_rows_are_rejected(images: Path, tiny: dict[str, object], change: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        ablation_runs(quick_config(images, tiny, **change))


def test_reports_are_merged_by_model_and_seed() -> None:
    def report(name: str, rows: list[dict[str, Any]]) -> Report:
        return Report(name, name, {"top1": "%"}, rows, {"of": name, "skipped": skipped})

    skipped = [{"path": "a.jpg", "reason": "unreadable"}]

    one = report("knn", [{"model": m, "seed": s, "top1": 10 * i + s} for i, m in enumerate("ba") for s in (0, 1)])
    two = report(
        "segment", [{"model": f"{m}, {p}", "encoder": m, "probe": p, "seed": 0, "top1": 7} for m in "ab" for p in "xy"]
    )
    models = [Model(name, None, None) for name in ("a", "b")]  # type: ignore[arg-type]
    parts = [
        (one, {"top1": "knn"}, lambda row: row["model"]),
        (two, {"top1": "miou"}, lambda row: row["encoder"] if row["probe"] == "x" else None),
    ]
    merged = merge_reports("ablation", "title", models, parts)
    assert merged.rows == [
        {"model": "a", "seed": 0, "knn": 10, "miou": 7},
        {"model": "a", "seed": 1, "knn": 11},
        {"model": "b", "seed": 0, "knn": 0, "miou": 7},
        {"model": "b", "seed": 1, "knn": 1},
    ]
    assert list(merged.measures) == ["knn", "miou"]
    assert merged.settings["knn"] == {"of": "knn", "skipped": skipped}
    assert merged.settings["skipped"] == skipped  # each once
