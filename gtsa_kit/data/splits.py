"""Names of splits: the folders `train/` and `val/` of a dataset under all the names that people give them."""

from collections.abc import Iterable
from dataclasses import dataclass

SPLITS = ("train", "val")

_TRAIN = ("train", "training")
_VAL = ("val", "valid", "validation")
_TEST = ("test", "testing")


@dataclass(frozen=True)
class SplitNames:
    """Names, as a dataset writes them, of its training part, its validation part, and parts that are not used."""

    train: str
    val: str
    others: tuple[str, ...] = ()

    def of(self, name: str) -> str | None:
        """Return "train", "val", or None for a part that is not used."""
        return "train" if name == self.train else "val" if name == self.val else None


def is_split_name(name: str) -> bool:
    """Return whether a name is that of a split, in any case."""
    return name.casefold() in (*_TRAIN, *_VAL, *_TEST)


def find_splits(names: Iterable[str], where: str) -> SplitNames | None:
    """Return which of these names are the splits; None if there is no split.

    A test split is the validation part where there is no other; beside one it is not used.

    Args:
        names: Names of folders, or of the column `split`, in any case.
        where: Name of the dataset in errors.

    Raises:
        ValueError: Only some splits are there, or one is there twice, so that the user must decide.
    """
    names = sorted(set(names))
    train, val, test = (_named(names, kind, where) for kind in (_TRAIN, _VAL, _TEST))
    if train is None and val is None and test is None:
        return None
    if train is None or (val is None and test is None):
        there = ", ".join(name for name in (train, val, test) if name)
        missing = "training part (train)" if train is None else "validation part (val, valid, validation or test)"
        raise ValueError(
            f"{where} holds {there}, the name of a split, and no {missing}; rename it if it is a class, give the "
            "other split, or give a folder inside of it"
        )
    used = val or test
    assert used is not None
    return SplitNames(train, used, tuple(name for name in names if name not in (train, used)))


def _named(names: Iterable[str], kind: tuple[str, ...], where: str) -> str | None:
    """Return the one of `names` that is a split of this kind, or None."""
    matches = [name for name in names if name.casefold() in kind]
    if len(matches) > 1:
        raise ValueError(
            f"{where} holds {' and '.join(matches)}, which both name the {kind[0]} split; keep one of them"
        )
    return matches[0] if matches else None
