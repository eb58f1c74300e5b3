from pathlib import Path

import pytest
import torch
from PIL import Image

from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.weights import save_encoder


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of the smallest encoder."""
    run = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    save_encoder(run, Encoder("vit_test").vit.state_dict(), "vit_test", {})
    return run


@pytest.fixture(scope="session")
def mixed(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of readable and unreadable files, one of them rotated by EXIF: 24 rows and 4 errors."""
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "sub ü 日本").mkdir()
    for i in range(20):
        content = (images / f"p{i}.jpg").read_bytes()
        (folder / f"img{i}.jpg").write_bytes(content)
        if i < 3:
            (folder / "sub ü 日本" / f"{i}.jpg").write_bytes(content)
    (folder / "img2b.jpg").write_bytes((images / "p0.jpg").read_bytes()[:900])
    (folder / "empty.png").write_bytes(b"")
    (folder / "img11.webp").write_text("hello")
    (folder / "sub ü 日本" / "9.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 40)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(images / "p3.jpg").save(folder / "rotated.jpg", exif=exif)
    return folder
