"""Reports: summaries and JSON."""

import json
import statistics
from pathlib import Path

from gtsa_kit.evaluation.support.report import Report


def test_the_summary_is_mean_and_sample_deviation_by_model(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"model": "b", "seed": s, "x": v, "y": None} for s, v in enumerate((1.0, 2.0, 6.0))
    ]
    report = Report(
        "thing",
        "a thing",
        {"x": "x %", "y": "y"},
        [*rows, {"model": "a", "seed": 0, "x": 4.0, "y": 2.0}],
        {"setting": 1},
    )
    b, a = report.summary()
    assert (b["model"], b["seeds"], b["x"], b["x_std"]) == ("b", 3, 3.0, statistics.stdev((1, 2, 6)))
    assert b["y"] is b["y_std"] is None
    assert (a["model"], a["x"], a["x_std"], a["y"]) == ("a", 4.0, None, 2.0)
    written = json.loads(report.write(tmp_path / "new").read_text())
    assert written == report.to_dict() == json.loads(json.dumps(report.to_dict()))
