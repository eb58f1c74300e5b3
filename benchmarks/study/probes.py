"""Probes of the benchmark study, and their results, which are stored for each model and probe."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gtsa_kit
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
from gtsa_kit.evaluation.segment import SegmentOptions, segment
from gtsa_kit.evaluation.sensitivity import SensitivityOptions, sensitivity
from gtsa_kit.evaluation.support.report import Report
from gtsa_kit.files import write_json
from study.settings import ARCH, FPN_CHANNELS, SIZE, Run, Scale, folder_name
from study.stages import stages

Probe = Callable[[Model], Mapping[str, list[float]]]
"""Function from a model to values by measure, one for each seed of the probe."""


def build_probes(data: Path, scale: Scale, out: Path) -> dict[str, Probe]:
    """Return the probes of a scale by name."""
    seeds = scale.probe_seeds
    probes = classification_probes(data, seeds) | segmentation_probes(data, seeds) | view_probes(data, seeds)
    probes["finetuned"] = finetuned_probe(data, scale.finetune_steps, out / "finetuned")
    return {name: probes[name] for name in scale.probes}


def finetuned_probe(data: Path, steps: int, out: Path) -> Probe:
    """Return the headline: mIoU of Semantic FPN on CamVid with all layers trained, as the paper evaluates."""

    def probe(model: Model) -> dict[str, list[float]]:
        run = out / model.name.replace(" ", "-")
        if not (run / "scores.json").exists():
            settings = {
                "head.name": "fpn",
                "head.channels": FPN_CHANNELS,
                "data.ignore": ["11"],
                "train.freeze": False,
                "train.steps": steps,
                "train.eval_every": steps,  # a choice among scores on the validation images would be in the result
                "train.batch_size": 8,
                "augment.size": 2 * SIZE,
                "augment.crop": SIZE,
            }
            start = {"model": model.source} if model.source else {"random": ARCH}
            resume = (run / "config.yaml").exists()
            gtsa_kit.finetune("segment", data / "camvid", run, **start, settings=settings, resume=resume)
        return {"finetuned": [json.loads((run / "scores.json").read_text(encoding="utf-8"))["miou"]]}

    return probe


def classification_probes(data: Path, seeds: int) -> dict[str, Probe]:
    """Return the k-NN and linear probes of scene classes."""
    dataset = read_classification_dataset(data / "scenes" / "places")
    options, embed = ProbeOptions(seeds=seeds, size=SIZE), cached_embedder()

    def places_knn(model: Model) -> dict[str, list[float]]:
        return {"places_knn": column(knn([model], dataset, options, embed=embed), "top1")}

    def places_linear(model: Model) -> dict[str, list[float]]:
        return {"places_linear": column(linear([model], dataset, options, embed=embed), "top1")}

    return {"places": places_knn, "places linear": places_linear}


def segmentation_probes(data: Path, seeds: int, size: int = SIZE) -> dict[str, Probe]:
    """Return the probes of frozen patches of CamVid in tiles of `size` pixels: a linear layer, and k-NN of patches."""
    camvid = read_segmentation_dataset(data / "camvid", options=read_mask_options(None, ["11"]))

    def make(measure: str, inputs: InputOptions, probe_name: str) -> Probe:
        def probe(model: Model) -> dict[str, list[float]]:
            return {measure: column(segment([model], camvid, SegmentOptions(inputs, (probe_name,), seeds)), "miou")}

        return probe

    return {
        "tiles": make("camvid_tiles", InputOptions(None, size), "linear"),
        "tiles k-NN": make("camvid_tiles_knn", InputOptions(None, size), "knn"),
    }


def view_probes(data: Path, seeds: int) -> dict[str, Probe]:
    """Return the probes on transformed views: correspondence and sensitivity."""
    images = correspondence_images(data)

    def correspondence_recall(model: Model) -> dict[str, list[float]]:
        report = correspondence([model], images, CorrespondenceOptions(size=SIZE), range(seeds))
        rows = [row for row in report.rows if row["model"] == model.name]
        return {key: [row[key] for row in rows] for key in ("crop", "crop_rotation")}

    def sensitivities(model: Model) -> dict[str, list[float]]:
        report = sensitivity([model], images, SensitivityOptions(size=SIZE), range(seeds))
        return {f"sensitivity_{key}": column(report, key) for key in ("color", "rotation", "crop")}

    return {"correspondence": correspondence_recall, "sensitivity": sensitivities}


def correspondence_images(data: Path) -> list[Path]:
    """Return the 150 COCO images of the correspondence and sensitivity probes."""
    return evenly_spaced(find_images(data / "scenes" / "coco").paths, 150)


def column(report: Report, key: str) -> list[float]:
    """Return a column of a report."""
    return [row[key] for row in report.rows]


def probe_model(
    run: Run, model: Model, data: Path, scale: Scale, out: Path, finished_only: bool = False
) -> dict[str, Any]:
    """Return the values by measure of a model, and the seconds by probe; `finished_only` takes what is stored."""
    probes = build_probes(data, scale, out)
    names = {name: f"{folder_name(run)}-{name}" for name in scale.probes_of(run[0])}
    chosen = {name: full for name, full in names.items() if not finished_only or result_file(out, full).exists()}
    contents = {name: stored(out, full, probes[name], model) for name, full in chosen.items()}
    return {
        "values": {key: value for content in contents.values() for key, value in content["values"].items()},
        "seconds": {name: content["seconds"] for name, content in contents.items()},
    }


def probe_stages(run: Run, folder: Path, probe: Probe, out: Path) -> list[dict[str, Any]]:
    """Return the step, the branch and the values of teacher and student at each checkpoint of a run."""
    return [
        about | {"values": stored(out, f"{folder_name(run)}-{name}-tiles", probe, model)["values"]}
        for name, about, model in stages(folder)
    ]


def result_file(out: Path, name: str) -> Path:
    """Return the file that holds the values of a probe."""
    return out / "probes" / f"{name.replace(' ', '-')}.json"


def stored(out: Path, name: str, probe: Probe, model: Model) -> dict[str, Any]:
    """Return the values of a probe and its seconds; those of an earlier call are read from their file."""
    file = result_file(out, name)
    if not file.exists():
        start = time.monotonic()
        values = dict(probe(model))
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"values": values, "seconds": time.monotonic() - start})
        make_console().print(f"{name}: {time.monotonic() - start:.0f} s")
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content
