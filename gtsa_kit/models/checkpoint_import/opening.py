"""ViT-S/16 and ViT-B/16 weights that others trained, as an `Encoder`: every key used, left out by name, or an error."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from gtsa_kit.config import PATCH
from gtsa_kit.models.checkpoint_import.candidates import (
    Branch,
    Candidate,
    Taken,
    choose,
    find_candidates,
    guess_layout,
    shortened,
    take,
)
from gtsa_kit.models.checkpoint_import.key_maps import LAYOUTS, library
from gtsa_kit.models.checkpoint_import.metadata import HUB_FILES, RUN_FILE, Color, Sidecar, read_sidecar
from gtsa_kit.models.checkpoint_import.tensor_files import StateDict, read_tensors
from gtsa_kit.models.encoder import ARCHITECTURES, BASE_GRID, MEAN, STD, Architecture, Encoder, Preprocessing
from gtsa_kit.models.weights import find_weights, guess_architecture

__all__ = ["Branch", "ForeignEncoder", "open_weights"]

HALF: Final = (0.5, 0.5, 0.5)
"""Mean and deviation of a ViT of transformers that brings no preprocessor_config.json."""
HUB_EPS: Final = 1e-12
"""LayerNorm's in a ViT of transformers that brings no config.json."""
MOCO_HEADS: Final = 12
"""Of both of MoCo v3's: its ViT-S has twice as many as everybody else's."""


@dataclass(frozen=True)
class ForeignEncoder:
    """Weights from elsewhere, ready to run."""

    encoder: Encoder
    """In evaluation mode, float32, on the CPU; its architecture and preprocessing are those of the weights."""
    layout: str
    """gtsa-kit, timm, hf, dino, mocov3, authors, mmseg or mmpretrain."""
    skipped: tuple[str, ...]
    """Keys that are known not to belong to the encoder: heads, and the other branch; sorted."""
    note: str
    """One line for people: what was taken, what was left, what had to be assumed."""
    file: Path
    """The file that held the weights."""


def open_weights(
    path: Path,
    branch: Branch | None = None,
    heads: int | None = None,
    mean: Color | None = None,
    std: Color | None = None,
) -> ForeignEncoder:
    """Open a checkpoint of another framework, or of ours.

    Args:
        path: A `.safetensors` file, a file of `torch.save` under any name, a folder with config.json and
            model.safetensors or pytorch_model.bin (transformers, timm), or a run folder.
        branch: Of a file that holds teacher and student. Default: the student of MoCo v3, else the teacher.
        heads: Attention heads, which weights do not tell. Default: what a file beside them says, else the layout's.
        mean: Of red, green and blue that the weights were trained with, 0 to 1. Default: what a file beside them
            says, else 0.5 for transformers and ImageNet's for all others.
        std: Likewise.

    Raises:
        ValueError: The file is damaged, asks to run code, holds no such encoder or not that branch, lacks keys or
            holds some that have no place here; or an argument is out of range.
    """
    file = _locate(path)
    dicts = read_tensors(file)
    found = find_candidates(dicts)
    if not found:
        raise ValueError(_nothing_known(file, dicts))
    said = read_sidecar(file)
    layout = "gtsa-kit" if said.ours else guess_layout(found, dicts)
    chosen = choose(found, branch, "student" if layout == "mocov3" else "teacher", file)
    taken = take(chosen, found, dicts, said.qkv_bias, file)
    said = replace(said, heads=said.heads if heads is None else heads, mean=mean or said.mean, std=std or said.std)
    side = _grid_side(taken.weights, file)
    architecture = _architecture(taken.weights, side, said, layout, file)
    encoder = _build(architecture, _preprocessing(side, said, layout), taken.weights, file)
    note = _summary(chosen, taken) + _assumed(architecture, said, layout)
    return ForeignEncoder(encoder, layout, tuple(sorted(taken.heads + taken.other_branch)), note, file)


def _locate(path: Path) -> Path:
    """The file with the weights: `path`, or the one in a folder under a name that is known to hold them."""
    if not path.is_dir() or (path / "checkpoints").exists():
        return find_weights(path)
    names = (RUN_FILE, *HUB_FILES)
    there = [path / name for name in names if (path / name).exists()]
    if not there:
        raise ValueError(f"{path} holds no {', '.join(names[:-1])} or {names[-1]}; name the file itself")
    return there[0]


def _nothing_known(file: Path, dicts: dict[str, StateDict]) -> str:
    names = [f"{place}.{name}".lstrip(".") for place, tensors in dicts.items() for name in tensors]
    what = (
        f"its {len(names)} keys begin with {shortened(names, 3)}" if names else "there are no tensors with names in it"
    )
    known = ", ".join(dict.fromkeys(library(layout) for layout in LAYOUTS))
    return f"{file} holds no ViT known here: {what}; known key names are those of {known}"


