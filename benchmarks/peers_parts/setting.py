"""Folders, sizes and commands that all jobs need."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from gtsa_kit.data.image_files import find_images
from peers_parts.environments import environment_python
from peers_parts.measured import run_checked

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(__file__).parents[1] / "peers"
"""Programs that run in the environments of the peers."""


@dataclass(frozen=True)
class Setting:
    """Sizes and folders of a comparison."""

    images: Path
    out: Path
    micro: bool = False
    """True for a small model, few images and few steps, to try the program itself."""

    @property
    def arch(self) -> str:
        """Architecture: ViT-S/16, or ViT-Ti/16."""
        return "tiny" if self.micro else "small"

    @property
    def width(self) -> int:
        """Width of the architecture; its heads have 64 channels each, in 12 blocks."""
        return 192 if self.micro else 384

    def python(self, name: str) -> str:
        """Return the Python of a peer's environment, which is made if it is missing.

        Raises:
            PeerError: It can't be installed.
        """
        return str(environment_python(name, self.out / "environments"))

    def run_folder(self) -> Path:
        """Return a run folder with random weights, which is made if it is missing."""
        from inference import random_run

        folder = self.out / "weights" / self.arch
        if not (folder / "done").exists():
            folder.mkdir(parents=True, exist_ok=True)
            random_run(folder, f"vit_{self.arch}")
            (folder / "done").touch()
        return folder

    def exported(self, file_format: str) -> Path:
        """Return the weights of the run in a format of `gtsa export`, which are written if they are missing."""
        folder = self.out / "weights" / f"{self.arch}-{file_format}"
        target = folder / ("encoder.onnx" if file_format == "onnx" else file_format)
        if not (folder / "done").exists():
            folder.mkdir(parents=True, exist_ok=True)
            arguments = ["export", str(self.run_folder()), "--format", file_format, "--out", str(target), "--force"]
            run_checked(gtsa(*arguments, "--images", str(self.images)), folder / "log.txt", **PATHS)
            (folder / "done").touch()
        return target

    def folder_of(self, count: int, broken: int = 0) -> Path:
        """Return a folder with links to the images, in turn, and broken files among them.

        Args:
            count: Number of files.
            broken: How many of them are broken: cut short, empty, and text, in turn.
        """
        folder = self.out / "images" / f"{count}-{broken}"
        if folder.exists():
            return folder
        work = folder.with_name(f".{folder.name}")
        work.mkdir(parents=True, exist_ok=True)
        paths = find_images(self.images).paths
        for i in range(count):
            link = work / f"{i:05}.jpg"
            link.unlink(missing_ok=True)
            if i % 20 == 10 and i // 20 < broken:
                link.write_bytes(broken_content(paths[i % len(paths)].read_bytes(), i // 20))
            else:
                link.symlink_to(paths[i % len(paths)].absolute())
        work.rename(folder)
        return folder


PATHS = {"PYTHONPATH": str(ROOT)}
"""Environment variables of this project's commands."""


def broken_content(content: bytes, kind: int) -> bytes:
    """Return the content of a broken file: an image cut short, nothing, or text."""
    return (content[: len(content) // 3], b"", b"this is no image\n")[kind % 3]


def gtsa(*arguments: str) -> list[str]:
    """Return a command of this project."""
    return [sys.executable, "-m", "gtsa_kit", *arguments]


def threads() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))
