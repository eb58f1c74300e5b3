"""Memory that a forward pass keeps for the backward pass."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def saved_activation_bytes(model: nn.Module, work: Callable[[], Any]) -> int:
    """Return the bytes that `work` saves for the backward pass: each storage once, the model's parameters excluded."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = work()  # kept alive until the count is done, so that no address is used twice
    del result
    return sum(saved.values())
