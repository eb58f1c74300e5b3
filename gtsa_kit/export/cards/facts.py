"""Facts about the training of exported weights, from the folder of their run."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from huggingface_hub.errors import HFValidationError
from huggingface_hub.repocard import ModelCard

from gtsa_kit.config.layers import flatten
from gtsa_kit.files import sha256_of
from gtsa_kit.models.packaged_weights import PACKAGED_WEIGHTS
from gtsa_kit.models.run_folder import ENCODER, MODEL

PATHS: Final = ("data", "data.source", "data.images", "data.val", "data.labels", "train.probe", "train.features")
"""Settings that name files: a card has their last names alone."""
EVALUATIONS: Final = "eval"
"""Folder of a run in which a card looks for evaluations, as `gtsa eval NAME ... --out RUN/eval` writes them."""


@dataclass(frozen=True)
class StartWeights:
    """Weights that a run started from."""

    name: str
    """Last name of their file or folder; the architecture of random ones."""
    sha256: str = ""
    license: str = ""
    """License that a model card or package beside them states, else ""."""


@dataclass(frozen=True)
class RunFacts:
    """Training of an encoder or a task model."""

    name: str
    """Name of the run folder."""
    training: Mapping[str, Any]
    """`training` of encoder.json or model.json."""
    start: StartWeights
    scores: Mapping[str, Any] = field(default_factory=dict)
    """Content of scores.json of a fine-tuned run."""
    evaluations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Reports of `gtsa eval` in the folder of the run, by name of the evaluation."""

    @property
    def settings(self) -> dict[str, Any]:
        """Settings by dotted key, without names of folders."""
        flat = flatten(self.training.get("settings", {}))
        weights = [key for key in flat if key in ("init.weights", "model.weights")]
        return flat | {key: _last_name(flat[key]) for key in (*PATHS, *weights) if isinstance(flat.get(key), str)}


def read_facts(source: Path, source_sha256: str) -> RunFacts | None:
    """Return the facts about weights, or None if their run is not known.

    Args:
        source: Run folder or file that was exported.
        source_sha256: SHA-256 of the weights; a run with other weights is another one.
    """
    folders = [source] if source.is_dir() else [source.parent, source.parent.parent]
    for folder in folders:
        for weights in (folder / MODEL, folder / ENCODER):
            description = _read_json(weights.with_suffix(".json"))
            if description.get("training") and weights.is_file() and sha256_of(weights) == source_sha256:
                return _facts_of(folder.resolve(), description["training"])
    return None


def _facts_of(folder: Path, training: Mapping[str, Any]) -> RunFacts:
    reports = {path.stem: _read_json(path) for path in sorted((folder / EVALUATIONS).glob("*.json"))}
    return RunFacts(
        name=folder.name,
        training=training,
        start=_start_of(flatten(training.get("settings", {}))),
        scores=_read_json(folder / "scores.json"),
        evaluations={name: report for name, report in reports.items() if report.get("evaluation") == name},
    )


def _start_of(settings: Mapping[str, Any]) -> StartWeights:
    for section in ("init", "model"):
        if weights := settings.get(f"{section}.weights"):
            path = Path(weights)
            return StartWeights(path.name, settings.get(f"{section}.sha256", ""), _license_of(path))
    return StartWeights(f"random, {settings.get('model.random') or settings.get('model.arch', 'architecture unknown')}")


def _license_of(weights: Path) -> str:
    """Return the license of weights: that of their package, or of the model card beside them."""
    for word, package in PACKAGED_WEIGHTS.items():
        if weights.is_file() and weights.name == Path(package.file).name and sha256_of(weights) == package.sha256:
            return f"{package.about} ({word}, {package.package})"
    card = (weights if weights.is_dir() else weights.parent) / "README.md"
    if not card.is_file():
        return ""
    try:
        return str(ModelCard.load(card, ignore_metadata_errors=True).data.license or "")
    except (ValueError, OSError, HFValidationError):
        return ""


def _read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object, or {} where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _last_name(value: str) -> str:
    return value.rstrip("/").rpartition("/")[2]
