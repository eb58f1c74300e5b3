"""Rows of the study that are kept in a file, so that it goes on where the runs behind them are not.

A row has `method`, `seed`, `settings`, the `values` by measure (one for each seed of the probe) and the `seconds` by
probe. Rows of trained models have `training_seconds` and `images_per_second`; those of `STAGED` have `stages`, and
those of GTSA have `region_loss` and `recall_by_layer`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gtsa_kit.config import RunConfig
from study.settings import ARCH, FPN_CHANNELS, SIZE, STAGED, Run, Scale, folder_name

Row = dict[str, Any]
"""Results of one model."""


def row_settings(config: RunConfig | None, scale: Scale) -> dict[str, Any]:
    """Return what a row depends on: the settings of its run (None for random weights), and those of the probes."""
    probes = {
        "probe_size": SIZE,
        "probe_seeds": scale.probe_seeds,
        "finetune_steps": scale.finetune_steps,
        "fpn_channels": FPN_CHANNELS,
    }
    if config is None:
        return {"arch": ARCH} | probes
    settings = config.model_dump(mode="json")
    del settings["data"]  # the place of the images, which differs by machine
    return settings | probes


def read_earlier(file: Path, configs: Mapping[Run, RunConfig | None], scale: Scale) -> dict[Run, Row]:
    """Return the rows of a file that have all that a scale asks for, by run.

    Raises:
        ValueError: A row of one of the runs was made with other settings.
    """
    earlier = {}
    for row in json.loads(file.read_text(encoding="utf-8"))["rows"]:
        run = (row["method"], row["seed"])
        if run not in configs:
            continue
        if row["settings"] != row_settings(configs[run], scale):
            raise ValueError(f"{file} has results of {folder_name(run)} with other settings; leave out --earlier")
        if _is_complete(row, scale):
            earlier[run] = row
    return earlier


def _is_complete(row: Row, scale: Scale) -> bool:
    probed = set(scale.probes_of(row["method"])) <= set(row["seconds"])
    return probed and (not scale.stages or row["method"] not in STAGED or "stages" in row)
