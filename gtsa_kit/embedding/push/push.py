"""Pushing a dataset into a store: only rows that are missing there or have changed are written."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib import import_module

from gtsa_kit.embedding.browse.vectors import ImageRow, VectorTable
from gtsa_kit.embedding.push import StoreKind
from gtsa_kit.embedding.push.address import display_address, hide_secrets, secrets_of
from gtsa_kit.embedding.push.rows import read_rows
from gtsa_kit.embedding.push.store import RowBatch, VectorStore, check_model, describe_model, to_text

_CLASSES = {"lancedb": "LanceStore", "qdrant": "QdrantStore", "pgvector": "PgvectorStore", "faiss": "FaissStore"}
_CLIENTS = frozenset(("grpc", "httpx", "lancedb", "psycopg", "qdrant_client"))
"""Libraries whose errors are those of a store."""


@dataclass(frozen=True)
class PushSummary:
    """Result of a push, in rows of the dataset."""

    added: int
    replaced: int
    unchanged: int
    invalid: list[ImageRow]
    """Rows without a direction (zeros, NaN, infinity), which are not pushed."""


def push(
    data: VectorTable,
    to: StoreKind,
    where: str,
    table: str = "images",
    source: str | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> PushSummary:
    """Push the vectors of a dataset, divided by their norms, with the columns that describe the images.

    The store itself tells what it holds, so that a push that was killed is continued by the next one.

    Args:
        data: The dataset; of an incomplete one the committed rows are pushed.
        to: Kind of the store.
        where: Folder, file or URL of the store.
        table: Name of the table or collection; it is created if it does not exist.
        source: Name of the images' source, a part of the ids; by default its location when the images were embedded.
        on_progress: Called with the number of rows that are done, and of all rows.

    Raises:
        ValueError: The table belongs to another model, or was not made by a push.
        RuntimeError: The store failed; secrets of `where` are not part of the message.
    """
    source = source_name(data) if source is None else source
    model, done, added, replaced, invalid = describe_model(data), 0, 0, 0, list[ImageRow]()
    with store_errors(to, where), closing(open_store(to, where, table, to_text(model), data.dim)) as store:
        check_model(store.title, store.kept_model, model)
        for batch, without_direction in read_rows(data, source):
            new, changed = _write_changed(store, batch)
            added, replaced = added + new, replaced + changed
            invalid += without_direction
            done += len(batch.records) + len(without_direction)
            on_progress(done, len(data))
        store.finish(added + replaced > 0)
    return PushSummary(added, replaced, done - len(invalid) - added - replaced, invalid)


def _write_changed(store: VectorStore, batch: RowBatch) -> tuple[int, int]:
    """Write the rows that a store does not hold as they are; return the numbers of new and of replaced rows."""
    hashes = store.row_hashes(batch.ids) if batch.ids else {}
    ids = enumerate(batch.ids)
    changed = [position for position, one in ids if hashes.get(one) != batch.records[position]["row_hash"]]
    if changed:
        store.write(batch.take(changed))
    replaced = sum(batch.ids[position] in hashes for position in changed)
    return len(changed) - replaced, replaced


def source_name(data: VectorTable) -> str:
    """Return the location of the images when they were embedded, without secrets.

    Raises:
        ValueError: job.json does not record it.
    """
    if not data.sources:
        raise ValueError(f"{data.folder} does not record where its images came from; name them with --source")
    return display_address(data.sources[0])


def open_store(to: StoreKind, where: str, table: str, model: str, dim: int) -> VectorStore:
    """Open the table at an address, or create it for vectors of length `dim` of a model, see `store.to_text`."""
    module = import_module(f"gtsa_kit.embedding.push.{to}_store")
    store: VectorStore = getattr(module, _CLASSES[to])(where, table, model, dim)
    return store


@contextmanager
def store_errors(to: StoreKind, where: str) -> Iterator[None]:
    """Raise errors of a store's client as `RuntimeError`, and keep the secrets of `where` out of every message."""
    try:
        yield
    except Exception as error:
        of_client = not _CLIENTS.isdisjoint(kind.__module__.partition(".")[0] for kind in type(error).__mro__)
        text = hide_secrets(str(error), where)
        if not of_client and text == str(error):
            raise
        if not of_client and isinstance(error, ValueError):
            raise ValueError(text) from None
        lines = " ".join(text.split()) or type(error).__name__
        # The chain of errors, which --debug prints, would hold the message as it was.
        raise RuntimeError(f"{to}: {lines}; what was written stays: run the command again to continue") from (
            None if secrets_of(where) else error
        )
