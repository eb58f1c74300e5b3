"""Import of ViT-S/16 and ViT-B/16 weights of other tools as an `Encoder`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from gtsa_kit.config import PATCH
from gtsa_kit.models.architecture import ARCHITECTURES, BASE_GRID, Architecture
from gtsa_kit.models.checkpoint_import.candidates import (
    ConvertedWeights,
    EncoderCandidate,
    choose,
    convert,
    find_candidates,
    guess_origin,
    shorten_list,
)
from gtsa_kit.models.checkpoint_import.key_maps import KEY_FORMATS, library_of
from gtsa_kit.models.checkpoint_import.metadata import HUB_FILES, RUN_FILE, read_metadata
from gtsa_kit.models.checkpoint_import.sidecar_files import CheckpointMetadata, ColorStats
from gtsa_kit.models.checkpoint_import.tensor_files import StateDict, read_tensors
from gtsa_kit.models.encoder import MEAN, STD, Encoder, Preprocessing
from gtsa_kit.models.run_folder import Branch, RunWeights, find_run_weights, is_run
from gtsa_kit.models.weights import guess_architecture

TRANSFORMERS_COLOR: Final = (0.5, 0.5, 0.5)
"""Mean and standard deviation of a ViT of transformers without a preprocessor_config.json."""
TRANSFORMERS_EPS: Final = 1e-12
"""Epsilon of LayerNorm in a ViT of transformers without a config.json."""
MOCO_HEADS: Final = 12
"""Attention heads of both ViTs of MoCo v3: its ViT-S has twice the number of other ViT-S."""


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
) -> ImportedEncoder:
    """Open a checkpoint of another tool, or of gtsa-kit.

    Args:
        path: A `.safetensors` file, a file of `torch.save` under any name, a folder with config.json and
            model.safetensors or pytorch_model.bin (transformers, timm), or a run folder.
        branch: Branch of a file that holds teacher and student, or of a run, whose student is read from its newest
            checkpoint. Default: the student of MoCo v3, else the teacher.
        heads: Number of attention heads, which weights do not determine. Default: that of a file beside the weights,
            else that of the architecture.
        mean: Mean of red, green and blue in training, 0 to 1. Default: that of a file beside the weights, else 0.5 for
            transformers and ImageNet's for other tools.
        std: Standard deviation of red, green and blue, with the same defaults as `mean`.

    Raises:
        ValueError: The file is damaged, contains code, holds no supported encoder or not that branch, lacks keys, holds
            unknown keys, or an argument is out of range.
    """
    located = _locate(path, branch)
    file, branch = located.file, located.branch
    state_dicts = read_tensors(file)
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
    metadata = replace(
        metadata,
        heads=metadata.heads if heads is None else heads,
        mean=mean or metadata.mean,
        std=std or metadata.std,
    )
    side = _grid_side(converted.weights, file)
    _check_sizes(metadata.sizes, converted.weights, side, file)
    architecture = _architecture(converted.weights, side, metadata, origin, file)
    encoder = _build(architecture, _preprocessing(side, metadata, origin), converted.weights, file)
    note = "; ".join([_summary(chosen, converted), *metadata.remarks]) + _assumptions(architecture, metadata, origin)
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
    names = (RUN_FILE, *HUB_FILES)
    existing = [path / name for name in names if (path / name).exists()]
    if not existing:
        raise ValueError(f"{path} holds no {', '.join(names[:-1])} or {names[-1]}; name the file itself")
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


def _grid_side(weights: StateDict, file: Path) -> int:
    """Return the side of the square grid of position embeddings.

    Raises:
        ValueError: The patch size differs from `PATCH`, or the position embeddings form no square grid.
    """
    patches, positions = (tuple(weights[name].shape) for name in ("patch_embed.proj.weight", "pos_embed"))
    if patches[1:] != (3, PATCH, PATCH):
        raise ValueError(
            f"{file} has a patch kernel of {patches}; gtsa-kit's encoders take 3 colors in patches of {PATCH}"
        )
    side = math.isqrt(max(math.prod(positions[:-1]) - 1, 1))
    if len(positions) != 3 or positions[:2] != (1, 1 + side * side):
        raise ValueError(
            f"{file} has position embeddings of {positions}; they must be (1, 1 + side x side, width), a square grid"
        )
    return side


def _check_sizes(stated: Mapping[str, Any], weights: StateDict, side: int, file: Path) -> None:
    """Raise `ValueError` if a file beside the weights states other sizes than theirs."""
    hidden, width = weights["blocks.0.mlp.fc1.weight"].shape
    depth = sum(name.endswith("norm1.weight") for name in weights)
    patch = weights["patch_embed.proj.weight"].shape[-1]
    actual = {
        **dict.fromkeys(("hidden_size", "embed_dim"), width),
        **dict.fromkeys(("num_hidden_layers", "depth"), depth),
        **dict.fromkeys(("image_size", "img_size"), side * patch),
        **dict.fromkeys(("num_channels", "in_chans"), weights["patch_embed.proj.weight"].shape[1]),
        "patch_size": patch,
        "intermediate_size": hidden,
        "mlp_ratio": hidden / width,
    }
    for name, value in stated.items():
        if value not in (actual[name], [actual[name]] * 2):
            raise ValueError(
                f"config.json beside {file} says {name} is {value}, but the weights have {actual[name]}; "
                "copy both again"
            )


def _architecture(weights: StateDict, side: int, metadata: CheckpointMetadata, origin: str, file: Path) -> Architecture:
    """Return the recorded architecture, or a known one with the heads, grid and LayerNorm epsilon of these weights.

    Raises:
        ValueError: The width or depth is not supported, or the number of heads does not divide the width.
    """
    if metadata.architecture and metadata.heads == metadata.architecture.heads:
        return metadata.architecture
    base = guess_architecture(weights)
    if base is None:
        depth = sum(name.endswith("norm1.weight") for name in weights)
        raise ValueError(
            f"{file} holds {depth} blocks of width {weights['pos_embed'].shape[-1]}; supported are "
            + ", ".join(f"{one.name} ({one.depth} of {one.width})" for one in ARCHITECTURES.values())
        )
    default_heads = MOCO_HEADS if origin == "mocov3" and base.width % MOCO_HEADS == 0 else base.heads
    heads = default_heads if metadata.heads is None else metadata.heads
    if heads < 1 or base.width % heads:
        raise ValueError(f"{heads} heads do not divide the width of {file}, {base.width}; give another number of heads")
    changes: dict[str, Any] = {"num_heads": heads} if heads != base.heads else {}
    changes |= {"img_size": side * PATCH} if side != BASE_GRID else {}
    changes |= {"act_layer": metadata.activation} if metadata.activation != base.activation else {}
    eps = metadata.norm_eps or (TRANSFORMERS_EPS if origin == "hf" else base.norm_eps)
    return replace(base, heads=heads, norm_eps=eps, timm_kwargs={**base.timm_kwargs, **changes})


def _preprocessing(side: int, metadata: CheckpointMetadata, origin: str) -> Preprocessing:
    default_mean, default_std = (TRANSFORMERS_COLOR, TRANSFORMERS_COLOR) if origin == "hf" else (MEAN, STD)
    mean, std = metadata.mean or default_mean, metadata.std or default_std
    # Colors that are not scaled to 0..1 have other means, but only a file says so.
    if not metadata.remarks and not all(0 <= m <= 1 and 0 < s <= 1 for m, s in zip(mean, std, strict=True)):
        raise ValueError(f"mean {mean} and std {std} are not for colors of 0 to 1; divide those for 0 to 255 by 255")
    preprocessing = Preprocessing(size=metadata.size or side * PATCH, mean=mean, std=std)
    return replace(preprocessing, interpolation=metadata.interpolation) if metadata.interpolation else preprocessing


def _build(architecture: Architecture, preprocessing: Preprocessing, weights: StateDict, file: Path) -> Encoder:
    """Build an encoder with these weights.

    Raises:
        ValueError: A tensor has another shape than the architecture.
    """
    encoder = Encoder(architecture, preprocessing=preprocessing).eval()
    shapes = {name: tuple(tensor.shape) for name, tensor in encoder.vit.state_dict().items()}
    wrong = [
        f"{name} {tuple(tensor.shape)}, not {shapes[name]}"
        for name, tensor in weights.items()
        if tuple(tensor.shape) != shapes[name]
    ]
    if wrong:
        raise ValueError(f"{file} does not have the shapes of {architecture.name}: {shorten_list(wrong, 3)}")
    encoder.vit.load_state_dict(weights, strict=True)
    return encoder


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


def _assumptions(architecture: Architecture, metadata: CheckpointMetadata, origin: str) -> str:
    """Describe the values that neither the caller nor a file gave; gtsa-kit's own checkpoints leave none open."""
    color = [name for name, value in (("mean", metadata.mean), ("std", metadata.std)) if value is None]
    assumed = [f"{architecture.heads} heads"] if metadata.heads is None else []
    assumed += [f"LayerNorm eps {TRANSFORMERS_EPS}"] if origin == "hf" and metadata.norm_eps is None else []
    assumed += [f"{' and '.join(color)} {'0.5' if origin == 'hf' else 'of ImageNet'}"] if color else []
    assumed += metadata.assumed
    return f"; assumed: {', '.join(assumed)}" if assumed and origin != "gtsa-kit" else ""
