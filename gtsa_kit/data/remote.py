"""Images behind a URL, read through fsspec."""

import glob
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from gtsa_kit.data.entries import Entry, PerProcess, display_name, has_image_suffix, is_visible_image
from gtsa_kit.data.formats import IMAGE_SUFFIXES
from gtsa_kit.data.image_io import ImageError, check_file_size


class UrlSource:
    """Images below a URL that fsspec opens: `s3://`, `gs://`, `hf://`, `http://`, `memory://` and others."""

    def __init__(self, url: str) -> None:
        """Connect; raise `ValueError` if the URL's protocol needs a package that is not installed."""
        self.url = url
        self._filesystem = PerProcess(partial(_open_url, url))
        try:
            filesystem, self.path = self._filesystem.get()
        except ImportError as error:
            raise ValueError(f"{url} needs another package: {error}") from error
        filesystem.invalidate_cache()

    def entries(self, stamps: bool = False) -> Iterator[Entry]:
        """Yield the images below the URL, or those that match its pattern.

        Names are relative to the part of the URL before the pattern.

        Raises:
            ValueError: There are none.
        """
        root = "/".join(before_pattern(self.path.split("/"))).rstrip("/")
        empty = True
        for path, info in self._files():
            empty = False
            name = path.removeprefix(root).lstrip("/") or path.rsplit("/", 1)[-1]
            yield Entry(display_name(name), path, remote_stamp(info))
        if empty:
            raise ValueError(f"no images at {self.url} (suffixes searched: {' '.join(sorted(IMAGE_SUFFIXES))})")

    def read(self, locator: str) -> bytes:
        """Return the content of an object; raise `ImageError` if it can't be read."""
        filesystem, _ = self._filesystem.get()
        return read_remote(filesystem, locator)

    def _files(self) -> Iterator[tuple[str, dict[str, Any]]]:
        filesystem, _ = self._filesystem.get()
        if glob.has_magic(self.path):
            matches = filesystem.glob(self.path, detail=True)
            yield from ((path, info) for path, info in matches.items() if is_visible_image(path))
        elif has_image_suffix(self.path):
            yield self.path, filesystem.info(self.path)
        else:
            for folder, _, files in filesystem.walk(self.path, detail=True):
                for name, info in files.items():
                    path = info.get("name") or f"{folder}/{name}"
                    if is_visible_image(path):
                        yield path, info


def read_url(url: str) -> bytes:
    """Return the content of the object at a URL.

    Raises:
        ImageError: The object can't be read.
    """
    filesystem, path = _open_url(url)
    return read_remote(filesystem, path)


def read_remote(filesystem: Any, path: str) -> bytes:
    """Return the content of an object of an fsspec file system.

    Raises:
        ImageError: The client raised an error, or the object is larger than `MAX_FILE_BYTES`.
    """
    errors: tuple[type[Exception], ...] = (OSError, ValueError, RuntimeError)
    try:
        import aiohttp

        errors = (*errors, aiohttp.ClientError)
    except ImportError:
        pass
    try:
        check_file_size(int(filesystem.info(path).get("size") or 0), Path(path))
        content: bytes = filesystem.cat_file(path)
    except ImageError:
        raise
    except errors as error:
        raise ImageError(Path(path), f"can't be read: {type(error).__name__}: {error}"[:200]) from error
    check_file_size(len(content), Path(path))
    return content


def remote_stamp(info: dict[str, Any]) -> str:
    """Return the stamp of an object: the properties that change with its content."""
    keys = ("size", "ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "blob_id", "created")
    return " ".join(str(info[key]) for key in keys if info.get(key) is not None)


def before_pattern(parts: Iterable[str]) -> Iterator[str]:
    """Yield the parts of a path up to the first one that is a glob pattern."""
    for part in parts:
        if glob.has_magic(part):
            return
        yield part


def _open_url(url: str) -> tuple[Any, str]:
    """Return the file system and the path in it."""
    import fsspec

    filesystem, path = fsspec.core.url_to_fs(url)
    return filesystem, path
