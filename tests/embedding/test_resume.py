"""Jobs that are killed, run out of space or lose power, and then equal a job that was not interrupted."""

import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.folder_digests import folder_digests
from helpers.killed_jobs import run_with_kills
from helpers.processes import run_gtsa

from gtsa_kit.embedding.browse.source_files import SourceFiles
from gtsa_kit.embedding.browse.vectors import open_vectors
from gtsa_kit.embedding.options import EmbedOptions
from gtsa_kit.embedding.progress import JobProgress, JobSummary
from gtsa_kit.embedding.run import embed_folder
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.weights import save_encoder

FOUR_ROWS = EmbedOptions(batch_size=4, rows_per_shard=4, dense=True, size=(32, 32))
MODES = {"vectors": {}, "maps": {"dense": True, "size": (32, 32)}, "ragged": {"dense": True, "short_side": 32}}

SETUP = """
from gtsa_kit.embedding.options import EmbedOptions
from gtsa_kit.embedding.run import embed_folder
"""
CALL = "embed_folder(*arguments[:3], EmbedOptions(**eval(arguments[3]), resume=True))"


@pytest.mark.parametrize("mode", ["maps", "ragged"])
def test_a_job_killed_at_random_times_gives_the_same_bytes(mixed: Path, model: Path, tmp_path: Path, mode: str) -> None:
    options = {"batch_size": 4, "rows_per_shard": 5, "workers": 2, **MODES[mode]}
    embed_folder(mixed, model, tmp_path / "whole", EmbedOptions(**options))
    seed = random.randrange(10**6)
    run_with_kills(tmp_path, SETUP, CALL, [mixed, model, tmp_path / "out", repr(options)], seed, kills=6, max_delay=0.5)
    assert folder_digests(tmp_path / "out") == folder_digests(tmp_path / "whole"), f"seed {seed}"


