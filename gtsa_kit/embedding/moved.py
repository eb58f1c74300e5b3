"""Inputs of a job at another place: the same names and sizes, and the content of the rows that are written."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gtsa_kit.data.entries import Source
from gtsa_kit.data.image_io import ImageError
from gtsa_kit.data.moved_images import changed_content, describe_differences, same_size, spread_sample
from gtsa_kit.embedding.folder import vector_parts
from gtsa_kit.embedding.input_index import InputIndex, describe_changes


def check_moved(
    before: InputIndex,
    now: InputIndex,
    out: Path,
    source: Source,
    where: str,
    sample: Callable[[], Mapping[str, str]],
) -> None:
    """Check that the images at another place are those of the job in `out`.

    Args:
        before: Inputs of the job.
        now: Inputs at the new place.
        out: Folder of the job.
        source: The opened new place.
        where: Its name, for errors.
        sample: Function that returns the SHA-256 of some images that are done, by name.

    Raises:
        ValueError: An image is missing there, more than there were, of another size, or of another content than that
            of its row, of which some are compared.
    """
    if before.count != now.count:
        raise _other_images(where, describe_changes(before.path, now.path, stamps=False), out)
    missing: list[str] = []
    changed: list[str] = []
    for old, new in zip(before.read(0, before.count), now.read(0, now.count), strict=True):
        if old.name != new.name:
            missing.append(old.name)
        elif not same_size(old, new):
            changed.append(old.name)
    if missing:
        raise _other_images(where, describe_changes(before.path, now.path, stamps=False), out)
    if changed:
        raise _other_images(where, describe_differences((), changed), out)
    digests, repeated = sample(), now.repeated_names()
    compared = ((entry, digests.get(entry.name)) for entry in now.read(0, now.count) if entry.name not in repeated)
    looked_at = [(entry, digest) for entry, digest in compared if digest]
    try:
        other = changed_content(source, looked_at)
    except ImageError as error:
        raise _other_images(where, f"{error.path} can't be read: {error.reason}", out) from error
    if other:
        raise _other_images(where, f"{len(other)} of {len(looked_at)} looked at changed (first {other[0]})", out)


def sample_rows(out: Path) -> dict[str, str]:
    """Return the SHA-256 of some images that are rows of the dataset folder `out`, by name."""
    import pyarrow.parquet as pq  # a part of a second, and few jobs are moved

    parts = vector_parts(out)
    lengths = [pq.read_metadata(part).num_rows for part in parts]
    rows = [(part, index) for part, length in zip(parts, lengths, strict=True) for index in range(length)]
    digests: dict[str, str] = {}
    opened: tuple[Path | None, Any] = None, None
    for part, index in spread_sample(rows):
        if opened[0] != part:
            opened = part, pq.read_table(part, columns=["path", "sha256"])
        digests[opened[1]["path"][index].as_py()] = opened[1]["sha256"][index].as_py()
    return digests


def _other_images(where: str, differences: str, out: Path) -> ValueError:
    return ValueError(
        f"{where} does not hold the images of {out}: {differences}; name the place of the images that the job began "
        "with, or choose another folder"
    )
