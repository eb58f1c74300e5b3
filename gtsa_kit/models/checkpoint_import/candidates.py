"""The encoders inside a checkpoint: where they lie, whose training wrote them, and which one is meant."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import torch

from gtsa_kit.models.checkpoint_import.key_maps import LAYOUTS, key_map, library, to_timm
from gtsa_kit.models.checkpoint_import.tensor_files import StateDict

Branch = Literal["teacher", "student"]

# Words between the dots of a key, or of the path to a state dict.
TEACHER: Final = frozenset({"teacher", "momentum_encoder", "model_ema", "state_dict_ema"})
STUDENT: Final = frozenset({"student", "base_encoder"})
AUTHORS_HEADS: Final = frozenset({"base_projector", "base_predictor", "momentum_projector", "rot_predictor"})
HEADS: Final = frozenset(
    {"head", "predictor", "head_dist", "pre_logits", "classifier", "pooler", "decoder", "decode_head", "auxiliary_head"}
    | {"projector", "rotation", "criterion"}
    | AUTHORS_HEADS
)
ENOUGH: Final = 0.75
"""Share of a ViT's first block and surroundings that makes it one; a stage of a Swin has two thirds."""


@dataclass(frozen=True)
class Candidate:
    """An encoder in a file."""

    place: str
    """The entry of the file that holds its state dict; "" is the file itself."""
    prefix: str
    """What its keys begin with in that state dict."""
    naming: str
    """One of `LAYOUTS`."""

    @property
    def label(self) -> str:
        """For people: place and prefix, "" for an encoder that is all there is."""
        return f"{self.place}.{self.prefix}".strip(".")

    @property
    def branch(self) -> Branch | None:
        """What the label says; None if nothing."""
        words = set(self.label.split("."))
        return "teacher" if words & TEACHER else "student" if words & STUDENT else None


@dataclass(frozen=True)
class Taken:
    """The weights of one candidate, and everything else that its file holds."""

    weights: StateDict
    """Under timm's keys, float32."""
    heads: tuple[str, ...]
    """Keys of projectors, classifiers and the like."""
    other_branch: tuple[str, ...]
    """Keys of the other candidate, its heads included where it has a state dict of its own."""


def find_candidates(dicts: dict[str, StateDict]) -> list[Candidate]:
    """Every ViT in a file, under whatever entries and prefixes it lies, even if a few of its keys are missing."""
    found = []
    for place, tensors in dicts.items():
        best: dict[str, tuple[float, str]] = {}
        for naming in LAYOUTS:
            keys = key_map(naming, 1)
            names = [name for theirs in keys.values() for name in theirs]
            signs = keys["patch_embed.proj.weight"][0], keys["blocks.0.attn.qkv.weight"][0]
            for prefix in [name.removesuffix(sign) for sign in signs for name in tensors if name.endswith(sign)]:
                share = sum(prefix + name in tensors for name in names) / len(names)
                best[prefix] = max(best.get(prefix, (0.0, "")), (share, naming))
        found += [Candidate(place, prefix, naming) for prefix, (share, naming) in best.items() if share >= ENOUGH]
    return found


def guess_layout(found: list[Candidate], dicts: dict[str, StateDict]) -> str:
    """Whose training wrote a file, by the words around its encoders."""
    first = found[0]
    if first.naming != "timm":
        return library(first.naming)
    if first.prefix.endswith("encoder.vit."):  # a checkpoint of a run of ours
        return "gtsa-kit"
    words = {word for one in found for word in one.label.split(".")}
    if words & {"base_encoder", "momentum_encoder"}:
        names = dicts[first.place]
        around = {word for name in names for word in name.split(".")}
        # Its heads are a predictor, and an MLP where timm has a classifier of one layer.
        moco = "predictor" in around or any(name.endswith(".head.0.weight") for name in names)
        return "mocov3" if moco and not around & AUTHORS_HEADS else "authors"
    return "dino" if words & {"teacher", "student"} else "timm"


