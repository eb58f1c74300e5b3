"""Reading the tensors of an untrusted checkpoint file; no code in it is run."""

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

from gtsa_kit.models.checkpoint_import.onnx_tensors import read_onnx_tensors

StateDict = dict[str, Tensor]

MAX_DEPTH: Final = 16
"""Depth of nested mappings that are searched for tensors."""

# Training scripts store options and numpy scalars with the weights; these are ignored.
IGNORED_TYPES: Final = (
    "argparse.Namespace",
    "numpy.dtype",
    "numpy.ndarray",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *(f"numpy.dtypes.{name}DType" for name in ("Bool", "Int32", "Int64", "Float16", "Float32", "Float64")),
)


class _IgnoredObject:
    """Placeholder for every object of a type in `IGNORED_TYPES` in a pickle; the object itself is never built."""

    def __new__(cls, *_: Any) -> "_IgnoredObject":
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass


def read_tensors(path: Path) -> dict[str, StateDict]:
    """Read every mapping of names to tensors in a `.safetensors` or `.onnx` file or one of `torch.save`, on the CPU.

    Returns:
        The mappings by their dotted path in the file; "" is the file itself. Values that are no tensors are dropped.

    Raises:
        ValueError: The file is damaged, has none of these formats, or is a pickle with objects other than tensors.
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
    if path.suffix == ".onnx":
        return {"": read_onnx_tensors(path)}
    state_dicts: dict[str, StateDict] = {}
    _collect(_read_pickle(path), "", MAX_DEPTH, state_dicts, set())
    return state_dicts


def _read_safetensors(path: Path) -> StateDict:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error


def _read_pickle(path: Path) -> Any:
    try:
        with (
            torch.serialization.safe_globals([(_IgnoredObject, name) for name in IGNORED_TYPES]),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # torch warns of old versions of pickle
            return torch.load(path, map_location="cpu", weights_only=True)
    # torch raises all of these for damaged files; it has no error of its own. Its message is dropped, since it
    # advises to load without weights_only, which runs the code in a file.
    except (
        OSError, RuntimeError, pickle.UnpicklingError, EOFError, LookupError, ValueError, TypeError, AttributeError,
        AssertionError, OverflowError, MemoryError, struct.error,
    ) as error:  # fmt: skip
        if "TorchScript" in str(error):
            raise ValueError(
                f"{path} is a TorchScript program, which is code, and none is run; "
                "ask its owner to save the state_dict alone, best as .safetensors"
            ) from error
        imported = re.search(r"GLOBAL ([\w.]+)", str(error))
        if imported:
            raise ValueError(
                f"{path} is a pickle that imports {imported[1]}, and pickles can run code; "
                "ask its owner to save the state_dict alone, best as .safetensors"
            ) from error
        raise ValueError(f"{path} is damaged or not a checkpoint of PyTorch; copy or download it again") from error


def _collect(value: Any, entry: str, depth: int, state_dicts: dict[str, StateDict], seen: set[int]) -> None:
    """Add the tensors of a mapping under `entry`, and those of the mappings nested in it up to `depth`, each once."""
    if not isinstance(value, Mapping) or id(value) in seen:
        return
    seen.add(id(value))  # a mapping may contain itself
    tensors = {str(name): item for name, item in value.items() if isinstance(item, Tensor)}
    if tensors:
        state_dicts[entry] = tensors
    for name, item in value.items() if depth else ():
        _collect(item, f"{entry}.{name}".lstrip("."), depth - 1, state_dicts, seen)
