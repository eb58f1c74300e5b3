"""Encoder that a run starts from: random weights, or trained weights with their architecture and preprocessing."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import safetensors.torch
import torch
from torch import Tensor

from gtsa_kit.config import RunConfig
from gtsa_kit.methods import embedding_of, random_spec
from gtsa_kit.models.checkpoint_import import open_weights
from gtsa_kit.models.checkpoint_import.run_files import check_stated_facts
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.encoder_spec import EncoderSpec
from gtsa_kit.models.input_channels import adapt_patch_kernel, require_rgb
from gtsa_kit.models.patch_conversion import BASE_SIDE, to_patch
from gtsa_kit.models.sizes import check_sides, nearest_side
from gtsa_kit.models.weights import build_encoder, weights_digest
from gtsa_kit.training.channels import describe_channels, with_channels

FILE: Final = "initial.safetensors"
"""File of a run folder with the weights of the encoder that the run started from, unless they were random."""
KERNEL: Final = "patch_embed.proj.weight"
VIEW_SIZES: Final = ("global_size", "local_size")
"""Settings of `views` that must be multiples of the patch size."""


@dataclass(frozen=True)
class Start:
    """Encoder that a run starts from."""

    spec: EncoderSpec
    weights: dict[str, Tensor] | None = None
    """Weights by timm's keys; None for random ones."""
    sha256: str = ""
    """Digest of the weights, "" for random ones; see `weights_digest`."""
    notes: tuple[str, ...] = ()
    """Sentences about the weights: what was used, skipped and assumed, and which settings follow from them."""


def open_start(config: RunConfig) -> Start:
    """Open the encoder that a new run starts from.

    Raises:
        ValueError: The weights can't be opened, or are others than those that the settings record; or gtsa-kit wrote
            them, and a fact is given that they state themselves.
    """
    init = config.init
    if not init.weights:
        start = Start(with_channels(random_spec(config), config))
        return start if config.channels.is_rgb else replace(start, notes=(describe_channels(config),))
    if config.method == "gtsa" and init.embedding == "cls":
        raise ValueError("GTSA trains no class token; omit --embedding, or choose --method dino or mocov3")
    path, facts = Path(init.weights), init.model_dump(exclude={"weights", "sha256", "to_patch"})
    facts["embedding"] = init.embedding or embedding_of(config)  # that of the method, whatever the weights are made for
    encoder, notes = open_stated(path, facts)
    start = make_start(path, encoder, notes, init.to_patch, init.sha256, ("--init", "init.sha256"))
    return fit_channels(start, config)


def fit_channels(start: Start, config: RunConfig) -> Start:
    """Return the start with weights for the channels of a run; the digest stays that of the given weights.

    Raises:
        ValueError: The weights are for other channels than those of the run, and not for RGB.
    """
    own, weights = start.spec, dict(start.weights or {})
    if config.channels.is_rgb:
        require_rgb(config.init.weights, own.preprocessing, "a run without --channels reads")
        return start
    spec = with_channels(own, config)
    count, before = spec.architecture.channels, own.architecture.channels
    notes = (*start.notes, describe_channels(config))
    if count != before and not own.preprocessing.is_rgb:
        raise ValueError(
            f"{config.init.weights} takes {before} channels, and the run has {count}; start from weights for RGB, or "
            f"give images of {before} channels"
        )
    if count != before:
        weights[KERNEL] = adapt_patch_kernel(weights[KERNEL], count)
        how = "summed" if count == 1 else "repeated"
        notes = (
            *notes,
            f"the patch kernel of {before} colors was {how} for {count} channel{'s' * (count > 1)}, as timm does",
        )
    return Start(spec, weights, start.sha256, notes)


def open_stated(path: Path, facts: dict[str, Any]) -> tuple[Encoder, tuple[str, ...]]:
    """Open weights with given facts; return the encoder and sentences about what was used, skipped and assumed.

    Raises:
        ValueError: The weights can't be opened; or gtsa-kit wrote them, and a fact is given that they state themselves.
    """
    imported = open_weights(path, **facts)
    is_own = imported.origin == "gtsa-kit"
    if is_own:
        stated = facts.keys() - {"branch", "embedding"}
        check_stated_facts(path, [name for name in facts if name in stated and facts[name] is not None])
    note = imported.run_note if is_own else imported.note
    return imported.encoder, () if not note else (note if note.startswith(str(path)) else f"{path}: {note}",)