def _grid_side(weights: StateDict, file: Path) -> int:
    """Side of the grid of positions; `ValueError` for other patches than ours, or no such grid."""
    patches, positions = (tuple(weights[name].shape) for name in ("patch_embed.proj.weight", "pos_embed"))
    if patches[1:] != (3, PATCH, PATCH):
        raise ValueError(f"{file} has a patch kernel of {patches}; encoders here take 3 colors in patches of {PATCH}")
    side = math.isqrt(max(math.prod(positions[:-1]) - 1, 1))
    if len(positions) != 3 or positions[:2] != (1, 1 + side * side):
        raise ValueError(f"{file} has positions of {positions}; (1, 1 + side x side, width) is what fits")
    return side


def _architecture(weights: StateDict, side: int, said: Sidecar, layout: str, file: Path) -> Architecture:
    """One of ours, with the heads, the grid and the eps of these weights.

    Raises:
        ValueError: Another width or depth, or a number of heads that does not divide the width.
    """
    base = guess_architecture(weights)
    if base is None:
        depth = sum(name.endswith("norm1.weight") for name in weights)
        raise ValueError(
            f"{file} holds {depth} blocks of width {weights['pos_embed'].shape[-1]}; supported are "
            + ", ".join(f"{one.name} ({one.depth} of {one.width})" for one in ARCHITECTURES.values())
        )
    usual = MOCO_HEADS if layout == "mocov3" and base.width % MOCO_HEADS == 0 else base.heads
    heads = usual if said.heads is None else said.heads
    if heads < 1 or base.width % heads:
        raise ValueError(f"{heads} heads do not divide the width of {file}, {base.width}; name another number")
    changes = {"num_heads": heads} if heads != base.heads else {}
    changes |= {"img_size": side * PATCH} if side != BASE_GRID else {}
    eps = said.norm_eps or (HUB_EPS if layout == "hf" else base.norm_eps)
    return replace(base, heads=heads, norm_eps=eps, timm_kwargs={**base.timm_kwargs, **changes})


def _preprocessing(side: int, said: Sidecar, layout: str) -> Preprocessing:
    mean, std = said.mean or (HALF if layout == "hf" else MEAN), said.std or (HALF if layout == "hf" else STD)
    if not all(0 <= value <= 1 for value in mean) or not all(0 < value <= 1 for value in std):
        raise ValueError(f"mean {mean} and std {std} are not for colors of 0 to 1; divide those for 0 to 255 by 255")
    ours = Preprocessing(size=said.size or side * PATCH, mean=mean, std=std)
    return replace(ours, interpolation=said.interpolation) if said.interpolation else ours


def _build(architecture: Architecture, preprocessing: Preprocessing, weights: StateDict, file: Path) -> Encoder:
    """An encoder with all of these weights, else `ValueError`: shapes may still differ."""
    encoder = Encoder(architecture, preprocessing=preprocessing).eval()
    shapes = {name: tuple(tensor.shape) for name, tensor in encoder.vit.state_dict().items()}
    wrong = [
        f"{name} {tuple(tensor.shape)}, not {shapes[name]}"
        for name, tensor in weights.items()
        if tuple(tensor.shape) != shapes[name]
    ]
    if wrong:
        raise ValueError(f"{file} does not have the shapes of {architecture.name}: {shortened(wrong, 3)}")
    encoder.vit.load_state_dict(weights, strict=True)
    return encoder


def _summary(chosen: Candidate, taken: Taken) -> str:
    what = chosen.branch or "the only encoder"
    left = [f"{len(taken.heads)} keys of heads"] if taken.heads else []
    left += [f"{len(taken.other_branch)} keys of the other branch"] if taken.other_branch else []
    where = f" ({chosen.label})" if chosen.label else ""
    return f"{what}{where}" + (f"; left out {' and '.join(left)}" if left else "")


def _assumed(architecture: Architecture, said: Sidecar, layout: str) -> str:
    """What neither the caller nor a file said; of our own checkpoints all is known."""
    images = [name for name, value in (("mean", said.mean), ("std", said.std)) if value is None]
    assumed = [f"{architecture.heads} heads"] if said.heads is None else []
    assumed += [f"LayerNorm's eps {HUB_EPS}"] if layout == "hf" and said.norm_eps is None else []
    assumed += [f"{' and '.join(images)} {'0.5' if layout == 'hf' else 'of ImageNet'}"] if images else []
    return f"; assumed: {', '.join(assumed)}" if assumed and layout != "gtsa-kit" else ""
