"""Stand-in for Ray that runs what an actor runs in this process; task and blocks are pickled as for another machine."""

import pickle
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np


class InlineDataset:
    """Rows of a dataset, and the actor that they go through."""

    def __init__(self, rows: list[dict[str, Any]], order: list[int] | None) -> None:
        self.rows, self.order = rows, order

    def map_batches(self, actor: Callable[..., Any], fn_constructor_args: tuple[object, ...], **_: object) -> Any:
        """Return the dataset of the actor's results."""
        self.actor, self.arguments = actor, pickle.dumps(fn_constructor_args)
        return self

    def iter_rows(self) -> Iterator[dict[str, Any]]:
        """Open the actor and yield its results, in the order that was asked for."""
        actor = self.actor(*pickle.loads(self.arguments))
        for index in self.order or range(len(self.rows)):
            batch = {key: np.array([value], dtype=object) for key, value in self.rows[index].items()}
            yield {key: values[0] for key, values in actor(batch).items()}


def inline_ray(order: list[int] | None = None) -> Any:
    """Return an object that stands for the module `ray`.

    Args:
        order: Order in which the blocks return; by default their own.
    """
    data = SimpleNamespace(
        from_items=lambda rows, **_: InlineDataset(rows, order),
        ActorPoolStrategy=lambda **_: None,
        DataContext=SimpleNamespace(get_current=lambda: SimpleNamespace(execution_options=SimpleNamespace())),
    )
    return SimpleNamespace(data=data, cluster_resources=dict, is_initialized=lambda: True)
