"""Metadata beside weights: gtsa-kit's own JSON files, or a config.json of transformers or timm."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal, cast

import torch
from pydantic import AliasChoices, Field

from gtsa_kit.models.architecture import Architecture
from gtsa_kit.models.checkpoint_import.open_clip_metadata import OPEN_CLIP_CONFIG, OPEN_CLIP_FILES, read_open_clip
from gtsa_kit.models.checkpoint_import.run_files import RUN_FILE, is_run_file
from gtsa_kit.models.checkpoint_import.sidecar_files import CheckpointMetadata, ColorStats, Lenient, parse, read_json
from gtsa_kit.models.checkpoint_import.timm_metadata import read_timm
from gtsa_kit.models.checkpoint_import.transformers_metadata import read_transformers
from gtsa_kit.models.encoder_spec import EncoderSpec
from gtsa_kit.models.preprocessing import Preprocessing
from gtsa_kit.models.run_folder import CHECKPOINTS, EXPORT_FILE

HUB_FILES: Final = (
    *("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"),
)
"""Names of weights files beside a config.json, and of indices of their shards."""


_WITHOUT_JSON: Final = CheckpointMetadata(
    embedding="mean",
    embedding_reason=f"as gtsa-kit trains it, since the file is called {RUN_FILE}",
    assumed=("all else that its encoder.json would say; copy that file too",),
)
"""Metadata of a file with the name of a run's encoder that has lost its encoder.json."""


class _OwnConfig(Lenient):
    schema_version: Literal[1] = Field(validation_alias=AliasChoices("schema", "schema_version"))
    architecture: Architecture
    preprocessing: Preprocessing
    files: tuple[str, ...] = ()


def read_metadata(weights: Path) -> CheckpointMetadata:
    """Read the metadata beside a weights file; without any, every field has its default.

    Raises:
        ValueError: A metadata file is invalid, or describes a network that `Encoder` does not compute.
    """
    config, export = (weights.with_name(name) for name in ("config.json", EXPORT_FILE))
    if is_run_file(weights):
        return replace(_from_own(parse(_OwnConfig, weights.with_name("encoder.json"))), is_run=True)
    own = parse(_OwnConfig, export) if export.exists() else None
    own = own if own and weights.name in own.files else None
    if weights.name in HUB_FILES and config.exists():
        is_timm = not {"architecture", "pretrained_cfg"}.isdisjoint(read_json(config))
        metadata = read_timm(config) if is_timm else read_transformers(config)
        if own:
            stated = {"resampling": own.architecture.resampling, **_own_embedding(own.architecture)}
            return replace(metadata, **stated)
        return metadata
    if weights.name in OPEN_CLIP_FILES and weights.with_name(OPEN_CLIP_CONFIG).exists():
        return read_open_clip(weights.with_name(OPEN_CLIP_CONFIG))
    if weights.suffix == ".ckpt" or weights.parent.name == CHECKPOINTS:
        return _from_checkpoint(weights)
    if own:
        return _from_own(own)
    is_lone = weights.name == RUN_FILE and not weights.with_name("encoder.json").exists()
    return _WITHOUT_JSON if is_lone else CheckpointMetadata()


def _from_checkpoint(checkpoint: Path) -> CheckpointMetadata:
    """Return what a checkpoint of a run states about its encoder; nothing for a checkpoint of another tool."""
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        spec = EncoderSpec.from_dict(content)
    # torch raises many errors for files that it can't read; reading the tensors reports them. The others come from
    # checkpoints of other tools.
    except Exception:
        return CheckpointMetadata()
    return _from_spec(spec)


def _from_own(config: _OwnConfig) -> CheckpointMetadata:
    return _from_spec(EncoderSpec(config.architecture, config.preprocessing))


def _own_embedding(architecture: Architecture) -> dict[str, Any]:
    """Return the embedding of weights that gtsa-kit wrote."""
    return {"embedding": architecture.embedding, "embedding_reason": "as exported", "embedding_file": ""}


def _from_spec(spec: EncoderSpec) -> CheckpointMetadata:
    architecture, preprocessing = spec.architecture, spec.preprocessing
    colors = (preprocessing.mean, preprocessing.std) if preprocessing.is_rgb else (None, None)
    mean, std = cast("tuple[ColorStats | None, ColorStats | None]", colors)
    return CheckpointMetadata(
        architecture=architecture,
        is_recorded=True,
        **_own_embedding(architecture),
        heads=architecture.heads,
        norm_eps=architecture.norm_eps,
        activation=architecture.activation,
        size=preprocessing.size,
        own_preprocessing=preprocessing,
        mean=mean,
        std=std,
        interpolation=preprocessing.interpolation,
    )
