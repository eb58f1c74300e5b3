"""Validation images of a dataset without a split: whole groups, the last ones in order, or random ones."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import PurePosixPath
from typing import Literal, NamedTuple, get_args

import numpy as np

from gtsa_kit.data.entries import natural_key

SplitKind = Literal["auto", "prefix", "folder", "regex", "order", "random"]
_HINT = "write 0.2, 0.2:prefix, 0.2:folder, 0.2:order, 0.2:random or 0.2:regex=PATTERN"


@dataclass(frozen=True)
class SplitRule:
    """Rule by which images are taken for validation."""

    fraction: float = 0.2
    """Part of the images for validation, above 0 and below 1."""
    by: SplitKind = "auto"
    """`prefix`: whole groups of images of one folder whose names are equal up to their last number, such as the frames
    of a video; `folder`: whole folders; `regex`: whole groups of images in whose names `pattern` matches the same
    text; `order`: the last images in natural order of their names; `random`: random images. `auto` is `prefix`, or
    `order` where that gives one group."""
    pattern: str = ""
    """Regular expression of `regex`; its first group, if it has one, names the group."""
    seed: int = 0
    """Seed of `random`."""

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1:
            raise ValueError(f"the validation part is a fraction between 0 and 1, got {self.fraction:g}; {_HINT}")


class Split(NamedTuple):
    """Validation images, and the rule that chose them."""

    validation: np.ndarray
    """Validation images, (N,) bool."""
    description: str
    """Rule in words, for reports."""


def parse_split_rule(text: str, seed: int = 0) -> SplitRule:
    """Parse `0.2`, `0.2:order`, `0.2:folder`, `0.2:prefix`, `0.2:random` or `0.2:regex=PATTERN`.

    Raises:
        ValueError: It is none of these, or the pattern is no regular expression.
    """
    fraction, _, rest = text.partition(":")
    kind, _, pattern = rest.partition("=")
    by = next((name for name in get_args(SplitKind) if name == (kind or "auto")), None)
    if by is None or (by == "regex") != bool(pattern):
        raise ValueError(f"unknown split {text!r}; {_HINT}")
    try:
        re.compile(pattern)
        return SplitRule(float(fraction), by, pattern, seed)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}; {_HINT}") from error
    except ValueError as error:
        raise ValueError(f"{error}; {_HINT}") from error


def choose_validation(names: Sequence[str], rule: SplitRule, labels: Sequence[object] | None = None) -> Split:
    """Choose the validation images of N images.

    Of groups, whole ones are taken, beginning with the last in natural order, while that brings the number of images
    closer to the fraction. The result does not depend on the order of `names`.

    Args:
        names: Relative paths with `/`.
        rule: How to choose.
        labels: Class of each image, if it has one: the rule then holds inside of each class, unless a group has images
            of several classes. A class of one image has none for validation.

    Raises:
        ValueError: The groups can't be split, or a name does not match the pattern.
    """
    order = sorted(range(len(names)), key=lambda i: natural_key(names[i]))
    groups = None if rule.by in ("order", "random") else group_names(names, rule)
    strata: dict[object, list[int]] = {}
    spanning = labels is not None and groups is not None and len({*zip(groups, labels, strict=True)}) > len({*groups})
    for i in order:
        strata.setdefault(None if labels is None or spanning else labels[i], []).append(i)
    selected = np.zeros(len(names), bool)
    rng = np.random.default_rng(rule.seed)
    used = set()
    for label, members in strata.items():
        count = min(len(members) - 1, max(1, round(rule.fraction * len(members))))
        own = {groups[i] for i in members} if groups else set()
        if rule.by == "random":
            selected[[members[k] for k in rng.permutation(len(members))[:count]]] = True
        elif groups and len(own) > 1:
            selected[_whole_groups(members, groups, rule.fraction)] = True
            used.add("groups")
        elif groups and rule.by != "auto" and len(members) > 1:
            where = f" of class {label}" if label is not None else ""
            raise ValueError(
                f"all {len(members)} images{where} are one group by {rule.by}; take the last ones by "
                f"{rule.fraction:g}:order, or other groups"
            )
        else:
            selected[members[len(members) - count :]] = True
            used.add("order")
    return Split(selected, _describe(selected, groups if "groups" in used else None, rule, used))


def group_names(names: Sequence[str], rule: SplitRule) -> list[str]:
    """Return the group of each image: its folder, its name up to the last number, or what the pattern matches.

    An end that all names share, such as `_leftImg8bit`, is no part of the number.

    Raises:
        ValueError: A name does not match the pattern.
    """
    paths = [PurePosixPath(name) for name in names]
    if rule.by == "folder":
        return [str(path.parent) for path in paths]
    if rule.by == "regex":
        matches = [re.search(rule.pattern, name) for name in names]
        missing = [name for name, match in zip(names, matches, strict=True) if match is None]
        if missing:
            raise ValueError(f"{len(missing)} names do not match {rule.pattern!r}, first {missing[0]}; see --val-split")
        return [str(match[1] if match.re.groups else match[0]) for match in matches if match]
    reversed_names = [path.stem[::-1] for path in paths]
    shared = zip(min(reversed_names), max(reversed_names), strict=False)
    end = len([*takewhile(lambda pair: pair[0] == pair[1], shared)]) if len({*reversed_names}) > 1 else 0
    stems = [path.stem[: len(path.stem) - end] for path in paths]
    numbered = [re.match(r"(.*?)[0-9]+[^0-9]*$", stem, re.DOTALL) for stem in stems]
    prefixes = [match[1] if match else f"{stem}\0" for match, stem in zip(numbered, stems, strict=True)]
    return [f"{path.parent}/{prefix}" for path, prefix in zip(paths, prefixes, strict=True)]


def _whole_groups(members: Sequence[int], groups: Sequence[str], fraction: float) -> list[int]:
    """Return the images of the last groups whose number is close to the fraction; at least one, and not all."""
    by_group: dict[str, list[int]] = {}
    for i in members:  # in natural order
        by_group.setdefault(groups[i], []).append(i)
    target, count = fraction * len(members), 0
    chosen: list[str] = []
    for group in reversed(by_group):
        size = len(by_group[group])
        if abs(count + size - target) < abs(count - target) and len(chosen) < len(by_group) - 1:
            chosen.append(group)
            count += size
    if not chosen:
        chosen = [min(reversed(by_group), key=lambda group: len(by_group[group]))]
    return [i for group in chosen for i in by_group[group]]


def _describe(selected: np.ndarray, groups: Sequence[str] | None, rule: SplitRule, used: set[str]) -> str:
    text = f"{selected.sum()} of {len(selected)} images"
    if rule.by == "random":
        return f"{text}, at random with seed {rule.seed}"
    if groups is None:
        return f"{text}, the last ones in order of their names"
    chosen = {group for group, val in zip(groups, selected, strict=True) if val}
    kind = "folder" if rule.by == "folder" else "pattern" if rule.by == "regex" else "name up to the last number"
    rest = ", and the last ones where there is one group" if "order" in used else ""
    return f"{text}, {len(chosen)} of {len({*groups})} groups by {kind}{rest}"
