"""Import of the weights of ViTs of other tools as an `Encoder`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch

from gtsa_kit.models.architecture import Architecture
from gtsa_kit.models.checkpoint_import.architectures import find_architecture
from gtsa_kit.models.checkpoint_import.candidates import (
    EncoderCandidate,
    choose,
    find_candidates,
    guess_origin,
    shorten_list,
)
from gtsa_kit.models.checkpoint_import.conversion import ConvertedWeights, convert, mismatch_message
from gtsa_kit.models.checkpoint_import.embeddings import EmbeddingChoice, choose_embedding
from gtsa_kit.models.checkpoint_import.families import COLORS, TIMM, Family, find_family
from gtsa_kit.models.checkpoint_import.key_maps import KEY_FORMATS, join_chunks, library_of
from gtsa_kit.models.checkpoint_import.layouts import Layout, arrange
from gtsa_kit.models.checkpoint_import.metadata import HUB_FILES, read_metadata
from gtsa_kit.models.checkpoint_import.open_clip_metadata import OPEN_CLIP_FILES
from gtsa_kit.models.checkpoint_import.run_files import RUN_FILE
from gtsa_kit.models.checkpoint_import.shard_index import INDEX
from gtsa_kit.models.checkpoint_import.shards import read_weights
from gtsa_kit.models.checkpoint_import.sidecar_files import CheckpointMetadata, ColorStats
from gtsa_kit.models.checkpoint_import.stated_sizes import check_biases
from gtsa_kit.models.checkpoint_import.tensor_files import StateDict
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.positions import POSITIONS
from gtsa_kit.models.preprocessing import Preprocessing
from gtsa_kit.models.run_folder import Branch, RunWeights, find_run_weights, is_run
from gtsa_kit.models.sizes import nearest_side

TABLE_TOLERANCE: Final = 0.01
"""Maximum difference of stored sines and cosines, which files round to 16 bits, from the computed ones."""


@dataclass(frozen=True)
class ImportedEncoder:
    """Encoder of a checkpoint, and what the import used, skipped and assumed."""

    encoder: Encoder
    """In evaluation mode, float32, on the CPU, with the architecture and preprocessing of the weights."""
    origin: str
    """Tool that wrote the checkpoint: gtsa-kit, timm, hf, dino, mocov3, authors (of the paper), mmseg or mmpretrain."""
    skipped: tuple[str, ...]
    """Keys of heads, of the other branch and of others outside of the encoder, sorted."""
    note: str
    """Summary in one line: weights used, keys skipped, values assumed."""
    file: Path
    """File that the weights were read from."""
    run_note: str = ""
    """Sentence about weights of a run that are not those of its finished teacher; "" for others."""


def open_weights(
    path: Path,
    branch: Branch | None = None,
    heads: int | None = None,
    mean: ColorStats | None = None,
    std: ColorStats | None = None,
    positions: str | None = None,
    embedding: str | None = None,
) -> ImportedEncoder:
    """Open a checkpoint of another tool, or of gtsa-kit.

    Args:
        path: A `.safetensors` file, a file of `torch.save` under any name, a folder with config.json and
            model.safetensors or pytorch_model.bin or their shards (transformers, timm), an index of shards, or a run
            folder.
        branch: Branch of a file that holds teacher and student, or of a run, whose student is read from its newest
            checkpoint. Default: the student of MoCo v3, else the teacher.
        heads: Number of attention heads, which weights do not determine. Default: that of a file beside the weights,
            else that of the architecture.
        mean: Mean of red, green and blue in training, 0 to 1. Default: that of a file beside the weights, else 0.5 for
            transformers and ImageNet's for other tools.
        std: Standard deviation of red, green and blue, with the same defaults as `mean`.
        positions: Way to resample learned positions, key of `models.positions.POSITIONS`. Default: that of the
            code that the weights were made for, as far as their names and the files beside them tell it.
        embedding: Kind of embedding, one of `models.architecture.EMBEDDINGS`. Default: what the code of the weights'
            family returns; see `embeddings`.

    Raises:
        ValueError: The file is damaged, contains code, holds no supported encoder or not that branch, lacks keys, holds
            unknown keys, or an argument is out of range.
    """
    located = _locate(path, branch)
    file, branch = located.file, located.branch
    state_dicts = join_chunks(read_weights(file))
    candidates = find_candidates(state_dicts)
    if not candidates:
        raise ValueError(_no_vit_message(file, state_dicts))
    metadata = read_metadata(file)
    origin = "gtsa-kit" if metadata.is_run else guess_origin(candidates, state_dicts)
    if metadata.is_run and branch:
        _check_own_branch(branch, file)
        branch = None
    chosen = choose(candidates, branch, "student" if origin == "mocov3" else "teacher", file)
    converted = convert(chosen, candidates, state_dicts, metadata.qkv_bias, file)
    family = TIMM if origin == "gtsa-kit" else find_family(chosen.key_format, converted, origin)
    check_biases(metadata.stated_biases, converted.weights, file)
    layout = arrange(converted, chosen.key_format, file)
    metadata = replace(
        metadata,
        heads=metadata.heads if heads is None else heads,
        mean=mean or metadata.mean,
        std=std or metadata.std,
        resampling=POSITIONS[positions] if positions else metadata.resampling,
    )
    architecture = find_architecture(layout, metadata, origin, file, family)
    choice = choose_embedding(architecture, metadata, origin, family, converted, file)
    choice = EmbeddingChoice(embedding) if embedding else choice
    encoder = _build(architecture.with_embedding(choice.kind), layout, metadata, family, converted, file)
    remarks = [_summary(chosen, converted), *metadata.remarks, *([choice.note] if origin != "gtsa-kit" else [])]
    note = "; ".join(remarks) + _assumptions(encoder, metadata, origin, family)
    skipped = converted.skipped
    return ImportedEncoder(encoder, origin, skipped, note, file, located.note)


def _locate(path: Path, branch: Branch | None) -> RunWeights:
    """Find the weights file: `path` itself, that of a run, or the file in a folder that has one of the known names."""
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    if is_run(path):
        return find_run_weights(path, branch)
    if not path.is_dir():
        return RunWeights(path, branch, "")
    names = (RUN_FILE, *HUB_FILES, *OPEN_CLIP_FILES)
    existing = [path / name for name in names if (path / name).exists()]
    if not existing:
        listed = [name for name in names if not name.endswith(INDEX) and name not in OPEN_CLIP_FILES]
        raise ValueError(
            f"{path} holds no {', '.join(listed[:-1])} or {listed[-1]}, nor an index of their shards; "
            "name the file itself"
        )
    return RunWeights(existing[0], branch, "")


def _check_own_branch(branch: Branch, file: Path) -> None:
    """Raise `ValueError` if the student is requested of a file that holds the teacher's encoder alone."""
    if branch == "student":
        raise ValueError(f"{file} holds the teacher's encoder; its student is in the checkpoints, name the run folder")


