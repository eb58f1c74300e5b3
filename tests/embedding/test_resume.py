"""Killed, out of space, interrupted: what comes of it is what an uninterrupted run gives."""

import os
import random
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.commands import one_thread
from helpers.trees import contents

from gtsa_kit.embedding import read_dataset
from gtsa_kit.embedding.merge import merge_parts
from gtsa_kit.embedding.options import EmbedOptions
from gtsa_kit.embedding.run import embed_folder
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.weights import save_encoder

HOW = {"vectors": {}, "maps": {"dense": True, "size": (32, 32)}, "ragged": {"dense": True, "short_side": 32}}

# Imports once, then a child for each attempt, killed after a while that the caller chooses.
ATTEMPTS = """
import os, random, signal, sys, time
from pathlib import Path
from gtsa_kit.embedding.options import EmbedOptions
from gtsa_kit.embedding.run import embed_folder

where, model, out, options, seed, longest = sys.argv[1:4] + [eval(sys.argv[4]), int(sys.argv[5]), float(sys.argv[6])]
rng = random.Random(seed)
killed = 0
for attempt in range(200):
    child = os.fork()
    if child == 0:
        try:
            embed_folder(where, model, out, EmbedOptions(**options, resume=True))
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    if killed < 6:
        time.sleep(rng.uniform(0.0, longest))
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        killed += 1
    elif os.WEXITSTATUS(status):
        sys.exit(1)
    else:
        print(killed)
        break
"""


@pytest.mark.parametrize("how", ["maps", "ragged"])
def test_killed_at_random_times_it_ends_as_if_nothing_had_been(
    mixed: Path, model: Path, tmp_path: Path, how: str
) -> None:
    options = {"batch_size": 4, "rows_per_shard": 5, "workers": 2, **HOW[how]}
    embed_folder(mixed, model, tmp_path / "whole", EmbedOptions(**options))
    seed = random.randrange(10**6)
    args = [mixed, model, tmp_path / "out", repr(options), seed, 0.5]
    script = [sys.executable, "-c", textwrap.dedent(ATTEMPTS), *map(str, args)]
    done = subprocess.run(script, capture_output=True, text=True, env=one_thread(), timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0, "none was killed"
    assert contents(tmp_path / "out") == contents(tmp_path / "whole"), f"seed {seed}"


@pytest.mark.parametrize("how", HOW)
def test_cut_after_any_step_of_a_commit_it_goes_on(
    mixed: Path, model: Path, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every fsync and rename is a moment at which the power may go."""
    options = {"batch_size": 4, "rows_per_shard": 9, "workers": 1, **HOW[how]}
    embed_folder(mixed, model, tmp_path / "whole", EmbedOptions(**options))
    wanted, steps = contents(tmp_path / "whole"), 0
    for name in ("fsync", "replace"):
        true = getattr(os, name)
        for at in (0, 1, 2, 4, 7, 11):
            left = [at]

            def dies(*args: object, true=true, left=left) -> object:
                if left[0] == 0:
                    raise OSError(28, "No space left on device")
                left[0] -= 1
                return true(*args)

            out = tmp_path / f"{name}{at}"
            monkeypatch.setattr(os, name, dies)
            try:
                embed_folder(mixed, model, out, EmbedOptions(**options))
            except OSError:
                steps += 1
            monkeypatch.setattr(os, name, true)
            embed_folder(mixed, model, out, EmbedOptions(**options, resume=True))
            assert contents(out) == wanted
    assert steps >= 8


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


def test_a_full_disk_is_said_and_resumed(gtsa, images: Path, model: Path, tmp_path: Path, small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(2_800_000))
    command = ("embed", images, "--model", model, "--out", small_disk / "out", "--dense", "--rows-per-shard", "4")
    done = gtsa(*command)
    assert done.returncode == 1, done.stderr
    assert "space" in done.stderr.lower()
    assert "Traceback" not in done.stderr
    ballast.unlink()
    done = gtsa(*command, "--resume")
    assert done.returncode == 0, done.stderr
    embed_folder(images, model, tmp_path / "whole", EmbedOptions(dense=True, rows_per_shard=4))
    wanted = {name: digest for name, digest in contents(tmp_path / "whole").items() if name != "job.json"}
    found = contents(small_disk / "out")
    assert {name: found[name] for name in wanted} == wanted


def test_what_has_changed_is_noticed(images: Path, model: Path, tmp_path: Path) -> None:
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
    assert embed_folder(folder, other, out, EmbedOptions(resume=True)).processed == 0  # the same weights elsewhere
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


def test_a_folder_with_something_else_in_it_is_left_alone(images: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    for resume in (False, True):
        with pytest.raises(ValueError, match=r"not empty.*thesis"):
            embed_folder(images, model, tmp_path, EmbedOptions(resume=resume))


@pytest.mark.parametrize("how", HOW)
def test_parts_merge_to_what_one_run_gives(mixed: Path, model: Path, tmp_path: Path, how: str) -> None:
    options = {"batch_size": 1, "rows_per_shard": 5, **HOW[how]}  # batches of one: then even the last bits agree
    embed_folder(mixed, model, tmp_path / "whole", EmbedOptions(**options))
    parts = [tmp_path / f"part{i}" for i in (3, 1, 2)]
    for part in parts:
        embed_folder(mixed, model, part, EmbedOptions(**options, part=(int(part.name[-1]), 3)))
    merge_parts(tmp_path / "merged", parts)
    assert contents(tmp_path / "merged") == contents(tmp_path / "whole")
    with pytest.raises(ValueError, match="give all from 1/3 to 3/3"):
        merge_parts(tmp_path / "less", parts[:2])
    embed_folder(mixed, model, tmp_path / "other", EmbedOptions(**options | {"max_pixels": 1}, part=(2, 3)))
    with pytest.raises(ValueError, match="another job"):
        merge_parts(tmp_path / "odd", [*parts[:2], tmp_path / "other"])
    assert len(read_dataset(tmp_path / "merged")) == 24
