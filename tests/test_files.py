"""Whole files or none: after an error, after a kill."""

import errno
import json
import os
import shlex
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.signals import WAIT_SECONDS

from gtsa_kit.files import (
    atomic_write,
    read_json_lines,
    sha256_of,
    shell_word,
    staged,
    write_json,
    write_json_lines,
    write_text,
)


def test_content_appears_at_the_end_of_the_block(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"old")
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["weights"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
@pytest.mark.parametrize("existed", [True, False])
def test_an_error_leaves_the_old_content(tmp_path: Path, error: type[BaseException], existed: bool) -> None:
    path = tmp_path / "weights"
    if existed:
        path.write_bytes(b"old")

    def write_and_fail() -> None:
        with atomic_write(path) as file:
            file.write(b"new" * 100_000)
            raise error

    with pytest.raises(error):
        write_and_fail()
    assert os.listdir(tmp_path) == (["weights"] if existed else [])
    assert not existed or path.read_bytes() == b"old"


def test_an_error_while_syncing_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A full disk may show only here.
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "weights").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_text(tmp_path / "weights", "new")
    assert (tmp_path / "weights").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["weights"]


def test_content_is_on_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A power cut can't be had in a test; the order of calls that survives one can.
    calls = []
    sync, replace = os.fsync, os.replace

    def log_sync(handle: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        sync(handle)

    def log_replace(a: Path, b: Path) -> None:
        calls.append("rename")
        replace(a, b)

    monkeypatch.setattr(os, "fsync", log_sync)
    monkeypatch.setattr(os, "replace", log_replace)
    write_text(tmp_path / "weights", "new")
    assert calls == ["file", "rename", "folder"]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EINVAL, errno.ENOTSUP])
def test_a_disk_that_syncs_no_folders_is_written_to(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(number, "fsync")

    monkeypatch.setattr(os, "fsync", fail)
    write_text(tmp_path / "weights", "new")
    assert (tmp_path / "weights").read_text() == "new"


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_disk_that_fails_is_an_error(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(number, "fsync")

    (tmp_path / "weights").write_text("old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="fsync"):
        write_text(tmp_path / "weights", "new")
    assert (tmp_path / "weights").read_text() == "old"


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "nowhere" / "file", "text")


def test_what_a_kill_left_behind_is_replaced(tmp_path: Path) -> None:
    (tmp_path / ".weights.tmp").write_bytes(b"half of something long")
    with atomic_write(tmp_path / "weights") as file:
        file.write(b"new")
    assert (tmp_path / "weights").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["weights"]


KILLED = """
import sys, time
from pathlib import Path
from gtsa_kit.files import atomic_write
with atomic_write(Path(sys.argv[1])) as file:
    while True:
        file.write(b"new" * 10_000)
        file.flush()
        print("writing", flush=True)
        time.sleep(0.01)
"""


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_a_killed_process_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"old")
    for _ in range(2):  # the second run meets what the first one left
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        with process.stdout:
            for _ in range(5):  # the kill meets a file that grows
                assert process.stdout.readline() == "writing\n"
            process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=WAIT_SECONDS) == -signal.SIGKILL
        assert path.read_bytes() == b"old"
        assert sorted(os.listdir(tmp_path)) == [".weights.tmp", "weights"]  # one, however often
    write_text(path, "new")
    assert os.listdir(tmp_path) == ["weights"]


def test_json_can_be_read_by_people_and_machines(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"name": "Köln", "sizes": [1, 2]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "Köln" in text
    assert json.loads(text) == {"name": "Köln", "sizes": [1, 2]}


ROWS = [{"step": 1, "loss": 0.1}, {"step": 2, "path": "ä\u2028ö.jpg"}, {"step": 3, "loss": None}]


def test_json_lines_come_back(tmp_path: Path) -> None:
    write_json_lines(tmp_path / "rows.jsonl", ROWS)
    assert read_json_lines(tmp_path / "rows.jsonl") == ROWS
    assert read_json_lines(tmp_path / "missing.jsonl") == []
    write_json_lines(tmp_path / "rows.jsonl", [])
    assert read_json_lines(tmp_path / "rows.jsonl") == []


def test_a_torn_last_line_is_dropped_wherever_it_is_torn(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_json_lines(path, ROWS)
    whole = path.read_bytes()
    before_last = whole[:-1].rindex(b"\n") + 1
    for length in range(before_last, len(whole)):
        path.write_bytes(whole[:length])
        # Without its line break alone, the last row is whole and counts.
        assert read_json_lines(path) == (ROWS if length == len(whole) - 1 else ROWS[:2]), length


def test_sha256_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_staged_files_appear_together_and_after_an_error_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.bin"
    with staged(target) as work:
        work.write_text("a")
        work.with_name("a.bin.json").write_text("{}")
        assert not target.exists()
    assert sorted(path.name for path in target.parent.iterdir()) == ["a.bin", "a.bin.json"]

    def interrupted() -> None:
        with staged(target) as work:
            work.write_text("b")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert sorted(path.name for path in target.parent.iterdir()) == ["a.bin", "a.bin.json"]
    assert target.read_text() == "a"


@pytest.mark.parametrize("name", ["runs/a", "my run", "it's", "a;b", "$HOME", "ä"])
def test_a_shell_reads_a_path_in_a_command_as_it_is(name: str) -> None:
    assert shlex.split(f"gtsa export {shell_word(Path(name))}")[2:] == [name]
