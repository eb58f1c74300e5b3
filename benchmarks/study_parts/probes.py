"""Probes of the benchmark study, and their results, which are stored for each model and probe."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gtsa_kit.cli.support.progress import make_console
from gtsa_kit.data.image_files import find_images
from gtsa_kit.data.label_file import read_mask_options
from gtsa_kit.data.labeled import read_classification_dataset
from gtsa_kit.data.labeled_masks import read_segmentation_dataset
from gtsa_kit.evaluation.correspondence import CorrespondenceOptions, correspondence
from gtsa_kit.evaluation.dense_tokens import InputOptions
from gtsa_kit.evaluation.embeddings import cached_embedder
from gtsa_kit.evaluation.eval_images import evenly_spaced
from gtsa_kit.evaluation.image_probes import ProbeOptions, knn, linear
from gtsa_kit.evaluation.models import Model
from gtsa_kit.evaluation.rotation import RotationOptions, rotation
from gtsa_kit.evaluation.segment import SegmentOptions, segment
from gtsa_kit.evaluation.sensitivity import SensitivityOptions, sensitivity
from gtsa_kit.evaluation.support.report import Report
from gtsa_kit.files import write_json
from study_parts.settings import SIZE, Run, folder_name

Probe = Callable[[Model], Mapping[str, list[float]]]
"""Function from a model to values by measure, one for each seed of the probe."""


def build_probes(data: Path, names: Sequence[str], seeds: int) -> dict[str, Probe]:
    """Return the chosen probes by name."""
    probes = classification_probes(data, seeds) | segmentation_probes(data, seeds) | view_probes(data, seeds)
    return {name: probes[name] for name in names}


def classification_probes(data: Path, seeds: int) -> dict[str, Probe]:
    """Return the k-NN and linear probes of scene classes."""
    dataset = read_classification_dataset(data / "scenes" / "places")
    options, embed = ProbeOptions(seeds=seeds, size=SIZE), cached_embedder()

    def places_knn(model: Model) -> dict[str, list[float]]:
        return {"places_knn": column(knn([model], dataset, options, embed=embed), "top1")}

    def places_linear(model: Model) -> dict[str, list[float]]:
        return {"places_linear": column(linear([model], dataset, options, embed=embed), "top1")}

    return {"places": places_knn, "places linear": places_linear}


def segmentation_probes(data: Path, seeds: int) -> dict[str, Probe]:
    """Return the segmentation probes of CamVid, in tiles and in whole frames."""
    camvid = read_segmentation_dataset(data / "camvid", options=read_mask_options(None, ["11"]))

    def make(measure: str, inputs: InputOptions, probe_name: str) -> Probe:
        def probe(model: Model) -> dict[str, list[float]]:
            return {measure: column(segment([model], camvid, SegmentOptions(inputs, (probe_name,), seeds)), "miou")}

        return probe

    return {
        "tiles": make("camvid_tiles", InputOptions(None, SIZE), "linear"),
        "tiles k-NN": make("camvid_tiles_knn", InputOptions(None, SIZE), "knn"),
        "whole": make("camvid_whole", InputOptions(480), "linear"),
    }


def view_probes(data: Path, seeds: int) -> dict[str, Probe]:
    """Return the probes on transformed views: correspondence, rotation and sensitivity."""
    coco = find_images(data / "scenes" / "coco").paths
    few = correspondence_images(data)
    many = evenly_spaced(coco + find_images(data / "scenes" / "bsds").paths, 600)

    def correspondence_recall(model: Model) -> dict[str, list[float]]:
        report = correspondence([model], few, CorrespondenceOptions(size=SIZE), range(seeds))
        rows = [row for row in report.rows if row["model"] == model.name]
        return {key: [row[key] for row in rows] for key in ("crop", "crop_rotation")}

    def rotation_accuracy(model: Model) -> dict[str, list[float]]:
        report = rotation([model], many, RotationOptions(size=SIZE), range(seeds))
        names = {"accuracy": "rotation", "embedding_rank": "embedding_rank", "token_rank": "token_rank"}
        return {new: column(report, old) for old, new in names.items()}

    def sensitivities(model: Model) -> dict[str, list[float]]:
        report = sensitivity([model], few, SensitivityOptions(size=SIZE), range(seeds))
        return {f"sensitivity_{key}": column(report, key) for key in ("color", "rotation", "crop")}

    return {"correspondence": correspondence_recall, "rotation": rotation_accuracy, "sensitivity": sensitivities}


def correspondence_images(data: Path) -> list[Path]:
    """Return the 150 COCO images of the correspondence and sensitivity probes."""
    return evenly_spaced(find_images(data / "scenes" / "coco").paths, 150)


def column(report: Report, key: str) -> list[float]:
    """Return a column of a report."""
    return [row[key] for row in report.rows]


def probe_models(models: Mapping[Run, Model], probes: Mapping[str, Probe], out: Path) -> list[dict[str, Any]]:
    """Return a row with the values by measure for each model; results from an earlier call are read from files."""
    rows = []
    (out / "probes").mkdir(parents=True, exist_ok=True)
    for run, model in models.items():
        values: dict[str, list[float]] = {}
        for name, probe in probes.items():
            file = out / "probes" / f"{folder_name(run)}-{name.replace(' ', '-')}.json"
            if not file.exists():
                start = time.monotonic()
                write_json(file, dict(probe(model)))
                make_console().print(f"{run[0]}, seed {run[1]}: {name} in {time.monotonic() - start:.0f} s")
            values |= json.loads(file.read_text())
        rows.append({"method": run[0], "seed": run[1], "values": values})
    return rows
