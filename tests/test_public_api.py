"""`import gtsa_kit` as a user meets it: names, types, laziness, and one way from images to a verified file."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.commands import TINY
from helpers.paths import ROOT

import gtsa_kit

NAMES = (
    "pretrain finetune export verify load load_encoder embed predict open_image Features ImportOptions __version__"
).split()


def test_every_public_name_is_there_and_documented() -> None:
    for name in NAMES:
        assert name in dir(gtsa_kit)
        value = getattr(gtsa_kit, name)
        assert isinstance(value, str) or value.__doc__
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = gtsa_kit.no_such_name


def test_importing_it_loads_nothing_heavy() -> None:
    code = "import sys, gtsa_kit; dir(gtsa_kit); assert not {'torch', 'numpy', 'PIL', 'onnx'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_users_get_types(tmp_path: Path) -> None:
    """mypy, run on a user's file, knows the functions of the API, `export` included."""
    pytest.importorskip("mypy", reason="mypy is not installed")
    file = tmp_path / "user.py"
    file.write_text(
        "import gtsa_kit\nfrom gtsa_kit import export\n"
        "reveal_type(gtsa_kit.pretrain('a', 'b'))\nreveal_type(export('a', format='onnx'))\n"
        "reveal_type(gtsa_kit.verify('x').passed)\ngtsa_kit.export('a', precison='fp32')\n"
    )
    settings = tmp_path / "mypy.ini"
    # Most of the time would go into libraries and modules that are no part of these types; `make check` reads them.
    api = "export export.api export.verify_api export.parity_report training.pretrain".split()
    read = ",".join(f"gtsa_kit.{name}" for name in api)
    settings.write_text(f"[mypy]\nfollow_imports = skip\n[mypy-{read}]\nfollow_imports = silent\n")
    options = ["--config-file", str(settings), "--cache-dir", str(tmp_path / "cache")]
    command = [sys.executable, "-m", "mypy", *options, str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    types = re.findall(r'Revealed type is "([^"]*)"|Unexpected keyword argument "(\w*)"', done.stdout)
    assert types == [("pathlib.Path", ""), ("pathlib.Path", ""), ("bool", ""), ("", "precison")], done.stdout


def test_from_images_to_a_verified_file(images: Path, tmp_path: Path) -> None:
    run = gtsa_kit.pretrain(images, tmp_path / "run", settings={**TINY, "train.steps": 2})
    assert (run / "encoder.safetensors").exists()
    with pytest.raises(ValueError, match=r"other settings .*loss\.rotation_weight"):
        gtsa_kit.pretrain(images, run, settings={"loss.rotation_weight": 0.1}, resume=True)
    with pytest.raises(ValueError, match="does not exist"):
        gtsa_kit.pretrain(images / "none", tmp_path / "other")
    path = gtsa_kit.export(run, format="onnx", size=(32, 48), batch=1, layers=(1,))
    assert path == run / "encoder.onnx"
    with pytest.raises(ValueError, match="exists"):
        gtsa_kit.export(run, size=(32, 48))
    assert gtsa_kit.verify(path, images=images).passed
    runner = gtsa_kit.load(path)
    image = gtsa_kit.open_image(sorted(images.iterdir())[0])
    features = runner(runner.prepare(image, size=(32, 48))[None])
    encoder = gtsa_kit.load_encoder(run, layers=(1,))
    with torch.inference_mode():
        expected = encoder(torch.from_numpy(encoder.preprocessing(image, (32, 48)))[None])
    assert isinstance(features, gtsa_kit.Features)
    for ours, theirs in ((features.embedding, expected.embedding), (features.layers[1], expected.layers[1])):
        np.testing.assert_allclose(ours, theirs, atol=2e-4)
    assert [item.path for item in gtsa_kit.embed(images, runner)]


def test_a_file_that_lost_parity_raises(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from gtsa_kit.export import tolerances
    from gtsa_kit.models.encoder import Encoder
    from gtsa_kit.models.weights import save_encoder

    save_encoder(tmp_path, Encoder("vit_test").vit.state_dict(), "vit_test", {})
    fp32 = tolerances.TOLERANCES["fp32"]
    monkeypatch.setitem(tolerances.TOLERANCES, "fp32", replace(fp32, max_abs=0.0))
    with pytest.raises(gtsa_kit.ParityError, match="failed the parity gate") as caught:
        gtsa_kit.export(tmp_path, size=(32, 32), batch=1, images=images)
    assert not caught.value.report.passed
    assert caught.value.path.with_name("encoder.onnx.json").exists()


@pytest.mark.parametrize("link", ["cli", "export"])
def test_links_in_the_root_can_not_be_imported(link: str) -> None:
    assert (ROOT / link).is_symlink()
    for statement in (f"import {link}", f"from {link} import verify", f"import {link}.spec"):
        done = subprocess.run([sys.executable, "-c", statement], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 1
        assert f"ImportError: import gtsa_kit.{link}" in done.stderr


def test_commands_find_the_function_and_the_package() -> None:
    """`gtsa_kit.export` is one object however it was reached."""
    from gtsa_kit import export
    from gtsa_kit.export.spec import FORMATS

    assert export is gtsa_kit.export
    assert export is sys.modules["gtsa_kit.export"]
    assert FORMATS
    assert isinstance(export, Callable)  # type: ignore[arg-type]