@pytest.mark.parametrize("mode", MODES)
def test_a_job_cut_at_any_step_of_a_commit_gives_the_same_bytes(
    mixed: Path, model: Path, tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Power can be lost at every fsync and rename."""
    options = {"batch_size": 4, "rows_per_shard": 9, "workers": 1, **MODES[mode]}
    embed_folder(mixed, model, tmp_path / "whole", EmbedOptions(**options))
    expected, failures = folder_digests(tmp_path / "whole"), 0
    for name in ("fsync", "replace"):
        original = getattr(os, name)
        for step in (0, 1, 2, 4, 7, 11):
            remaining = [step]

            def fail_later(*args: object, original=original, remaining=remaining) -> object:
                if remaining[0] == 0:
                    raise OSError(28, "No space left on device")
                remaining[0] -= 1
                return original(*args)

            out = tmp_path / f"{name}{step}"
            monkeypatch.setattr(os, name, fail_later)
            try:
                embed_folder(mixed, model, out, EmbedOptions(**options))
            except OSError:
                failures += 1
            monkeypatch.setattr(os, name, original)
            embed_folder(mixed, model, out, EmbedOptions(**options, resume=True))
            assert folder_digests(out) == expected
    assert failures >= 8


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    if mount is None or os.name == "nt" or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_is_reported_and_the_job_resumed(
    images: Path, model: Path, tmp_path: Path, small_disk: Path
) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(2_800_000))
    command = ("embed", images, "--model", model, "--out", small_disk / "out", "--dense", "--rows-per-shard", "4")
    done = run_gtsa(tmp_path, *command)
    assert done.returncode == 1, done.stderr
    assert "space" in done.stderr.lower()
    assert "Traceback" not in done.stderr
    ballast.unlink()
    done = run_gtsa(tmp_path, *command, "--resume")
    assert done.returncode == 0, done.stderr
    embed_folder(images, model, tmp_path / "whole", EmbedOptions(dense=True, rows_per_shard=4))
    expected = {name: digest for name, digest in folder_digests(tmp_path / "whole").items() if name != "job.json"}
    written = folder_digests(small_disk / "out")
    assert {name: written[name] for name in expected} == expected


def test_changed_inputs_options_and_models_are_refused(images: Path, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    shutil.copytree(images, folder)
    out = tmp_path / "out"
    embed_folder(folder, model, out)
    with pytest.raises(ValueError, match=r"holds a job already.*--resume"):
        embed_folder(folder, model, out)
    assert embed_folder(folder, model, out, EmbedOptions(resume=True)).processed == 0
    with pytest.raises(ValueError, match="resize changed"):
        embed_folder(folder, model, out, EmbedOptions(resume=True, size=(64, 64)))
    other = tmp_path / "model"
    shutil.copytree(model, other)
    assert (
        embed_folder(folder, other, out, EmbedOptions(resume=True)).processed == 0
    )  # the same weights in another folder
    save_encoder(other, Encoder("vit_test").vit.state_dict(), "vit_test", {})
    with pytest.raises(ValueError, match="model"):
        embed_folder(folder, other, out, EmbedOptions(resume=True))
    (folder / "p3.jpg").write_bytes((folder / "p4.jpg").read_bytes())
    (folder / "p5.jpg").unlink()
    (folder / "new.jpg").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"1 added \(first new.jpg\), 1 removed \(first p5.jpg\), 1 changed \(first p3"
    ):
        embed_folder(folder, model, out, EmbedOptions(resume=True))


@pytest.fixture
def moved(images: Path, model: Path, tmp_path: Path) -> Path:
    """A job that stopped after 12 of 20 images, a whole one, and the images at another place with other times."""
    shutil.copytree(images, tmp_path / "in")
    embed_folder(tmp_path / "in", model, tmp_path / "whole", FOUR_ROWS)

    def stop(progress: JobProgress) -> None:
        if progress.done == 14:
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        embed_folder(tmp_path / "in", model, tmp_path / "out", FOUR_ROWS, stop)
    (tmp_path / "new").mkdir()
    for path in images.iterdir():
        (tmp_path / "new" / path.name).write_bytes(path.read_bytes())
        os.utime(tmp_path / "new" / path.name, (1e9, 1e9))
    shutil.rmtree(tmp_path / "in")
    return tmp_path


def resume(moved: Path, model: Path, source: str = "new") -> JobSummary:
    return embed_folder(moved / source, model, moved / "out", replace(FOUR_ROWS, resume=True))


@pytest.mark.parametrize("source", ["new", "new.zip"])
def test_images_that_moved_are_found_at_their_new_place(moved: Path, model: Path, source: str) -> None:
    shutil.make_archive(str(moved / "new"), "zip", moved / "new")
    with pytest.raises(ValueError, match=r"does not exist; .*name their new place: gtsa embed NEW_PLACE --resume"):
        resume(moved, model, "in")
    assert resume(moved, model, source).processed == 8
    same = {name: digest for name, digest in folder_digests(moved / "whole").items() if name != "job.json"}
    written = folder_digests(moved / "out")
    assert {name: written[name] for name in same} == same
    assert resume(moved, model, source).processed == 0  # the new place is that of the job now
    (row,) = open_vectors(moved / "out").rows([0])
    assert SourceFiles([str(moved / source)]).state(row) == "same"
    if source == "new":
        os.utime(moved / "new" / "p3.jpg", (2e9, 2e9))
        with pytest.raises(ValueError, match=r"have changed since .*: 1 changed \(first p3.jpg\)"):
            resume(moved, model)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("p3.jpg", lambda content: None, r"1 removed \(first p3.jpg\)"),
        ("p3.jpg", lambda content: content + b"x", r"1 changed \(first p3.jpg\)"),
        ("p3.jpg", lambda content: content[:-20] + b"x" + content[-19:], r"1 of 12 looked at changed \(first p3.jpg\)"),
        ("new.jpg", lambda content: content, r"1 added \(first new.jpg\)"),
    ],
    ids=["missing", "longer", "of another content", "more"],
)
def test_other_images_at_the_new_place_are_refused(
    moved: Path, model: Path, name: str, change: Callable[[bytes], bytes | None], words: str
) -> None:
    before = folder_digests(moved / "out")
    content = change((moved / "new" / "p3.jpg").read_bytes())
    if content is None:
        (moved / "new" / name).unlink()
    else:
        (moved / "new" / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"new does not hold the images of .*out: {words}; name the place"):
        resume(moved, model)
    assert folder_digests(moved / "out") == before


def test_a_folder_with_other_files_is_refused(images: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    for resume in (False, True):
        with pytest.raises(ValueError, match=r"not empty.*thesis"):
            embed_folder(images, model, tmp_path, EmbedOptions(resume=resume))
