"""Products of unit vectors: by torch, also on a GPU, or by numpy where torch is not installed."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


class UnitRows:
    """Unit vectors whose products are float32. `device` is one of torch; None computes with numpy."""

    def __init__(self, unit: np.ndarray, device: "torch.device | None") -> None:
        """Move vectors (n, D), float32, to the device."""
        self.device, self.values = device, _move(unit, device)

    def pairs(self, others: "UnitRows", threshold: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices (i, j) of all rows and rows of `others` whose product is at least `threshold`."""
        above = self.values @ others.values.T >= threshold
        if self.device is None:
            i, j = np.nonzero(above)
        else:
            i, j = (side.cpu().numpy() for side in above.nonzero(as_tuple=True))
        return i, j

    def nearest_others(self, start: int, stop: int, count: int) -> np.ndarray:
        """Return (stop - start, count) indices of the rows with the largest products with rows `start` to `stop`.

        A row is none of its own; the order is not defined. There are more than `count` rows.
        """
        products = self.values[start:stop] @ self.values.T
        own = np.arange(len(products))
        products[own, start + own] = -2
        if self.device is None:
            return np.argpartition(products, -count, axis=1)[:, -count:]
        return np.asarray(products.topk(count, dim=1).indices.cpu().numpy())


def _move(unit: np.ndarray, device: "torch.device | None") -> Any:
    if device is None:
        return unit
    import torch

    return torch.from_numpy(unit).to(device)