def choose(found: list[Candidate], branch: Branch | None, default: Branch, path: Path) -> Candidate:
    """The candidate of the branch that was asked for, the only one, or that of the default.

    Raises:
        ValueError: The branch is not there, or names do not tell the candidates apart.
    """
    if len(found) == 1:
        only = found[0]
        if branch and only.branch != branch:
            raise ValueError(f"{path} holds {only.branch or 'one encoder'} only, no {branch}; leave the branch open")
        return only
    # Beside a teacher (or the average that timm keeps), what has no name is what was trained.
    by_branch = {one.branch or "student": one for one in found}
    if len(by_branch) < len(found):
        labels = shortened(one.label for one in found)
        raise ValueError(f"{path} holds {len(found)} encoders ({labels}); save the one that you mean in a file alone")
    return by_branch[branch or default]


def take(chosen: Candidate, found: list[Candidate], dicts: dict[str, StateDict], qkv_bias: bool, path: Path) -> Taken:
    """Rename the chosen encoder's weights to timm's keys, and account for every other key.

    Args:
        chosen: Of `found`.
        found: All candidates of the file.
        dicts: The file's content.
        qkv_bias: False if queries, keys and values are known to have none.
        path: Of the file, for errors.

    Raises:
        ValueError: Keys are missing, or some are there that have no place in the encoder and are of no known head.
    """
    start = len(chosen.prefix)
    own = {name[start:]: tensor for name, tensor in dicts[chosen.place].items() if name.startswith(chosen.prefix)}
    block = re.escape(key_map(chosen.naming, 1)["blocks.0.norm1.weight"][0].partition("0")[0]) + r"(\d+)\."
    keys = key_map(chosen.naming, len({match[1] for name in own if (match := re.match(block, name))}))
    try:
        weights = {name: tensor.float() for name, tensor in to_timm(own, keys).items()}
    except RuntimeError as error:  # from torch.cat
        raise ValueError(f"{path} holds queries, keys and values of different shapes") from error
    if not qkv_bias:
        for name in [name for name in weights if name.endswith("attn.qkv.weight")]:
            zeros = torch.zeros(len(weights[name]))  # compute the same as none
            weights.setdefault(name.replace("weight", "bias"), zeros)
    missing = [name for ours, theirs in keys.items() if ours not in weights for name in theirs if name not in own]
    used = {chosen.prefix + name for names in keys.values() for name in names}
    heads, other_branch, unknown = _sort_rest(chosen, found, dicts, used)
    if missing or unknown:
        raise ValueError(_misfit(path, [chosen.prefix + name for name in missing], unknown))
    return Taken(weights, tuple(heads), tuple(other_branch))


def shortened(names: Iterable[str], most: int = 10) -> str:
    """The first few of many names, and how many more there are."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _sort_rest(
    chosen: Candidate, found: list[Candidate], dicts: dict[str, StateDict], used: set[str]
) -> tuple[list[str], list[str], list[str]]:
    """Full names of what is not used: of heads, of the other branch, unknown."""
    heads, other_branch, unknown = [], [], []
    for place in {one.place: None for one in found}:  # the rest is an optimizer's and the like
        others = tuple(one.prefix for one in found if one is not chosen and one.place == place)
        for name in dicts[place].keys() - (used if place == chosen.place else set()):
            full = f"{place}.{name}".lstrip(".")
            if place != chosen.place or name.startswith(others):
                other_branch.append(full)
            elif _is_head(name, chosen.prefix):
                heads.append(full)
            else:
                unknown.append(full)
    return heads, other_branch, unknown


def _is_head(name: str, prefix: str) -> bool:
    """Inside the encoder a head is named at once; around it, it may have prefixes of its own."""
    if not name.startswith(prefix):
        return not HEADS.isdisjoint(name.split("."))
    words = name.removeprefix(prefix).split(".")
    return words[0] in HEADS or words[-1] == "mask_token"


def _misfit(path: Path, missing: list[str], unknown: list[str]) -> str:
    if "cls_token" in {name.rpartition(".")[2] for name in missing}:
        return f"{path} is a ViT without a class token; encoders here have one"
    lacks = [f"lacks {len(missing)} of its keys ({shortened(missing)})"] if missing else []
    holds = [f"holds {len(unknown)} that have no place here ({shortened(sorted(unknown))})"] if unknown else []
    hint = "encoders here have a final norm; they have no layer scale, no registers, no second norm"
    return f"{path} {' and '.join(lacks + holds)}; {hint}"