def make_start(
    path: Path,
    encoder: Encoder,
    notes: tuple[str, ...],
    patch: int | None,
    recorded: str,
    names: tuple[str, str],
) -> Start:
    """Return the start of a run with the weights of an encoder.

    Args:
        path: File or folder of the weights.
        encoder: The opened encoder.
        notes: Sentences about it.
        patch: Patch size to convert it to, in pixels; None keeps its own.
        recorded: Digest that the settings record, "" for none.
        names: Option that names the weights, and setting that records the digest, for errors.

    Raises:
        ValueError: The weights are others than recorded, or there is no such conversion.
    """
    spec, weights = EncoderSpec.of(encoder), dict(encoder.vit.state_dict())
    if patch is not None:
        spec, weights, note = convert_patches(spec, weights, patch)
        notes = (*notes, note)
    digest = weights_digest(weights)
    if recorded and digest != recorded:
        raise ValueError(
            f"{path} holds other weights than those that the settings record: SHA-256 {digest[:12]}..., recorded "
            f"{recorded[:12]}...; name the weights of that time with {names[0]}, or omit {names[1]}"
        )
    return Start(spec, weights, digest, notes)


def convert_patches(
    spec: EncoderSpec, weights: Mapping[str, Tensor], patch: int
) -> tuple[EncoderSpec, dict[str, Tensor], str]:
    """Convert an encoder to another patch size, as `gtsa convert` does; the third value is a sentence about it.

    Raises:
        ValueError: There is no such conversion.
    """
    before = spec.architecture.patch
    converted, architecture = to_patch(weights, spec.architecture, patch)
    preprocessing = replace(spec.preprocessing, size=BASE_SIDE)  # that of the new grid of positions
    note = (
        f"patches of {before} pixels are converted to {patch}, which changes features; gtsa convert --to-patch {patch} "
        "shows how much"
    )
    return EncoderSpec(architecture, preprocessing), converted, note


def fit_views(config: RunConfig, start: Start, given: Collection[str]) -> tuple[RunConfig, Start]:
    """Set what no one has given: interpolation of the weights, and sizes that are multiples of the patch size.

    Args:
        config: Settings of a new run.
        start: Encoder that it starts from.
        given: Dotted keys of the settings that are no defaults.

    Returns:
        The settings, and the start with a note for each replaced size; the nearest multiple is used.
    """
    patch, notes = start.spec.architecture.patch, []
    changes: dict[str, object] = {}
    if "views.interpolation" not in given:
        changes["interpolation"] = start.spec.preprocessing.interpolation.split(",")[0]
    for name in VIEW_SIZES:
        side = getattr(config.views, name)
        if side % patch and f"views.{name}" not in given:
            changes[name] = nearest_side(side, patch)
            notes.append(f"views.{name} is {changes[name]} instead of {side}, because the patch size is {patch}")
    views = config.views.model_copy(update=changes)
    start = Start(start.spec, start.weights, start.sha256, (*start.notes, *notes))
    return config.model_copy(update={"views": views}), start


def check_start(config: RunConfig, start: Start) -> RunConfig:
    """Check that settings fit the encoder that a run starts from, and return them with its digest.

    Raises:
        ValueError: A size of the views is no multiple of the patch size, or random weights are to be frozen.
    """
    if config.train.freeze_encoder_epochs and not config.init.weights:
        raise ValueError(
            "train.freeze_encoder_epochs would freeze random weights; name trained ones with --init, or set it to 0"
        )
    for name in VIEW_SIZES:
        side = getattr(config.views, name)
        try:
            check_sides(side, side, start.spec.architecture.patch)
        except ValueError as error:
            raise ValueError(f"views.{name}: {str(error).removeprefix('height ')}") from error
    return config.model_copy(update={"init": config.init.model_copy(update={"sha256": start.sha256})})


def initial_encoder(config: RunConfig, run_dir: Path, spec: EncoderSpec) -> Encoder | None:
    """Build the encoder that a run started from; None if its weights are no longer in the run folder.

    Random weights are those of the run's seed; every method draws the encoder first.
    """
    if not config.init.weights:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.train.seed)
            return spec.build().eval()
    file = run_dir / FILE
    if not file.exists():
        return None
    return build_encoder(spec.architecture, safetensors.torch.load_file(file), file, spec.preprocessing)
