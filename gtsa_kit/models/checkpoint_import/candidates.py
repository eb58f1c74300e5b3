"""Encoders in a checkpoint: finding them, and choosing one."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gtsa_kit.models.checkpoint_import.key_maps import KEY_FORMATS, key_map, library_of
from gtsa_kit.models.checkpoint_import.tensor_files import StateDict
from gtsa_kit.models.run_folder import Branch

# Words between the dots and underscores of a key, or of the path to a state dict.
TEACHER: Final = frozenset({"teacher", "momentum", "target", "ema", "averaged"})
STUDENT: Final = frozenset({"student", "base", "online", "context"})
QUERY_KEY: Final[dict[str, Branch]] = {"encoder_k": "teacher", "encoder_q": "student"}
"""Names of the branches in the first versions of MoCo."""
AUTHORS_HEADS: Final = frozenset({"base_projector", "base_predictor", "momentum_projector", "rot_predictor"})
"""Heads in checkpoints of the GTSA authors."""
MIN_KEY_FRACTION: Final = 0.75
"""Minimum fraction of the keys of a one-block ViT, without biases of linear layers, that identifies a ViT.

A stage of a Swin has 0.62 of them.
"""
LINEAR_BIASES: Final = ("proj.bias", "qkv.bias", "fc1.bias", "fc2.bias")
"""Endings of timm's keys of biases that some ViTs lack."""


@dataclass(frozen=True)
class EncoderCandidate:
    """Position and key format of one encoder in a checkpoint."""

    entry: str
    """Dotted path to its state dict in the file; "" is the file itself."""
    prefix: str
    """Prefix of its keys in that state dict."""
    key_format: str
    """One of `KEY_FORMATS`."""

    @property
    def label(self) -> str:
        """Entry and prefix, for messages; "" for an encoder that is the whole file."""
        return f"{self.entry}.{self.prefix}".strip(".")

    @property
    def branch(self) -> Branch | None:
        """Branch that the label names, or None."""
        for name in self.label.split("."):
            if name in QUERY_KEY:
                return QUERY_KEY[name]
        words = set(re.split("[._]", self.label))
        return "teacher" if words & TEACHER else "student" if words & STUDENT else None


def find_candidates(state_dicts: dict[str, StateDict]) -> list[EncoderCandidate]:
    """Find every ViT in a file, under any entry and prefix, even if a few of its keys are missing."""
    candidates = []
    for entry, tensors in state_dicts.items():
        best: dict[str, tuple[float, str]] = {}
        for key_format in KEY_FORMATS:
            keys = key_map(key_format, 1)
            names = [name for ours, theirs in keys.items() if not ours.endswith(LINEAR_BIASES) for name in theirs]
            markers = keys["patch_embed.proj.weight"][0], keys["blocks.0.attn.qkv.weight"][0]
            for prefix in [name.removesuffix(mark) for mark in markers for name in tensors if name.endswith(mark)]:
                fraction = sum(prefix + name in tensors for name in names) / len(names)
                best[prefix] = max(best.get(prefix, (0.0, "")), (fraction, key_format))
        candidates += [
            EncoderCandidate(entry, prefix, key_format)
            for prefix, (fraction, key_format) in best.items()
            if fraction >= MIN_KEY_FRACTION
        ]
    return _without_decoders(candidates, state_dicts) or candidates


def _without_decoders(candidates: list[EncoderCandidate], state_dicts: dict[str, StateDict]) -> list[EncoderCandidate]:
    """Return the candidates that take images: the decoder of an MAE has blocks, but embeds no patches."""
    marks = {key_format: key_map(key_format, 1)["patch_embed.proj.weight"][0] for key_format in KEY_FORMATS}
    return [one for one in candidates if one.prefix + marks[one.key_format] in state_dicts[one.entry]]


def guess_origin(candidates: list[EncoderCandidate], state_dicts: dict[str, StateDict]) -> str:
    """Return the tool that wrote a checkpoint, from the words in the keys: see `ImportedEncoder.origin`."""
    first = candidates[0]
    if library_of(first.key_format) != "timm":
        return library_of(first.key_format)
    if first.prefix.endswith("encoder.vit."):  # a checkpoint of a gtsa-kit run
        return "gtsa-kit"
    words = {word for candidate in candidates for word in candidate.label.split(".")}
    if words & {"base_encoder", "momentum_encoder"}:
        names = state_dicts[first.entry]
        key_words = {word for name in names for word in name.split(".")}
        # MoCo v3 has a predictor, and an MLP where timm has a classifier of one layer.
        moco = "predictor" in key_words or any(name.endswith(".head.0.weight") for name in names)
        return "mocov3" if moco and not key_words & AUTHORS_HEADS else "authors"
    return "dino" if words & {"teacher", "student"} else "timm"


def choose(candidates: list[EncoderCandidate], branch: Branch | None, default: Branch, path: Path) -> EncoderCandidate:
    """Return the candidate of the requested branch, the only candidate, or that of the default branch.

    Args:
        candidates: Encoders in the file, at least one.
        branch: Requested branch, or None.
        default: Branch to take if none is requested.
        path: The file, for errors.

    Raises:
        ValueError: The branch is missing, or the candidates' names do not distinguish them.
    """
    if len(candidates) == 1:
        only = candidates[0]
        if branch and only.branch != branch:
            raise ValueError(f"{path} holds {only.branch or 'one encoder'} only, no {branch}; omit --branch")
        return only
    # If the file also holds a teacher (or timm's moving average), the encoder without a name is the trained one.
    requested = branch or default
    fitting = [candidate for candidate in candidates if (candidate.branch or "student") == requested]
    if len(fitting) == 1:
        return fitting[0]
    labels = shorten_list(candidate.label or "the whole file" for candidate in candidates)
    what = f"{len(fitting)} of them may be the {requested}" if fitting else f"none of them is named as the {requested}"
    raise ValueError(
        f"{path} holds {len(candidates)} encoders ({labels}), and {what}; save the one to import in its own file"
    )


def shorten_list(names: Iterable[str], limit: int = 10) -> str:
    """Return the first names of a list, and how many more there are."""
    names = list(names)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
