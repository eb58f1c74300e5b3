"""Lock of a dataset folder."""

import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gtsa_kit.embedding.folder import check_out, locked

HOLD = """
import sys
from pathlib import Path
from gtsa_kit.embedding.folder import locked

with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(ValueError, match=r"another process is writing into .*; wait for it"), locked(tmp_path):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    for _ in range(2):  # the file of the lock stays, and no longer locks
        with locked(tmp_path):
            pass
    check_out(tmp_path, resume=False)  # nor does it count as content of the folder


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_refused(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def flock(*_: object) -> None:
        raise OSError(number, "flock")

    monkeypatch.setattr(fcntl, "flock", flock)
    refused = pytest.raises(ValueError, match=r"has no file locks.*; choose a folder on another file system")
    with refused, locked(tmp_path):
        pass
