"""Sources with damaged, unusual or unreachable parts: each costs its own entry, and nothing is lost in silence."""

import io
import os
import shutil
import socket
import subprocess
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from helpers.image_samples import encoded, scene
from matplotlib.figure import Figure

from gtsa_kit.data import retry
from gtsa_kit.data.entries import read_entry
from gtsa_kit.data.image_files import list_images
from gtsa_kit.data.image_io import ImageError
from gtsa_kit.data.retry import is_transient, with_retries
from gtsa_kit.data.sources import open_source
from gtsa_kit.embedding.input_index import list_inputs, write_input_index
from gtsa_kit.figures import EVALUATION_FIGURES, save_figure
from gtsa_kit.progress import Note
from gtsa_kit.training.pretrain import absolute_source

JPEG = encoded(scene(), "JPEG")


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(JPEG)
    return folder


def outcomes(where: str | Path, tmp_path: Path) -> dict[str, str]:
    """Return the name of each entry with its reason, or "" where its content is read."""
    source = open_source(str(where))
    listing = write_input_index(source, tmp_path / "listing.sqlite")
    result: dict[str, str] = {}
    for entry in listing.read(0, listing.count):
        try:
            assert read_entry(source, entry) == JPEG
            result[entry.name] = ""
        except ImageError as error:
            result[entry.name] = error.reason
    return result


# --- links -----------------------------------------------------------------------------------------------------------


def test_links_upwards_repeat_nothing_in_a_recursive_glob(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", "a.jpg", "x/b.jpg", "x/y/c.jpg", "@eaDir/a.jpg", ".trash/d.jpg")
    for number in range(3):  # three links upwards are 3^40 paths for a glob that follows them all
        (folder / "x" / f"up{number}").symlink_to("..")
    (folder / "x" / "itself").symlink_to("itself")
    expected = dict.fromkeys(("a.jpg", "x/b.jpg", "x/y/c.jpg"), "")
    assert outcomes(folder / "**" / "*.jpg", tmp_path) == expected
    assert outcomes(f"{folder}/**", tmp_path) == expected
    assert outcomes(folder, tmp_path) == expected
    assert outcomes(folder / "**" / "x" / "*.jpg", tmp_path) == {"x/b.jpg": ""}
    assert outcomes(folder / "**" / "y" / "**" / "*.jpg", tmp_path) == {"x/y/c.jpg": ""}


def test_a_glob_finds_what_glob_finds_where_there_are_no_links(tmp_path: Path) -> None:
    import glob

    write(tmp_path, "a.jpg", "b/a.jpg", "b/c/a1.jpg", "b/c/d/a.jpg", "e[1]/a2.jpg", "e[1]/b/c/a.jpg")
    for pattern in (
        "*.jpg",
        "*/*.jpg",
        "**/*.jpg",
        "b/**/*.jpg",
        "**/c/*.jpg",
        "**/b/**/a*.jpg",
        "**/a?.jpg",
        "e[[]1]/**",
    ):
        listed = {entry.locator for entry in open_source(f"{tmp_path}/{pattern}").entries()}
        expected = {name for name in glob.glob(f"{tmp_path}/{pattern}", recursive=True) if name.endswith(".jpg")}
        assert listed == expected, pattern


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(40, "Too many levels")])
def test_a_link_that_cannot_be_followed_costs_its_own_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    folder = write(tmp_path / "in", "a.jpg", "m/b.jpg", "z/c.jpg")
    real_stat, real_scandir = os.stat, os.scandir

    class Locked:
        """Entry of a folder whose type can't be asked for."""

        def __init__(self, item: Any) -> None:
            self.name, self.path, self.is_dir = item.name, item.path, item.is_dir
            if item.name == "m":
                self.is_dir = self.fail

        def fail(self) -> bool:
            raise error

    class Scan:
        def __init__(self, path: Any) -> None:
            self.items = real_scandir(path)

        def __enter__(self) -> Iterator[Any]:
            return map(Locked, self.items)

        def __exit__(self, *_: object) -> None:
            self.items.close()

    def stat(path: Any, *args: Any, **more: Any) -> os.stat_result:
        if str(path).endswith("/m"):
            raise error
        return real_stat(path, *args, **more)

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", Scan)
        patched.setattr(os, "stat", stat)
        entries = {entry.name: entry.reason for entry in open_source(str(folder)).entries()}
    reported = {"m": "folder can't be read: Permission denied"} if isinstance(error, PermissionError) else {}
    assert entries == {"a.jpg": "", "z/c.jpg": "", **reported}


