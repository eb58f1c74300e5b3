"""Ensemble of an encoder and heads for NVIDIA Triton: the encoder runs once for an image, and each head on its maps."""

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

from gtsa_kit.export.manifest import Manifest
from gtsa_kit.export.runtime.head_runner import HeadRunner
from gtsa_kit.export.spec import EMBEDDING, LOGITS, InputType
from gtsa_kit.export.triton.config import ServingOptions, max_batch_size
from gtsa_kit.export.triton.ensemble_config import Step, ensemble_config, head_config
from gtsa_kit.export.triton.models import (
    needs_preprocessing,
    open_artifact,
    preprocess_manifest,
    repository_models,
)
from gtsa_kit.export.triton.repository import RepositoryModel
from gtsa_kit.models.preprocessing import Preprocessing


@dataclass(frozen=True)
class ServedHead:
    """Exported head that passed its parity gate."""

    name: str
    file: Path
    manifest: Manifest


def open_served_head(name: str, path: Path, encoder: Manifest) -> ServedHead:
    """Open the file of a head that runs on the outputs of an encoder.

    Raises:
        ValueError: It is no head, failed its gate, or was trained on another encoder or other maps.
    """
    try:
        manifest, runner = open_artifact(path), HeadRunner(path)
        runner.check_encoder(encoder)
        own, theirs = (Preprocessing.from_dict(one.preprocessing) for one in (manifest, encoder))
        if (own.mean, own.std, own.samples) != (theirs.mean, theirs.std, theirs.samples):
            raise ValueError("it was trained on images of another normalization; train it again")
    except ValueError as error:
        raise ValueError(f"--head {name}: {error}") from error
    return ServedHead(name, path, manifest)


def ensemble_names(serving: ServingOptions, heads: Sequence[str], preprocesses: bool) -> list[str]:
    """Return the names of all models of an ensemble, its own last.

    Raises:
        ValueError: Two of them are equal.
    """
    encoder = f"{serving.name}_encoder"
    parts = [f"{encoder}_preprocess", f"{encoder}_floats", encoder] if preprocesses else [encoder]
    names = [*parts, *(f"{serving.name}_{head}" for head in heads), serving.name]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two models of the ensemble would be named {repeated[0]}; choose another name for the head")
    return names


def ensemble_models(
    artifact: Path, manifest: Manifest, serving: ServingOptions, input_type: InputType, heads: Sequence[ServedHead]
) -> list[RepositoryModel]:
    """Return the models of the repository: preprocessing if needed, encoder, heads, and last the ensemble of all.

    Args:
        artifact: File of the encoder.
        manifest: Its manifest.
        serving: Settings; their name is that of the ensemble.
        input_type: Images that clients send, see `ExportOptions.input`.
        heads: Heads that run on the encoder's outputs.

    Raises:
        ValueError: The encoder can't be served with the settings, or two models would have one name.
    """
    ensemble_names(serving, [head.name for head in heads], needs_preprocessing(artifact, manifest, input_type))
    own = replace(serving, name=f"{serving.name}_encoder")
    parts = [model for model in repository_models(artifact, manifest, own, input_type) if not _is_ensemble(model)]
    max_batch = max_batch_size(manifest.range_of("batch"), serving.max_batch)
    models = [
        RepositoryModel(
            head_config(head.manifest, manifest, serving, f"{serving.name}_{head.name}"), head.manifest, head.file
        )
        for head in heads
    ]
    images = preprocess_manifest(manifest, input_type).inputs[0] if len(parts) == 2 else manifest.inputs[0]
    outputs = [spec for spec in manifest.outputs if spec.name == EMBEDDING]
    outputs += [head.manifest.outputs[0].model_copy(update={"name": f"{head.name}_{LOGITS}"}) for head in heads]
    used = {EMBEDDING, *(spec.name for head in heads for spec in head.manifest.inputs)}
    steps = [*_encoder_steps(parts, manifest, used), *_head_steps(models, heads)]
    return [*parts, *models, RepositoryModel(ensemble_config(serving.name, max_batch, images, outputs, steps))]


def _is_ensemble(model: RepositoryModel) -> bool:
    return bool(model.config["platform"] == "ensemble")


def _encoder_steps(parts: Sequence[RepositoryModel], manifest: Manifest, used: Set[str]) -> Iterator[Step]:
    """Yield the steps from images to the outputs of the encoder that are used, which keep their names."""
    images = manifest.inputs[0].name
    for model in parts[:-1]:
        output = str(model.config["output"][0]["name"])
        yield model.name, {str(model.config["input"][0]["name"]): images}, {output: output}
        images = output
    outputs = {spec.name: spec.name for spec in manifest.outputs if spec.name in used}
    yield parts[-1].name, {manifest.inputs[0].name: images}, outputs


def _head_steps(models: Sequence[RepositoryModel], heads: Sequence[ServedHead]) -> Iterator[Step]:
    for model, head in zip(models, heads, strict=True):
        inputs = {spec.name: spec.name for spec in head.manifest.inputs}
        yield model.name, inputs, {head.manifest.outputs[0].name: f"{head.name}_{LOGITS}"}
