"""Encoders in a checkpoint: finding them, choosing one, and renaming its weights to timm's keys."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from gtsa_kit.models.checkpoint_import.key_maps import (
    KEY_FORMATS,
    SOME_LACK,
    key_map,
    library_of,
    optional_keys,
    to_timm,
)
from gtsa_kit.models.checkpoint_import.tensor_files import StateDict
from gtsa_kit.models.run_folder import Branch

# Words between the dots and underscores of a key, or of the path to a state dict.
TEACHER: Final = frozenset({"teacher", "momentum", "target", "ema", "averaged"})
STUDENT: Final = frozenset({"student", "base", "online", "context"})
QUERY_KEY: Final[dict[str, Branch]] = {"encoder_k": "teacher", "encoder_q": "student"}
"""Names of the branches in the first versions of MoCo."""
AUTHORS_HEADS: Final = frozenset({"base_projector", "base_predictor", "momentum_projector", "rot_predictor"})
"""Heads in checkpoints of the GTSA authors."""
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
MIN_KEY_FRACTION: Final = 0.75
"""Minimum fraction of the keys of a one-block ViT that identifies a ViT; a stage of a Swin has two thirds of them."""


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


def find_candidates(state_dicts: dict[str, StateDict]) -> list[EncoderCandidate]:
    """Find every ViT in a file, under any entry and prefix, even if a few of its keys are missing."""
    candidates = []
    for entry, tensors in state_dicts.items():
        best: dict[str, tuple[float, str]] = {}
        for key_format in KEY_FORMATS:
            keys = key_map(key_format, 1)
            names = [name for theirs in keys.values() for name in theirs]
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
    if first.key_format != "timm":
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


def shorten_list(names: Iterable[str], limit: int = 10) -> str:
    """Return the first names of a list, and how many more there are."""
    names = list(names)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


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
    return _names_head(words[0]) or words[-1] == "mask_token"


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