# --- what is left out is said once -----------------------------------------------------------------------------------


def pack(folder: Path, kind: str, tmp_path: Path) -> str:
    """Return a source of the given kind with the files of a folder."""
    names = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]
    if kind == "glob":
        return f"{folder}/**/*"
    if kind == "tar":
        with tarfile.open(tmp_path / "a.tar", "w") as tar:
            for name in names:
                tar.add(folder / name, name)
        return str(tmp_path / "a.tar")
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            for name in names:
                archive.write(folder / name, name)
        return str(tmp_path / "a.zip")
    if kind == "url":
        for name in names:
            fsspec.filesystem("memory").pipe_file(f"/left_out/{name}", (folder / name).read_bytes())
        return "memory://left_out"
    return str(folder)


@pytest.mark.parametrize("kind", ["folder", "glob", "tar", "zip", "url"])
def test_images_of_formats_that_are_not_read_are_counted_and_said_once(kind: str, tmp_path: Path) -> None:
    folder = write(
        tmp_path / "in", "a.jpg", "b.gif", "sub/c.GIF", "d.jp2", "e.txt", "@eaDir/f.gif", ".g.gif", "__MACOSX/h.jpg"
    )
    where = pack(folder, kind, tmp_path)
    for read in (
        lambda: [entry.name for entry in list_images(where).entries],
        lambda: [entry.name for entry in list_inputs(open_source(where))],
        lambda: list(outcomes(where, tmp_path)),
    ):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert read() == ["a.jpg"]
        notes = [str(warning.message) for warning in caught if issubclass(warning.category, Note)]
        assert len(notes) == 1
        assert "3 image files of formats that are not read (2 .gif, 1 .jp2)" in notes[0]


