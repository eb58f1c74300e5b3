"""Errors at the command line: message and hint, before anything slow is imported."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import urllib3
from helpers.commands import one_thread

from gtsa_kit.cli.support.common import fail, split_hint

RUN_WITHOUT_TORCH = """
import contextlib, io, json, sys
from gtsa_kit.cli import main
missing = ("torch", "lightly", "sklearn", "torchmetrics")
sys.modules.update(dict.fromkeys(missing))  # an import of one of these raises ImportError
results = []
for args in json.load(sys.stdin):
    sys.argv, code, err = ["gtsa", *args], 0, io.StringIO()
    with contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as stopped:
            code = stopped.code
    results.append([code, err.getvalue()])
print(json.dumps(results))
"""


@pytest.mark.parametrize(
    ("message", "arguments", "expected"),
    [
        ("no hint", [], ("no hint", "")),
        ("wrong; do this", [], ("wrong", "do this")),
        ("a changed; b changed; use another", [], ("a changed; b changed", "use another")),
        ("a; b.jpg is empty; copy it again", ["a; b.jpg"], ("a; b.jpg is empty", "copy it again")),
        ("x/a; b does not exist", ["x/a; b"], ("x/a; b does not exist", "")),
        ("ratio 1;2 is wrong", [], ("ratio 1;2 is wrong", "")),
    ],
)
def test_the_hint_follows_the_last_semicolon(
    message: str,
    arguments: list[str],
    expected: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert split_hint(message, arguments) == expected
    monkeypatch.setattr(sys, "argv", ["gtsa", *arguments])
    with pytest.raises(SystemExit, match="2"):
        fail(message, 2)
    error, hint = expected
    assert capsys.readouterr().err == f"gtsa: {error}\n" + (f"  hint: {hint}\n" if hint else "")


def test_wrong_use_is_reported_before_torch_is_imported(tmp_path: Path, images: Path) -> None:
    """torch is blocked, so any check after its import would end in an ImportError."""
    for name in ("empty", "run/checkpoints", "full"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "last").touch()
    (tmp_path / "full" / "thesis.tex").touch()
    (tmp_path / "file").touch()
    source, out = ("--images", str(images)), ("--out", str(tmp_path / "out"))
    random = ("--random", "vit_test")
    train = ("train", str(images))
    probes = [("eval", name, "--images", str(tmp_path / "empty"), *out, *random) for name in ("knn", "pca", "rotation")]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        cases = {
            ("train", str(tmp_path / "empty"), *out): "no images in",
            (*train, "--out", str(tmp_path / "run")): "already holds a run",
            (*train, "--out", str(tmp_path / "full")): "is not empty and holds no run",
            (*train, "--out", str(tmp_path / "file")): "is a file",
            (*train, *out, "--method", "dino"): "hint: pip install 'gtsa-kit[baselines]'",
            ("eval", "knn", *source, *out): "no model given",
            ("eval", "pca", str(tmp_path / "gone"), *source, *out): "gone does not exist",
            ("eval", "pca", *random, *source, "--out", str(tmp_path / "file")): "is a file",
            ("eval", "linear", *random, *source, *out): "hint: pip install 'gtsa-kit[eval]'",
            ("eval", "rotation", *random, *source, *out): "hint: pip install 'gtsa-kit[eval]'",
            ("eval", "segment", *random, *source, *out): "hint: pip install 'gtsa-kit[eval]'",
            probes[0]: "no images in",
            probes[1]: "no images in",
            ("eval", "ablation", str(images), *out): "--labeled",
            ("serve", str(images), "--port", port): f"port {port} is in use\n  hint: choose another with --port",
            ("serve", str(images), "--heads", "4,4"): "--heads",
            ("embed", str(tmp_path / "empty"), "--model", str(images), *out): "no images in",
            ("embed", str(images), "--model", str(images), "--out", str(tmp_path / "full")): "is not empty",
        }
        done = subprocess.run(
            [sys.executable, "-c", RUN_WITHOUT_TORCH],
            input=json.dumps(list(cases)),
            capture_output=True,
            text=True,
            timeout=120,
            env=one_thread(),
        )
    assert done.returncode == 0, done.stderr
    for (args, words), (code, err) in zip(cases.items(), json.loads(done.stdout), strict=True):
        assert code == 2, (args, err)
        assert words in err, args
        if args[:1] == ("serve",) and "--port" in args:
            assert err.startswith(f"loading {images}\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            httpx.ConnectError("refused", request=httpx.Request("GET", "http://h/x")),
            "of http://h/x failed, ConnectError",
        ),
        (httpx.ReadTimeout(""), "the request failed, ReadTimeout: ReadTimeout"),
        (urllib3.exceptions.MaxRetryError(None, "/x", "down"), "MaxRetryError"),
        (ConnectionResetError(104, "Connection reset by peer"), "Connection reset by peer"),
        (ModuleNotFoundError("No module named 's3fs'", name="s3fs"), "hint: pip install s3fs"),
        (PermissionError(13, "Permission denied", "photos"), "gtsa: Permission denied: photos\n"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_of_libraries_become_one_sentence(
    error: Exception, words: str, gtsa_here: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr("gtsa_kit.export.inspect_file.inspect_file", broken)
    done = gtsa_here("info", "x")
    assert done.returncode == (2 if isinstance(error, ImportError) else 1)
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert 1 <= len(done.stderr.splitlines()) <= 2
    with pytest.raises(type(error)):
        gtsa_here("info", "x", "--debug")


def test_unknown_errors_keep_their_traceback(gtsa_here: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gtsa_kit.export.inspect_file.inspect_file", lambda *_: {}["a fault of this project"])
    with pytest.raises(KeyError):
        gtsa_here("info", "x")
