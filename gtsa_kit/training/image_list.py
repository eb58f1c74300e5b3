"""List of a run's images: images.json, which a resumed run reads, and the same images at another place."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from gtsa_kit.data.archives import ArchivesSource, TarSource, ZipSource
from gtsa_kit.data.entries import Entry, Source, file_stamp, read_entry
from gtsa_kit.data.image_files import ImageList, list_images
from gtsa_kit.data.image_io import ImageError
from gtsa_kit.data.moved_images import changed_content, describe_differences, same_size, spread_sample
from gtsa_kit.data.sources import reopen_source
from gtsa_kit.files import shell_word, write_text

FILE = "images.json"


def save_image_list(run_dir: Path, source: str, images: ImageList) -> None:
    """Write images.json: names, places and sizes of the images, and the digests of some."""
    content = {
        "source": source,
        "archives": archive_stamps(images.source),
        "entries": [[entry.name, entry.locator, entry.stamp] for entry in images.entries],
        "unreadable": [[entry.name, entry.locator, entry.reason] for entry in images.unreadable],
        "sha256": sample_digests(images),
    }
    write_text(run_dir / FILE, json.dumps(content))


def load_image_list(run_dir: Path, source: str, check: bool = True, channels: bool = False) -> ImageList:
    """Read images.json of a run; if the source is another one or a rewritten archive, find the same images there.

    Without `check` the list is returned as it is, also where its images are gone. `channels` is that of `list_images`.

    Raises:
        ValueError: images.json is missing, the source holds other images, or none of them can be read.
    """
    try:
        content = json.loads((run_dir / FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{run_dir / FILE} is missing or damaged, so the order of the images is unknown; restore it, or start a "
            "new run with another --out"
        ) from error
    entries = [Entry(*fields) for fields in content["entries"]]
    unreadable = [Entry(name, locator, reason=reason) for name, locator, reason in content["unreadable"]]
    opened = reopen_source(source)
    if not check:
        return ImageList(opened, entries, unreadable)
    if source == content["source"] and archive_stamps(opened) in ({}, content["archives"]):
        images = ImageList(opened, entries, unreadable)
        _check_some_readable(images, run_dir, source)
        return images
    listed = list_images(source, stamps=True, channels=channels)
    images = ImageList(listed.source, _find_again(entries, listed, source), unreadable)
    _check_content(content["sha256"], images, source)
    save_image_list(run_dir, source, images)
    return images


def archive_stamps(source: Source) -> dict[str, str]:
    """Return path and stamp of a source's archives; {} for a source without archives."""
    paths: list[Any] = list(source.names) if isinstance(source, ArchivesSource) else []
    if isinstance(source, TarSource | ZipSource):
        paths = [source.path]
    return {str(path): file_stamp(Path(path)) for path in paths}


def sample_digests(images: ImageList) -> dict[str, str]:
    """Return SHA-256 by name of some images, spread over the list; images that moved must have the same."""
    digests = {}
    for entry in spread_sample(images.entries):
        try:
            digests[entry.name] = sha256(read_entry(images.source, entry)).hexdigest()
        except ImageError:
            continue
    return digests


def _find_again(entries: list[Entry], listed: ImageList, source: str) -> list[Entry]:
    """Return the entries of a listing that have the names and sizes of the run's, in the run's order."""
    candidates_of: dict[str, list[Entry]] = {}
    for entry in listed.entries:
        candidates_of.setdefault(entry.name, []).append(entry)
    result: list[Entry] = []
    missing: list[str] = []
    changed: list[str] = []
    for entry in entries:
        candidates = candidates_of.get(entry.name, [])
        match = next((other for other in candidates if same_size(entry, other)), None)
        if match is None:
            (changed if candidates else missing).append(entry.name)
        else:
            candidates.remove(match)
            result.append(match)
    if differences := describe_differences(missing, changed):
        raise _other_images(source, differences)
    return result


def _check_content(digests: dict[str, str], images: ImageList, source: str) -> None:
    """Raise `ValueError` if an image whose digest is known has another one now."""
    listed = {entry.name: entry for entry in images.entries}
    try:
        changed = changed_content(images.source, ((listed[name], digest) for name, digest in digests.items()))
    except ImageError as error:
        raise _other_images(source, f"{error.path} can't be read: {error.reason}") from error
    if changed:
        raise _other_images(source, f"{len(changed)} of {len(digests)} looked at changed (first {changed[0]})")


def _check_some_readable(images: ImageList, run_dir: Path, source: str) -> None:
    """Raise `ValueError` if none of some images can be read: the folder moved, or its disk is not there."""
    first = None
    for entry in spread_sample(images.entries):
        try:
            read_entry(images.source, entry)
        except ImageError as error:
            first = first or error
        else:
            return
    raise ValueError(
        f"the images of the run are no longer in {source}: {first}; if they moved, name their new place: "
        f"gtsa train NEW_PLACE --resume --out {shell_word(run_dir)}"
    )


def _other_images(source: str, differences: str) -> ValueError:
    return ValueError(
        f"{source} does not hold the images of the run: {differences}; name the place of the images that the run "
        "began with, or start a new run with another --out"
    )