def _no_vit_message(file: Path, state_dicts: dict[str, StateDict]) -> str:
    names = [f"{entry}.{name}".lstrip(".") for entry, tensors in state_dicts.items() for name in tensors]
    content = f"its {len(names)} keys begin with {shorten_list(names, 3)}" if names else "it contains no named tensors"
    supported = ", ".join(dict.fromkeys(library_of(key_format) for key_format in KEY_FORMATS))
    return f"{file} holds no supported ViT: {content}; supported key names are those of {supported}"


def _preprocessing(native: int, metadata: CheckpointMetadata, family: Family) -> Preprocessing:
    """Return the preprocessing that files beside the weights state, else the family's, at the weights' own size."""
    if metadata.own_preprocessing is not None and not metadata.own_preprocessing.is_rgb:
        return metadata.own_preprocessing
    default_mean, default_std = COLORS[family.colors]
    mean, std = metadata.mean or default_mean, metadata.std or default_std
    # Colors that are not scaled to 0..1 have other means, but only a file says so.
    if not metadata.remarks and not all(0 <= m <= 1 and 0 < s <= 1 for m, s in zip(mean, std, strict=True)):
        raise ValueError(f"mean {mean} and std {std} are not for colors of 0 to 1; divide those for 0 to 255 by 255")
    preprocessing = Preprocessing(size=metadata.size or native, mean=mean, std=std)
    return replace(preprocessing, interpolation=metadata.interpolation) if metadata.interpolation else preprocessing


