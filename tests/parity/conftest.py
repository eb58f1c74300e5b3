"""What the parity suite shares, and the table that it ends with."""

from pathlib import Path

import pytest
import torch
from paths import SCENES
from rich.console import Console
from rich.table import Table

from gtsa_kit.checkpoint import save_encoder
from gtsa_kit.encoder import Encoder
from gtsa_kit.export.manifest import Manifest
from gtsa_kit.export.parity import ParityImages, parity_images
from gtsa_kit.export.pipeline import export_artifact, read_calibration
from gtsa_kit.export.quantize import Calibration
from gtsa_kit.export.source import open_source

ROWS: list[tuple[str, Manifest]] = []


def random_weights(arch: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights with real variance everywhere: timm's initial biases, norms and positions would hide mistakes."""
    torch.manual_seed(seed)
    weights = Encoder(arch).vit.state_dict()
    return {
        name: tensor + torch.randn_like(tensor) * (0.3 if tensor.ndim < 2 else 0.02) for name, tensor in weights.items()
    }


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("tiny")
    save_encoder(run, random_weights("vit_tiny"), "vit_tiny", {})
    return run


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("small")
    save_encoder(run, random_weights("vit_small"), "vit_small", {})
    return run


@pytest.fixture(scope="session")
def scenes(photographs: Path) -> ParityImages:
    return parity_images(SCENES if SCENES.exists() else photographs)


@pytest.fixture(scope="session")
def tiny_onnx(tiny_run: Path, scenes: ParityImages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float32 graph of any batch and size."""
    path = tmp_path_factory.mktemp("tiny_onnx") / "encoder.onnx"
    export_artifact(open_source(tiny_run), "onnx", path, images=scenes)
    return path


@pytest.fixture(scope="session")
def calibration(photographs: Path) -> Calibration:
    return read_calibration(SCENES if SCENES.exists() else photographs)


@pytest.fixture(scope="session")
def few(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photographs, for gates that are not themselves what is tested."""
    folder = tmp_path_factory.mktemp("few")
    for path in sorted(SCENES.glob("*.jpg") if SCENES.exists() else photographs.iterdir())[:3]:
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture
def matrix() -> list[tuple[str, Manifest]]:
    """Reports for the table at the end of the run."""
    return ROWS


def pytest_terminal_summary() -> None:
    if not ROWS:
        return
    table = Table(title="parity: worst over all outputs, sizes and batches", title_justify="left", box=None)
    for name in (
        "model",
        "graph",
        "format",
        "precision",
        "max abs",
        "mean abs",
        "min cosine",
        "same nearest",
        "shapes",
        "",
    ):
        table.add_column(name)
    for graph, manifest in ROWS:
        assert manifest.parity
        found = manifest.parity.differences
        shapes = {(d.batch, d.height, d.width) for d in found}
        table.add_row(
            manifest.architecture["name"],
            graph,
            manifest.format,
            manifest.precision,
            f"{max(d.max_abs for d in found):.1e}",
            f"{max(d.mean_abs for d in found):.1e}",
            f"{min(d.min_cosine for d in found):.7f}",
            f"{min(d.neighbours for d in found if d.neighbours is not None):.3f}",
            " ".join(f"{b}x{h}x{w}" for b, h, w in sorted(shapes)),
            "ok" if manifest.parity.passed else "FAILED",
        )
    Console(width=200).print(table)
