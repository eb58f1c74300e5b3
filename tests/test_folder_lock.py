"""Lock of a folder that one process writes into, with and without locks on the disk."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gtsa_kit.embedding.folder import check_out
from gtsa_kit.folder_lock import OWNER, folder_lock

HOLD = """
import errno, fcntl, sys
from pathlib import Path
from gtsa_kit.folder_lock import folder_lock

def flock(*_):
    raise OSError(int(sys.argv[2]), "flock")

if int(sys.argv[2]):
    fcntl.flock = flock
with folder_lock(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""
NO_LOCKS = [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL]


def remove_locks(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Make the file system one without locks."""
    fcntl = pytest.importorskip("fcntl", reason="locks of another kind on this system")

    def flock(*_: object) -> None:
        raise OSError(number, "flock")

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.parametrize("number", [0, errno.ENOSYS, errno.ENOLCK])
def test_a_second_process_is_refused_until_the_first_is_killed(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if number:
        remove_locks(monkeypatch, number)
    command = [sys.executable, "-c", HOLD, str(tmp_path), str(number)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with (
            pytest.raises(ValueError, match=r"another process is writing into .*; wait for it") as refused,
            folder_lock(tmp_path),
        ):
            pass
        assert ("delete" in str(refused.value)) == bool(number)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    for _ in range(2):  # the file of the lock stays, and no longer locks
        with folder_lock(tmp_path):
            pass
    check_out(tmp_path, resume=False)  # nor does it count as content of the folder


@pytest.mark.parametrize("number", NO_LOCKS)
def test_without_locks_on_the_disk_the_owner_is_named_in_a_file(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove_locks(monkeypatch, number)
    with folder_lock(tmp_path):
        assert (tmp_path / OWNER).read_text().splitlines()[0] == str(os.getpid())
    assert not (tmp_path / OWNER).exists()


def test_other_errors_of_the_lock_are_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remove_locks(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="flock"), folder_lock(tmp_path):
        pass