def _build(
    architecture: Architecture,
    layout: Layout,
    metadata: CheckpointMetadata,
    family: Family,
    converted: ConvertedWeights,
    file: Path,
) -> Encoder:
    """Build an encoder with these weights.

    Raises:
        ValueError: Keys are missing or unknown, or a tensor has another shape than the architecture.
    """
    encoder = Encoder(architecture).eval()
    native = nearest_side(max(encoder.grid) * architecture.patch, architecture.patch)
    encoder.preprocessing = _preprocessing(native, metadata, family)
    shapes = {name: tuple(tensor.shape) for name, tensor in encoder.vit.state_dict().items()}
    weights = layout.weights
    missing, extra = shapes.keys() - weights.keys(), weights.keys() - shapes.keys()
    complete = replace(
        converted, unknown=(*converted.unknown, *(key for name in extra for key in converted.names.get(name, (name,))))
    )
    source = "encoder.json" if metadata.is_run else "config.json"
    stated = f"; the {source} beside it says {dict(architecture.timm_kwargs)}" if metadata.architecture else ""
    if missing or complete.unknown:
        raise ValueError(mismatch_message(file, complete, missing, stated))
    wrong = [
        f"{name} {tuple(tensor.shape)}, not {shapes[name]}"
        for name, tensor in weights.items()
        if tuple(tensor.shape) != shapes[name]
    ]
    if wrong:
        raise ValueError(f"{file} does not have the shapes of {architecture.name}: {shorten_list(wrong, 3)}{stated}")
    encoder.vit.load_state_dict(weights, strict=True)
    _check_tables(encoder, layout.tables, file)
    return encoder


def _check_tables(encoder: Encoder, tables: StateDict, file: Path) -> None:
    """Raise `ValueError` if stored tables of rotary positions differ from those that the encoder computes."""
    if not tables:
        return
    computed = None if encoder.rotary is None else encoder.rotary(*encoder.grid).chunk(2, dim=-1)
    for name, table in tables.items():
        own = None if computed is None else computed[name.endswith("freqs_cos")]
        if own is None or own.shape != table.shape or not torch.allclose(own, table, rtol=0, atol=TABLE_TOLERANCE):
            raise ValueError(
                f"{file} has rotary positions ({name}) that differ from those of EVA02; only these are computed"
            )


def _summary(chosen: EncoderCandidate, converted: ConvertedWeights) -> str:
    """Describe the chosen encoder and the skipped keys."""
    name = chosen.branch or ("student" if converted.other_branch else "the only encoder")
    counted = ((converted.heads, "of heads"), (converted.other_branch, "of the other branch"))
    skipped = [f"{_count(keys)} {owner}" for keys, owner in counted if keys]
    if converted.outside:
        skipped.append(f"{_count(converted.outside)} outside of the encoder ({shorten_list(converted.outside, 3)})")
    label = f" ({chosen.label})" if chosen.label else ""
    return f"{name}{label}" + (f"; skipped {' and '.join(skipped)}" if skipped else "")


def _count(keys: tuple[str, ...]) -> str:
    return f"{len(keys)} key{'' if len(keys) == 1 else 's'}"


def _assumptions(encoder: Encoder, metadata: CheckpointMetadata, origin: str, family: Family) -> str:
    """Describe the values that neither the caller nor a file gave; gtsa-kit's own checkpoints leave none open."""
    architecture = encoder.architecture
    color = [name for name, value in (("mean", metadata.mean), ("std", metadata.std)) if value is None]
    color = color if encoder.preprocessing.is_rgb else []  # others have what the file of a run or an export states
    assumed = [f"{architecture.heads} heads"] if metadata.heads is None else []
    eps, activation = architecture.norm_eps, architecture.activation
    assumed += [f"LayerNorm eps {eps:g}"] if family.norm_eps and metadata.norm_eps is None else []
    assumed += [f"activation {activation}"] if activation != "gelu" and metadata.activation is None else []
    assumed += [f"{' and '.join(color)} {family.colors}"] if color else []
    is_free = metadata.resampling is None and metadata.architecture is None and origin != "hf"
    assumed += [f"positions resampled as by {family.code}"] if is_free and encoder.vit.pos_embed is not None else []
    assumed += metadata.assumed
    return f"; assumed: {', '.join(assumed)}" if assumed and origin != "gtsa-kit" else ""
