"""Files of gtsa-kit's own runs among weights, told apart without torch."""

from collections.abc import Collection
from pathlib import Path
from typing import Final

from gtsa_kit.models.checkpoint_import.sidecar_files import read_json

RUN_FILE: Final = "encoder.safetensors"
"""Weights file of a run, with an encoder.json beside it."""


def is_run_file(weights: Path) -> bool:
    """Return whether a file is the encoder of a run, with the encoder.json that gtsa-kit wrote beside it.

    Raises:
        ValueError: The encoder.json is not readable.
    """
    run = weights.with_name("encoder.json")
    return weights.name == RUN_FILE and run.exists() and "gtsa_kit" in read_json(run)


def check_stated_facts(path: Path, given: Collection[str]) -> None:
    """Raise `ValueError` if a fact is given, by its name, that a file of gtsa-kit states itself."""
    if "embedding" in given:
        raise ValueError(
            f"{path} is an exported file, and its embedding is what it was exported with; export its weights with "
            "--embedding, or omit --embedding"
        )
    if given:
        options = ", ".join(f"--{name}" for name in given)
        raise ValueError(
            f"{path} was written by gtsa-kit, and states its preprocessing and its architecture; omit {options}, which "
            "are for weights of other tools"
        )