def test_outputs_inside_of_the_source_are_left_out(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", "a.jpg", "runs/one/curves.png", "vectors/map.png", "own/config.yaml", "own/b.jpg")
    for name in ("runs/one/config.yaml", "runs/one/train.log", "vectors/job.json", "vectors/input_index.sqlite"):
        write(folder, name)
    for where in (folder, folder / "**" / "*"):
        with pytest.warns(Note, match=r"left out (runs/one|vectors) and 1 more, written by gtsa-kit"):
            assert outcomes(where, tmp_path) == {"a.jpg": "", "own/b.jpg": ""}
    assert outcomes(folder / "runs" / "one", tmp_path) == {"curves.png": ""}  # named itself, it is read


def test_figures_of_evaluations_inside_of_the_source_are_left_out(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", "a.jpg", "sub/b.jpg", "sub/pca.png")  # a user's image may have this name
    for name in EVALUATION_FIGURES:
        save_figure(Figure(), folder / f"{name}.png")
        save_figure(Figure(), folder / "eval" / f"{name}.svg")
    save_figure(Figure(), folder / "sub" / "knn.png")
    for where in (folder, folder / "*", folder / "**" / "*"):
        left = len(EVALUATION_FIGURES) - (where.name == "*" and where.parent.name != "**")
        with pytest.warns(Note, match=rf"left out .*png and {left} more, written by gtsa-kit"):
            result = outcomes(where, tmp_path)
        assert result == {"a.jpg": ""} | (
            {"sub/b.jpg": "", "sub/pca.png": ""} if left == len(EVALUATION_FIGURES) else {}
        )


@pytest.mark.parametrize("where", ["", " "])
def test_an_empty_source_is_refused(where: str) -> None:
    for read in (open_source, absolute_source):
        with pytest.raises(ValueError, match="empty text; give a folder"):
            read(where)


# --- lists -----------------------------------------------------------------------------------------------------------


def test_a_bad_line_of_a_list_is_one_entry(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg", "z.jpg")
    odd = os.fsdecode(b"caf\xe9.jpg")
    write(tmp_path, odd)
    lines = ["a.jpg", "y" * 300 + ".jpg", "n\0l.jpg", "s9://bucket/x.jpg", "gone.jpg", odd, "a.jpg/b.jpg", "z.jpg"]
    (tmp_path / "list.txt").write_bytes(os.fsencode("\n".join(lines)))
    result = outcomes(tmp_path / "list.txt", tmp_path)
    assert len(result) == len(lines)
    assert [name for name, reason in result.items() if not reason] == ["a.jpg", "caf\\xe9.jpg", "z.jpg"]
    reasons = {name[:6]: reason for name, reason in result.items()}
    assert "too long" in reasons["yyyyyy"]
    assert "null" in reasons["n\0l.jp"]
    assert "Protocol not known" in reasons["s9://b"]


def test_a_missing_package_of_a_url_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(url: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    write(tmp_path, "a.jpg")
    (tmp_path / "list.txt").write_text("a.jpg\ns3://bucket/x.jpg\n")
    result = outcomes(tmp_path / "list.txt", tmp_path)
    assert result == {"a.jpg": "", "s3://bucket/x.jpg": "needs another package: Install s3fs to access S3"}
    with pytest.raises(ValueError, match="s3://bucket needs another package"):
        open_source("s3://bucket")


# --- archives --------------------------------------------------------------------------------------------------------


def test_zip_members_of_one_name(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for content in (b"first", b"second", JPEG):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # zipfile warns of a duplicate
                archive.writestr("a.jpg", content)
        archive.writestr("b.jpg", JPEG)
    source = open_source(str(tmp_path / "a.zip"))
    listing = list_inputs(source)
    reasons = sorted((entry.name, entry.reason) for entry in listing)
    assert reasons == [("a.jpg", ""), *[("a.jpg", "a later member has the same name")] * 2, ("b.jpg", "")]
    assert [read_entry(source, entry) for entry in listing if not entry.reason] == [JPEG, JPEG]


@pytest.mark.parametrize("layout", ["gnu", "posix"])
def test_sparse_members_of_a_tar(tmp_path: Path, layout: str) -> None:
    if shutil.which("tar") is None:
        pytest.skip("no tar program, and tarfile writes no sparse members")
    pixels = np.zeros((200, 400, 3), np.uint8)
    pixels[:40] = pixels[150:155] = 77
    content = encoded(pixels, "BMP")
    (tmp_path / "in").mkdir()
    with open(tmp_path / "in" / "a.bmp", "wb") as file:
        file.truncate(len(content))
        for start in range(0, len(content), 4096):
            if any(content[start : start + 4096]):
                file.seek(start)
                file.write(content[start : start + 4096])
    if os.stat(tmp_path / "in" / "a.bmp").st_blocks * 512 >= len(content):
        pytest.skip("this file system stores no holes")
    write(tmp_path / "in", "b.jpg")
    options = ["--sparse", "--hole-detection=raw", f"--format={layout}"]
    subprocess.run(["tar", *options, "-cf", tmp_path / "a.tar", "-C", tmp_path / "in", "a.bmp", "b.jpg"], check=True)
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert [member.issparse() for member in tar] == [True, False]
    source = open_source(str(tmp_path / "a.tar"))
    assert [read_entry(source, entry) for entry in list_inputs(source)] == [content, JPEG]


def test_links_in_a_tar_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", "a.jpg")
    os.link(folder / "a.jpg", folder / "b.jpg")
    (folder / "c.jpg").symlink_to("a.jpg")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("a.jpg", "b.jpg", "c.jpg"):
            tar.add(folder / name, name)
    assert outcomes(tmp_path / "a.tar", tmp_path) == {
        "a.jpg": "",
        "b.jpg": "a link to a.jpg",
        "c.jpg": "a link to a.jpg",
    }


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_anywhere_in_a_zip_is_one_entry(tmp_path: Path, method: int) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name in ("a.jpg", "b.jpg", "c.jpg"):
            archive.writestr(name, JPEG)
        start = archive.getinfo("b.jpg").header_offset
        end = archive.getinfo("c.jpg").header_offset
    rng = np.random.default_rng(method)
    for _ in range(25):
        data = bytearray(buffer.getvalue())
        for at in rng.integers(start, end, 3):
            data[at] = rng.integers(256)
        (tmp_path / "a.zip").write_bytes(data)
        result = outcomes(tmp_path / "a.zip", tmp_path)
        assert list(result) == ["a.jpg", "b.jpg", "c.jpg"]
        assert result["a.jpg"] == result["c.jpg"] == ""


def test_a_damaged_archive_among_several_is_one_entry(tmp_path: Path) -> None:
    write(tmp_path / "in", "a.jpg")
    with zipfile.ZipFile(tmp_path / "1.zip", "w") as archive:
        archive.write(tmp_path / "in" / "a.jpg", "a.jpg")
    (tmp_path / "2.zip").write_bytes(b"nothing")
    result = outcomes(tmp_path / "*.zip", tmp_path)
    assert result.pop("1.zip/a.jpg") == ""
    assert "not a readable zip" in result.pop("2.zip")
    assert not result


# --- network ---------------------------------------------------------------------------------------------------------


class StatusError(Exception):
    """An error as clients of HTTP raise it, of no common class."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


class FlakyFileSystem(MemoryFileSystem):
    """In-memory file system whose calls fail as `plan` says."""

    protocol = "flaky"
    cachable = False
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    plan: Callable[[str, str], None] = staticmethod(lambda call, path: None)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("flaky://", "memory://"))

    def ls(self, path: str, detail: bool = True, **more: Any) -> Any:
        type(self).plan("ls", path)
        return super().ls(path, detail, **more)

    def find(self, path: str, *args: Any, **more: Any) -> Any:
        type(self).plan("ls", path)
        return super().find(path, *args, **more)

    def cat_file(self, path: str, *args: Any, **more: Any) -> bytes:
        type(self).plan("cat", path)
        return super().cat_file(path, *args, **more)


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> type[FlakyFileSystem]:
    fsspec.register_implementation("flaky", FlakyFileSystem, clobber=True)
    monkeypatch.setattr(FlakyFileSystem, "store", {})
    monkeypatch.setattr(FlakyFileSystem, "pseudo_dirs", [""])
    monkeypatch.setattr(FlakyFileSystem, "plan", FlakyFileSystem.plan)
    monkeypatch.setattr(retry, "RETRY_DELAYS", (0.0, 0.0))
    for name in ("a.jpg", "sub/b.jpg"):
        FlakyFileSystem().pipe_file(f"/data/{name}", JPEG)
    return FlakyFileSystem


def failing(times: int, error: Exception, of: str) -> Callable[[str, str], None]:
    """Return a plan by which the first calls for a path fail."""
    left: dict[tuple[str, str], int] = {}

    def plan(call: str, path: str) -> None:
        key = call, path
        left[key] = left.get(key, times) - 1
        if of in f"{call} {path}" and left[key] >= 0:
            raise error

    return plan


@pytest.mark.parametrize("error", [StatusError(503), ConnectionResetError("reset"), TimeoutError()])
@pytest.mark.parametrize("where", ["flaky://data", "flaky://data/**"])
def test_passing_errors_are_tried_again(
    flaky: type[FlakyFileSystem], tmp_path: Path, error: Exception, where: str
) -> None:
    flaky.plan = staticmethod(failing(2, error, ""))
    assert list(outcomes(where, tmp_path).values()) == ["", ""]


def test_lasting_errors_cost_a_file_or_a_folder(flaky: type[FlakyFileSystem], tmp_path: Path) -> None:
    flaky.plan = staticmethod(failing(99, StatusError(403), "cat /data/a.jpg"))
    assert outcomes("flaky://data", tmp_path) == {"a.jpg": "can't be read: StatusError: status 403", "sub/b.jpg": ""}
    flaky.plan = staticmethod(failing(99, StatusError(503), "ls /data/sub"))
    reasons = {"a.jpg": "", "sub": "folder can't be read: StatusError: status 503"}
    for where in ("flaky://data", "flaky://data/**", "flaky://data/**/*.jpg"):  # fsspec's own glob omits the folder
        flaky.plan = staticmethod(failing(99, StatusError(503), "ls /data/sub"))
        assert outcomes(where, tmp_path) == reasons
    flaky.plan = staticmethod(failing(99, StatusError(503), "ls /data/sub"))
    assert outcomes("flaky://data/*.jpg", tmp_path) == {"a.jpg": ""}  # the folder can't hold a match


@pytest.mark.parametrize("pattern", ["*.jpg", "**", "**/*.jpg", "*/*.jpg", "s*/**/d.*", "sub/?.jpg", "[st]*/*"])
def test_a_glob_behind_a_url_finds_what_fsspec_finds(flaky: type[FlakyFileSystem], pattern: str) -> None:
    for name in ("sub/c.png", "sub/deep/d.jpg", "tub/e.jpg", "tub/f.txt"):
        flaky().pipe_file(f"/data/{name}", JPEG)
    expected = {path for path in flaky().glob(f"/data/{pattern}") if path.endswith((".jpg", ".png"))}
    assert expected
    assert {entry.locator for entry in open_source(f"flaky://data/{pattern}").entries()} == expected


@pytest.mark.parametrize("where", ["flaky://data", "flaky://data/*.jpg", "flaky://data/**/*.jpg"])
@pytest.mark.parametrize("error", [StatusError(503), ConnectionRefusedError(111, "refused"), StatusError(401)])
def test_a_server_that_is_down_is_not_an_empty_source(
    flaky: type[FlakyFileSystem], where: str, error: Exception
) -> None:
    flaky.plan = staticmethod(failing(99, error, "ls"))
    with pytest.raises(ValueError, match=r"can't be listed: .*; check the address"):
        list_images(where)


@pytest.mark.parametrize("pattern", ["", "*.jpg", "a.jpg"])
def test_a_closed_port_is_not_an_empty_source(monkeypatch: pytest.MonkeyPatch, pattern: str) -> None:
    monkeypatch.setattr(retry, "RETRY_DELAYS", (0.0,))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # taken, and not listening
        with pytest.raises(ValueError, match=r"can't be listed: ConnectionRefusedError.*; check the address"):
            list_images(f"http://127.0.0.1:{closed.getsockname()[1]}/photos/{pattern}")


def test_waiting_grows_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(retry.time, "sleep", waited.append)
    calls = []

    def call() -> None:
        calls.append(1)
        raise StatusError(429)

    with pytest.raises(StatusError):
        with_retries(call)
    assert len(calls) == len(waited) + 1 == 3
    assert waited == sorted(waited)
    assert sum(waited) < 10


def test_which_errors_pass() -> None:
    import aiohttp
    import httpx

    hidden = FileNotFoundError("http://x/a.jpg")  # as fsspec reports a failed request
    hidden.__cause__ = aiohttp.ClientConnectionError()
    passing = [hidden, httpx.ConnectError("down"), aiohttp.ServerDisconnectedError(), StatusError(502), TimeoutError()]
    lasting = [FileNotFoundError("x"), PermissionError("x"), StatusError(404), ValueError("x"), aiohttp.InvalidURL("x")]
    assert [is_transient(error) for error in [*passing, *lasting]] == [True] * 5 + [False] * 5
