"""Optional parts of the installation: which extra brings a module, and what to say where it is missing."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Final

EXTRAS: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        ("torch", "torchvision", "timm", "lightning_fabric", "onnxscript", "matplotlib", "tensorboard"), "train"
    ),
    **dict.fromkeys(("fastapi", "starlette", "uvicorn", "multipart", "python_multipart", "prometheus_client"), "serve"),
    **dict.fromkeys(("sklearn", "torchmetrics"), "eval"),
    "httpx": "serve",
    "faster_coco_eval": "finetune",
    "lightly": "baselines",
    "openvino": "openvino",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt-rtx",
    "ray": "ray",
    "lancedb": "lancedb",
    "qdrant_client": "qdrant",
    **dict.fromkeys(("psycopg", "pgvector"), "pgvector"),
    "faiss": "faiss",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "cyclonedx": "card",
    "huggingface_hub": "card",
    "mvtbdata": "demo",
    "tifffile": "tiff",
    "imagecodecs": "tiff",
    "rasterio": "geotiff",
    "pydicom": "dicom",
}
"""Extra of gtsa-kit by module."""


def missing_extra(error: BaseException) -> str:
    """Return a sentence with the extra to install, for the error of a module that is not installed; else ""."""
    module = ((error.name if isinstance(error, ModuleNotFoundError) else None) or "").partition(".")[0]
    extra = EXTRAS.get(module)
    return f"{module} is not installed; pip install 'gtsa-kit[{extra}]'" if extra else ""


def require(module: str, reason: str) -> None:
    """Raise `ModuleNotFoundError` with what to install if a module is missing; it is not imported.

    Args:
        module: A key of `EXTRAS`.
        reason: What needs it, for the message.
    """
    with hint_at_extra(reason):
        if find_spec(module) is None:
            raise ModuleNotFoundError(name=module)


@contextmanager
def hint_at_extra(reason: str) -> Iterator[None]:
    """Name the extra in the error of a missing module, after the reason why it is needed.

    Raises:
        ModuleNotFoundError: The block raised it; the message says what to install.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        sentence = missing_extra(error)
        if not sentence:
            raise
        raise ModuleNotFoundError(f"{reason}: {sentence}", name=error.name, path=error.path) from error
