"""The tensors of a file that somebody else wrote, without running anything that it says."""

import pickle
import re
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import safetensors
import torch
from torch import Tensor

StateDict = dict[str, Tensor]

DEEPEST: Final = 2
"""Mappings inside mappings that are searched for tensors; an optimizer's states lie deeper."""

# Training scripts store their options and numpy's numbers beside the weights. Nothing here reads them.
IGNORED: Final = (
    "argparse.Namespace",
    "numpy.dtype",
    "numpy.ndarray",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *(f"numpy.dtypes.{name}DType" for name in ("Bool", "Int32", "Int64", "Float16", "Float32", "Float64")),
)


class _Unread:
    """Stands for whatever a pickle builds under a name in `IGNORED`, so that none of it is ever built."""

    def __new__(cls, *_: Any) -> "_Unread":
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass


def read_tensors(path: Path) -> dict[str, StateDict]:
    """Every mapping of names to tensors in a `.safetensors` file or a pickle of torch's, on the CPU.

    Returns:
        The mappings, by the dotted path that leads to them; "" is the file itself. What is no tensor is dropped.

    Raises:
        ValueError: The file is damaged, is neither, or is a pickle that asks for more than tensors.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(9)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    if not start:
        raise ValueError(f"{path} is empty; copy it again")
    if path.suffix == ".safetensors" or start[8:] == b"{":
        return {"": _read_safetensors(path)}
    found: dict[str, StateDict] = {}
    _collect(_read_pickle(path), "", DEEPEST, found)
    return found


def _read_safetensors(path: Path) -> StateDict:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error


def _read_pickle(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals([(_Unread, name) for name in IGNORED]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old versions of pickle
            return torch.load(path, map_location="cpu", weights_only=True)
    # All of these come out of torch when it is given damaged files; it has no error of its own. Its words are not
    # passed on: they advise to load without weights_only, which runs whatever the file says.
    except (
        OSError, RuntimeError, pickle.UnpicklingError, EOFError, LookupError, ValueError, TypeError, AttributeError,
        AssertionError, OverflowError, MemoryError, struct.error,
    ) as error:  # fmt: skip
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        if wanted:
            raise ValueError(
                f"{path} is a pickle that asks for {wanted[1]}, and pickles can run code; "
                "let its owner save the state_dict alone, best as .safetensors"
            ) from error
        raise ValueError(f"{path} is damaged or is no checkpoint of PyTorch; copy or download it again") from error


def _collect(value: Any, place: str, deeper: int, found: dict[str, StateDict]) -> None:
    """Add `value`'s own tensors under `place`, and those of the mappings in it."""
    if not isinstance(value, Mapping):
        return
    tensors = {str(name): item for name, item in value.items() if isinstance(item, Tensor)}
    if tensors:
        found[place] = tensors
    for name, item in value.items() if deeper else ():
        _collect(item, f"{place}.{name}".lstrip("."), deeper - 1, found)
