"""Renaming of the weights of an encoder to timm's keys, with an account of every other key of its file."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from gtsa_kit.models.checkpoint_import.candidates import EncoderCandidate, shorten_list
from gtsa_kit.models.checkpoint_import.key_maps import key_map, optional_keys, to_timm
from gtsa_kit.models.checkpoint_import.key_templates import SOME_LACK
from gtsa_kit.models.checkpoint_import.tensor_files import StateDict

HEADS: Final = frozenset(
    {
        "head",
        "heads",
        "head_dist",
        "pre_logits",
        "classifier",
        "pooler",
        "attn_pool",
        "fc",
        "linear",
        "neck",
        "criterion",
        "loss",
    }
)
"""Words before the first dot of the keys of heads inside an encoder's prefix."""
HEAD_NAMES: Final = re.compile(r"(.*_)?(head|projector|predictor|prototypes)|decoder(_.*)?|mask_token|projection_head")
"""Further names of heads."""


@dataclass(frozen=True)
class ConvertedWeights:
    """Weights of one candidate under timm's keys, and the other keys of its file."""

    weights: StateDict
    """Float32 tensors by timm's keys."""
    names: Mapping[str, tuple[str, ...]]
    """Keys in the file, by timm's."""
    heads: tuple[str, ...]
    """Keys of projectors, classifiers and other heads."""
    other_branch: tuple[str, ...]
    """Keys of the other candidates, with their heads if they are in a state dict of their own."""
    outside: tuple[str, ...]
    """Other keys outside of the encoder, such as those of losses and metrics."""
    unknown: tuple[str, ...]
    """Other keys inside of the encoder."""

    @property
    def skipped(self) -> tuple[str, ...]:
        """All keys that are not used, sorted."""
        return tuple(sorted(self.heads + self.other_branch + self.outside))


def convert(
    chosen: EncoderCandidate,
    candidates: list[EncoderCandidate],
    state_dicts: dict[str, StateDict],
    qkv_bias: bool,
    path: Path,
) -> ConvertedWeights:
    """Rename the chosen encoder's weights to timm's keys, and account for every other key.

    Args:
        chosen: One of `candidates`.
        candidates: All candidates of the file.
        state_dicts: The file's content.
        qkv_bias: False if queries, keys and values are known to have no bias.
        path: The file, for errors.

    Raises:
        ValueError: Keys that every ViT has are missing.
    """
    start = len(chosen.prefix)
    own = {name[start:]: tensor for name, tensor in state_dicts[chosen.entry].items() if name.startswith(chosen.prefix)}
    depth = _count_blocks(own, chosen.key_format)
    keys = key_map(chosen.key_format, depth)
    for ours, theirs in optional_keys(chosen.key_format, depth):
        if all(name in own for name in theirs) and not all(name in own for name in keys.get(ours, ("",))):
            keys[ours] = theirs
    try:
        weights = {name: tensor.float() for name, tensor in to_timm(own, keys).items()}
    except RuntimeError as error:  # raised by torch.cat
        raise ValueError(f"{path} holds queries, keys and values of different shapes") from error
    if not qkv_bias:
        _add_zero_biases(weights)
    used = {chosen.prefix + name for names in keys.values() for name in names}
    unused = _sort_unused_keys(chosen, candidates, state_dicts, used)
    names = {ours: tuple(chosen.prefix + name for name in theirs) for ours, theirs in keys.items()}
    converted = ConvertedWeights(weights, names, **{owner: tuple(sorted(keys)) for owner, keys in unused.items()})
    if missing := {ours for ours in keys if not ours.endswith(SOME_LACK)} - weights.keys():
        raise ValueError(mismatch_message(path, converted, missing))
    return converted


def _count_blocks(weights: StateDict, key_format: str) -> int:
    first = key_map(key_format, 1)["blocks.0.norm1.weight"][0]
    pattern = re.escape(first.partition("0")[0]) + r"(\d+)\."
    return len({match[1] for name in weights if (match := re.match(pattern, name))})


def _add_zero_biases(weights: StateDict) -> None:
    """Add biases of zero, which give the same output as no bias."""
    for name in [name for name in weights if name.endswith("attn.qkv.weight")]:
        weights.setdefault(name.replace("weight", "bias"), torch.zeros(len(weights[name])))


def _sort_unused_keys(
    chosen: EncoderCandidate, candidates: list[EncoderCandidate], state_dicts: dict[str, StateDict], used: set[str]
) -> dict[str, list[str]]:
    """Return the full names of unused keys: of heads, of the other branch, others outside of the encoder, unknown."""
    unused: dict[str, list[str]] = {"heads": [], "other_branch": [], "outside": [], "unknown": []}
    # Other entries, such as an optimizer's, are ignored.
    for entry in {candidate.entry: None for candidate in candidates}:
        others = tuple(c.prefix for c in candidates if c is not chosen and c.entry == entry)
        for name in state_dicts[entry].keys() - (used if entry == chosen.entry else set()):
            full = f"{entry}.{name}".lstrip(".")
            if entry != chosen.entry or name.startswith(others):
                unused["other_branch"].append(full)
            elif _is_head(name, chosen.prefix):
                unused["heads"].append(full)
            else:
                unused["unknown" if name.startswith(chosen.prefix) else "outside"].append(full)
    return unused


def _is_head(name: str, prefix: str) -> bool:
    """Return whether a key belongs to a head.

    Inside the encoder a head's name comes first; outside the encoder it may follow a prefix.
    """
    if not name.startswith(prefix):
        return any(_names_head(word) for word in name.split("."))
    words = name.removeprefix(prefix).split(".")
    return _names_head(words[0]) or words[-1] == "mask_token" or words == ["proj"]


def _names_head(word: str) -> bool:
    return word in HEADS or HEAD_NAMES.fullmatch(word) is not None


def mismatch_message(path: Path, converted: ConvertedWeights, missing: Collection[str], stated: str = "") -> str:
    """Return the error for weights that lack keys of timm, or that hold keys which the encoder does not have.

    Args:
        path: The file.
        converted: Its weights.
        missing: Keys of timm.
        stated: What a file beside the weights says of the encoder.
    """
    names = [name for ours in missing for name in converted.names.get(ours, (ours,))]
    lacks = [f"lacks {len(names)} of the encoder's keys ({shorten_list(sorted(names))})"] if names else []
    unknown = converted.unknown
    holds = (
        [f"holds {len(unknown)} unknown {'key' if len(unknown) == 1 else 'keys'} ({shorten_list(unknown)})"]
        if unknown
        else []
    )
    return f"{path} {' and '.join(lacks + holds)}{stated}; docs/checkpoints.md lists the encoders that are taken"
