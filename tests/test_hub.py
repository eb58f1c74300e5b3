"""The Hugging Face Hub by its own client, against a stand-in on this machine: folders to it, images from it."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.hub import Hub, running_hub

from gtsa_kit.data.image_files import list_images
from gtsa_kit.data.image_io import ImageError, open_image
from gtsa_kit.data.sources import open_source
from gtsa_kit.export.folder_report import read_folder_report
from gtsa_kit.files import sha256_of

pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running_hub(monkeypatch) as hub:
        yield hub


def test_an_exported_folder_goes_to_the_hub_and_back(
    gtsa_here: Callable[..., Any], hub: Hub, tiny_run: Path, few: Path, tmp_path: Path
) -> None:
    from huggingface_hub import HfApi, snapshot_download

    pytest.importorskip("cyclonedx", reason="cyclonedx-python-lib is not installed")
    folder = tmp_path / "hf"
    assert gtsa_here("export", tiny_run, "--format", "hf", "--card", "--images", few, "--out", folder).returncode == 0
    api = HfApi(token="hf_stand_in")
    api.create_repo("me/street", exist_ok=True)
    api.upload_folder(repo_id="me/street", folder_path=folder)
    local = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert hub.files["models/me/street"] == local
    assert local.keys() >= {"model.safetensors", "config.json", "README.md", "gtsa.cdx.json", "gtsa.json"}
    assert f"PUT /large/{sha256_of(folder / 'model.safetensors')}" in hub.requests
    assert "POST /api/models/me/street/preupload/main" in hub.requests
    assert hub.requests[-1] == "POST /api/models/me/street/commit/main"
    assert set(hub.cards) == {local["README.md"].decode()}  # the client has the Hub check a card's header

    copy = Path(snapshot_download("me/street", local_dir=tmp_path / "copy", token=False))
    assert read_folder_report(copy).problem(copy) == ""
    verified = gtsa_here("verify", copy, "--against", tiny_run, "--images", few, "--json")
    assert verified.returncode == 0, verified.stderr
    assert json.loads(verified.stdout)["passed"]


@pytest.fixture
def photos(hub: Hub, images: Path, tmp_path: Path) -> Path:
    """A folder of images, which is a data set of the stand-in as well."""
    folder = tmp_path / "photos"
    (folder / "deep" / "b c").mkdir(parents=True)
    for number, path in enumerate(sorted(images.iterdir())[:4]):
        shutil.copy(path, folder / "deep" / "b c" / path.name if number % 2 else folder / path.name)
    (folder / "notes.txt").write_text("no image")
    files = [path for path in folder.rglob("*") if path.is_file()]
    hub.files["datasets/me/photos"] = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    return folder


def test_images_of_a_data_set_are_those_of_the_folder(hub: Hub, photos: Path) -> None:
    local, remote = list_images(str(photos)), list_images("hf://datasets/me/photos", stamps=True)
    assert [entry.name for entry in remote.entries] == [entry.name for entry in local.entries]
    assert len(local.entries) == 4
    for ours, theirs in zip(local.entries, remote.entries, strict=True):
        assert remote.source.read(theirs.locator) == local.source.read(ours.locator)
    content = hub.files["datasets/me/photos"]
    stamps = {entry.name: entry.stamp for entry in remote.entries}
    name = next(iter(stamps))
    content[name] = content[name] + b"\0"
    changed = {entry.name: entry.stamp for entry in list_images("hf://datasets/me/photos", stamps=True).entries}
    assert [one for one in stamps if changed[one] != stamps[one]] == [name]


def test_a_glob_and_one_image_of_a_data_set(hub: Hub, photos: Path) -> None:
    inside = [entry.name for entry in open_source("hf://datasets/me/photos/deep/**/*.jpg").entries()]
    assert inside == sorted(path.relative_to(photos / "deep").as_posix() for path in photos.glob("deep/*/*.jpg"))
    image = next(photos.glob("*.jpg"))
    source = open_source(f"hf://datasets/me/photos/{image.name}")
    (entry,) = source.entries()
    assert source.read(entry.locator) == image.read_bytes()
    assert np.asarray(open_image(image)).ndim == 3


@pytest.mark.parametrize("url", ["hf://datasets/me/none", "hf://datasets/me/photos/nothing"])
def test_what_does_not_exist_is_an_error_with_its_address(url: str, hub: Hub, photos: Path) -> None:
    with pytest.raises(ValueError, match=url):
        list(open_source(url).entries())


def test_an_image_that_was_deleted_is_unreadable(hub: Hub, photos: Path) -> None:
    source = open_source("hf://datasets/me/photos")
    (first, *_) = source.entries()
    del hub.files["datasets/me/photos"][first.name]
    with pytest.raises(ImageError, match="can't be read"):
        source.read(first.locator)
