"""Images behind a URL, read through fsspec."""

import glob
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

from gtsa_kit.data.entries import Entry, PerProcess, display_name, has_image_suffix, is_hidden, member_reason
from gtsa_kit.data.formats import IMAGE_SUFFIXES
from gtsa_kit.data.image_io import ImageError, check_file_size
from gtsa_kit.data.retry import describe_remote_error, with_retries


class UrlSource:
    """Images below a URL that fsspec opens: `s3://`, `gs://`, `hf://`, `http://`, `memory://` and others."""

    def __init__(self, url: str) -> None:
        """Connect; raise `ValueError` if the URL can't be opened or its protocol needs a package that is missing."""
        self.url = url
        self._filesystem = PerProcess(partial(_open_url, url))
        try:
            filesystem, self.path = self._filesystem.get()
        except ImportError as error:
            raise ValueError(f"{url} needs another package: {error}") from error
        except Exception as error:  # clients of storage services raise errors of any class
            raise ValueError(f"{url} can't be opened: {describe_remote_error(error)}") from error
        filesystem.invalidate_cache()

    def entries(self, stamps: bool = False) -> Iterator[Entry]:
        """Yield the images below the URL, or those that match its pattern.

        Names are relative to the part of the URL before the pattern.

        Raises:
            ValueError: There are none, or the server does not answer.
        """
        root = "/".join(before_pattern(self.path.split("/"))).rstrip("/")
        empty = True
        for path, info, reason in self._files(root):
            empty = False
            name = path.removeprefix(root).lstrip("/") or path.rsplit("/", 1)[-1]
            yield Entry(display_name(name), path, remote_stamp(info), reason)
        if empty:
            raise ValueError(f"no images at {self.url} (suffixes searched: {' '.join(sorted(IMAGE_SUFFIXES))})")

    def read(self, locator: str) -> bytes:
        """Return the content of an object; raise `ImageError` if it can't be read."""
        filesystem, _ = self._filesystem.get()
        return read_remote(filesystem, locator)

    def _files(self, root: str) -> Iterator[tuple[str, dict[str, Any], str]]:
        """Yield path, properties and reason of the images, and of the folders that can't be listed."""
        filesystem, _ = self._filesystem.get()
        files: Iterable[tuple[str, dict[str, Any], str | None]]
        if glob.has_magic(self.path):
            files = self._matches(filesystem, root)
        elif has_image_suffix(self.path):
            files = [(self.path, self._ask(lambda: filesystem.info(self.path)), "")]
        else:
            files = self._walk(filesystem, self.path, lambda _: True)
        yield from ((path, info, reason) for path, info, reason in files if reason is not None)

    def _matches(self, filesystem: Any, root: str) -> Iterator[tuple[str, dict[str, Any], str | None]]:
        """Yield what matches the pattern; fsspec's own glob omits a folder that can't be listed."""
        from fsspec.utils import glob_translate

        matches = re.compile(glob_translate(self.path)).match
        parts = self.path.removeprefix(root).strip("/").split("/")
        enter = partial(_may_match, parts)
        for path, info, reason in self._walk(filesystem, root, lambda path: enter(path.removeprefix(root))):
            if not info or matches(path):
                yield path, info, reason if not info else member_reason(path)

    def _walk(
        self, filesystem: Any, root: str, enter: Callable[[str], bool]
    ) -> Iterator[tuple[str, dict[str, Any], str | None]]:
        """Yield path, properties and reason (None for no image) of what lies below a folder.

        `enter` decides by the path of a folder. One that can't be listed has a reason and no properties.
        """
        listing, pending = self._ask(lambda: filesystem.ls(root, detail=True)), []
        while True:
            for info in listing:
                path = info["name"]
                if info["type"] != "directory":
                    yield path, info, member_reason(path.removeprefix(root))
                elif path.rstrip("/") != root.rstrip("/") and not is_hidden(path.rstrip("/").rsplit("/", 1)[-1]):
                    pending += [path] if enter(path) else []
            if not pending:
                return
            folder = pending.pop()
            try:
                listing = with_retries(partial(filesystem.ls, folder, detail=True))
            except Exception as error:
                listing = []
                yield folder, {}, f"folder can't be read: {describe_remote_error(error)}"

    def _ask(self, call: Callable[[], Any]) -> Any:
        """Call the server; raise `ValueError` with the reason if there is no answer, and if there is nothing."""
        try:
            return with_retries(call)
        except Exception as error:
            if isinstance(error, FileNotFoundError) and error.__cause__ is None:
                raise ValueError(f"no images at {self.url}: it does not exist") from error
            raise ValueError(
                f"{self.url} can't be listed: {describe_remote_error(error)}; check the address, the server and the "
                "credentials"
            ) from error


def _may_match(pattern: Sequence[str], folder: str) -> bool:
    """Return whether a folder may hold matches of a pattern, both below the part without a pattern."""
    names = folder.strip("/").split("/")
    for part, name in zip(pattern, names, strict=False):
        if "**" in part:
            return True
        if not fnmatchcase(name, part):
            return False
    return len(names) < len(pattern)


def read_url(url: str) -> bytes:
    """Return the content of the object at a URL.

    Raises:
        ImageError: The object can't be read, or the URL's protocol is unknown or needs a package that is missing.
    """
    try:
        filesystem, path = _open_url(url)
    except ImportError as error:
        raise ImageError(Path(url), f"needs another package: {error}") from error
    except Exception as error:  # clients of storage services raise errors of any class
        raise ImageError(Path(url), f"can't be opened: {describe_remote_error(error)}") from error
    return read_remote(filesystem, path)


def read_remote(filesystem: Any, path: str) -> bytes:
    """Return the content of an object of an fsspec file system; passing errors of the network are tried again.

    Raises:
        ImageError: The client raised an error, or the object is larger than `MAX_FILE_BYTES`.
    """

    def read() -> bytes:
        check_file_size(int(filesystem.info(path).get("size") or 0), Path(path))
        content: bytes = filesystem.cat_file(path)
        return content

    try:
        content = with_retries(read)
    except ImageError:
        raise
    except Exception as error:  # clients of storage services raise errors of any class
        raise ImageError(Path(path), f"can't be read: {describe_remote_error(error)}"[:200]) from error
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
