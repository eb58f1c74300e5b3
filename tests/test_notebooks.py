"""Notebooks of examples/: each runs on tiny images and models, with other values of its parameters."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from helpers.commands import TINY
from helpers.evaluation_data import write_blocks, write_color_classes
from helpers.labeled_images import write_halves
from helpers.page_commands import parse, shell_commands
from helpers.paths import ROOT
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

EXAMPLES = ROOT / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelManager]:
    """Start one kernel for all notebooks, since most of the time of a notebook goes into imports."""
    folder = tmp_path_factory.mktemp("kernel")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"PYTHONPATH": ROOT, "IPYTHONDIR": folder, "JUPYTER_RUNTIME_DIR": folder}.items():
            patch.setenv(name, str(value))
        manager = KernelManager(kernel_name="python3")
        manager.start_kernel(cwd=str(folder))
    yield manager
    manager.shutdown_kernel(now=True)


@pytest.fixture
def run(kernel: KernelManager) -> Callable[..., str]:
    """Run a notebook with other values of its parameters, and return what it prints."""

    def execute(name: str, **parameters: Any) -> str:
        notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
        [given] = [i for i, block in enumerate(notebook.cells) if "parameters" in block.metadata.get("tags", [])]
        declared = set(re.findall(r"^([A-Z_]+) = ", notebook.cells[given].source, re.MULTILINE))
        assert set(parameters) <= declared
        values = "\n".join(f"{key} = {value!r}" for key, value in parameters.items())
        notebook.cells.insert(
            given + 1, nbformat.v4.new_code_cell(f"from pathlib import PosixPath, WindowsPath\n{values}")
        )
        notebook.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))
        NotebookClient(notebook, timeout=600, km=kernel).execute()
        outputs = [output for block in notebook.cells if block.cell_type == "code" for output in block.outputs]
        return "".join(output.text for output in outputs if output.output_type == "stream")

    return execute


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_without_outputs_and_their_commands_are_valid(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for block in notebook.cells:
        if block.cell_type == "code":
            assert not block.outputs
            assert block.execution_count is None
        else:
            for words in shell_commands(block.source):
                parse(words)


def test_adapting_and_probing(run: Callable[..., str], images: Path, tiny_run: Path, tmp_path: Path) -> None:
    labeled = write_color_classes(tmp_path / "labeled")
    settings = {key: value for key, value in TINY.items() if key != "model.arch"} | {"train.steps": 2}
    printed = run(
        "adapt_and_probe",
        IMAGES=str(images),
        LABELED=str(labeled),
        START=str(tiny_run),
        OUT=tmp_path / "out",
        SIZE=32,
        SETTINGS=settings,
        FOLDS=3,
    )
    accuracies = {tuple(row[:2]): float(row[2]) for row in re.findall(r"^(\w+) +([\w-]+) +([\d.]+)%", printed, re.M)}
    assert accuracies.keys() == {
        (model, probe) for model in ("random", "start", "adapted") for probe in ("k-NN", "linear")
    }
    assert min(accuracies.values()) > 80  # classes of one color, which any features separate


def test_dense_features_in_scikit_learn(run: Callable[..., str], tiny_run: Path, tmp_path: Path) -> None:
    data = write_blocks(tmp_path / "blocks")
    printed = run("dense_features_sklearn", MODEL=str(tiny_run), DATA=str(data), VOID=255, SHORT_SIDE=64, CLUSTERS=3)
    assert "10 images, 240 patches of 64 numbers, classes [0, 1, 2]" in printed
    [scores] = re.findall(r"mIoU ([\d.]+), accuracy ([\d.]+)%", printed)
    assert min(map(float, scores)) > 80  # blocks of one color, aligned with the patches


def test_from_masks_to_an_engine(run: Callable[..., str], tiny_run: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx has no wheel for this machine")
    data = write_halves(tmp_path / "halves", 6, 32)
    settings = {"head.name": "linear", "train.steps": 2, "train.batch_size": 2, "train.workers": 0, "augment.size": 32}
    printed = run(
        "masks_to_tensorrt",
        DATA=str(data),
        MODEL=str(tiny_run),
        IGNORE=[],
        SETTINGS=settings,
        OUT=tmp_path / "out",
        MAX_SIZE=48,
        BATCH="1:2:2",
        GPU="8.9",
    )
    assert "for GPUs 8.9\n" in printed
    assert re.search(r"inputs from, optimal, to: \[1, 3, 16, 16\] \[2, 3, \d+, \d+\] \[2, 3, 48, 48\]\n", printed)
    assert "graph compared with the model: passed" in printed
    assert "score: {" in printed
    assert "engine compared with the model: " in printed
