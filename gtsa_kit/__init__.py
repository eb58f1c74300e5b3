"""Train a vision transformer on images without labels, export it with a parity report, compute dense features.

The public API, in the order of its use:

- `pretrain` trains an encoder on images without labels (GTSA, arXiv 2304.08014).
- `finetune` trains a head, or all layers, on labeled images for segmentation, classification or detection.
- `export` writes it as ONNX, TorchScript, torch.export or OpenVINO and checks the file; `verify` checks a file again.
- `load` opens an exported file, run folder or weights as a runner on numpy arrays; `load_encoder`, as a torch module.
- `ImportOptions` holds facts that weights of other tools do not contain: branch, heads, mean, std.
- `embed` yields features of a folder, list, archive or URL, image by image.
- `predict` yields the masks, classes or objects that a fine-tuned model predicts.
- `open_image` decodes a file to upright 8-bit RGB; `Features` is what encoders and runners return.

Names are imported on first use, so that `gtsa --help` starts fast. `load` and `embed` of an ONNX file need no torch;
other functions need the extra `train`. `__init__.pyi` declares the names for type checkers.
"""

from importlib import import_module
from typing import Any

from gtsa_kit.extras import require
from gtsa_kit.version import __version__

_MODULES = {
    "pretrain": "gtsa_kit.training.pretrain",
    "finetune": "gtsa_kit.tasks.api",
    "verify": "gtsa_kit.export.verify_api",
    "load": "gtsa_kit.export.runtime.load",
    "load_encoder": "gtsa_kit.export.api",
    "embed": "gtsa_kit.embedding.iterate",
    "predict": "gtsa_kit.tasks.predict",
    "open_image": "gtsa_kit.data.image_io",
    "Features": "gtsa_kit.models.encoder",
    "ImportOptions": "gtsa_kit.export.open_options",
    "ParityError": "gtsa_kit.export.gate_errors",
    "TaskScoreError": "gtsa_kit.export.gate_errors",
}

_NEED_TORCH = frozenset(("pretrain", "finetune", "verify", "load_encoder", "predict"))

__all__ = [
    "Features",
    "ImportOptions",
    "ParityError",
    "TaskScoreError",
    "__version__",
    "embed",
    "export",
    "finetune",
    "load",
    "load_encoder",
    "open_image",
    "predict",
    "pretrain",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Import a public name on its first use."""
    if name == "export":  # the package of that name is callable: see its __init__
        return import_module(f"{__name__}.{name}")
    if name in _MODULES:
        if name in _NEED_TORCH:
            require("torch", f"{__name__}.{name}")
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names."""
    return __all__
