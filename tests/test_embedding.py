from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from gtsa_kit.checkpoint import load_encoder, save_encoder
from gtsa_kit.embedding.folder import embed_folder, read_embeddings
from gtsa_kit.encoder import Encoder
from gtsa_kit.export import load
from gtsa_kit.export.pipeline import export_artifact
from gtsa_kit.export.source import open_source
from gtsa_kit.files import read_json_lines
from gtsa_kit.images import find_images


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with both exported files."""
    run = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    save_encoder(run, Encoder("vit_tiny").vit.state_dict(), "vit_tiny", {})
    source = open_source(run)
    for form, name in (("onnx", "encoder.onnx"), ("torchscript", "encoder.ts")):
        assert export_artifact(source, form, run / name).parity.passed
    return run


def test_rows_are_the_encoder_run_one_photograph_at_a_time(photographs: Path, model: Path, tmp_path: Path) -> None:
    found = find_images(photographs)
    summary = embed_folder(found, load(model, "cpu"), tmp_path, batch_size=3)
    paths, vectors = read_embeddings(summary.parquet)
    assert paths == [f"p{i}.jpg" for i in range(20)]  # natural order: p2 before p10
    encoder, mean, std = load_encoder(model), np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    for path, vector in zip(paths, vectors, strict=True):
        image = Image.open(photographs / path).resize((224, 224), Image.Resampling.BICUBIC)
        pixels = ((np.asarray(image) / 255 - mean) / std).transpose(2, 0, 1).astype(np.float32)
        with torch.no_grad():
            wanted = encoder(torch.from_numpy(pixels)[None]).embedding[0].numpy()
        np.testing.assert_allclose(vector, wanted, atol=1e-5)


def test_every_kind_of_model_gives_the_same_vectors(photographs: Path, model: Path, tmp_path: Path) -> None:
    found = find_images(photographs)
    kinds = [model, model / "encoder.safetensors", model / "encoder.onnx", model / "encoder.ts"]
    all_vectors = []
    for index, kind in enumerate(kinds):
        _, vectors = read_embeddings(embed_folder(found, load(kind, "cpu"), tmp_path / str(index)).parquet)
        all_vectors.append(vectors)
    for vectors in all_vectors[1:]:
        np.testing.assert_allclose(vectors, all_vectors[0], atol=1e-5)


def test_schema_is_the_contract(photographs: Path, model: Path, tmp_path: Path) -> None:
    summary = embed_folder(find_images(photographs), load(model / "encoder.onnx", "cpu"), tmp_path)
    schema = pq.read_schema(summary.parquet)
    assert [(f.name, str(f.type)) for f in schema] == [
        ("path", "string"),
        ("width", "int32"),
        ("height", "int32"),
        ("embedding", "fixed_size_list<element: float>[64]"),
    ]
    assert b'"dim":64' in schema.metadata[b"gtsa_kit"]


def test_every_file_is_a_row_or_a_line_and_sizes_are_upright(photographs: Path, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photographs"
    (folder / "sub ü 日本").mkdir(parents=True)
    whole = (photographs / "p0.jpg").read_bytes()
    (folder / "sub ü 日本" / "ok 1.jpg").write_bytes(whole)
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.webp").write_text("hello")
    turned = Image.new("RGB", (40, 20), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(folder / "turned.jpg", exif=exif)
    summary = embed_folder(find_images(folder), load(model, "cpu"), tmp_path / "out")
    table = pq.read_table(summary.parquet).to_pylist()
    assert [(row["path"], row["width"], row["height"]) for row in table] == [
        ("sub ü 日本/ok 1.jpg", 96, 80),
        ("turned.jpg", 20, 40),
    ]
    errors = read_json_lines(summary.errors)
    assert [row["path"] for row in errors] == ["cut.jpg", "empty.png", "text.webp"]
    assert all(row["reason"] for row in errors)


def test_a_second_run_replaces_the_first_whole(photographs: Path, model: Path, tmp_path: Path) -> None:
    runner = load(model, "cpu")
    folder = tmp_path / "photographs"
    folder.mkdir()
    (folder / "a.jpg").write_bytes((photographs / "p0.jpg").read_bytes())
    (folder / "b.jpg").write_bytes(b"")
    embed_folder(find_images(folder), runner, tmp_path / "out")
    (folder / "b.jpg").write_bytes((photographs / "p1.jpg").read_bytes())
    summary = embed_folder(find_images(folder), runner, tmp_path / "out")
    assert read_embeddings(summary.parquet)[0] == ["a.jpg", "b.jpg"]
    assert read_json_lines(summary.errors) == []
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["embeddings.parquet", "errors.jsonl"]


def test_an_interrupted_run_leaves_no_half_file(photographs: Path, model: Path, tmp_path: Path) -> None:
    def stop(done: int, broken: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_folder(find_images(photographs), load(model, "cpu"), tmp_path / "out", batch_size=2, on_done=stop)
    assert list((tmp_path / "out").iterdir()) == []


def test_command_line(gtsa: Callable, photographs: Path, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for index in range(3):
        (folder / f"{index}.jpg").write_bytes((photographs / f"p{index}.jpg").read_bytes())
    (folder / "bad.jpg").write_bytes(b"bad")
    base = ("embed", folder, "--model", model / "encoder.onnx", "--out", tmp_path / "out")
    done = gtsa(*base)
    assert done.returncode == 0, done.stderr
    assert "3 rows" in done.stderr
    assert "bad.jpg" in done.stderr
    assert gtsa(*base, "--on-error", "fail").returncode == 1
    (tmp_path / "empty").mkdir()
    done = gtsa("embed", tmp_path / "empty", "--model", model, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "no photographs" in done.stderr
