"""Heads that run beside an encoder: features of the encoder to logits of a task."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from gtsa_kit.export import Runner
from gtsa_kit.export.manifest import Manifest
from gtsa_kit.export.open_options import LoadOptions
from gtsa_kit.export.runtime.load import pick_device
from gtsa_kit.export.source import is_exported_file, open_source
from gtsa_kit.export.spec import layer_output
from gtsa_kit.models.encoder import Features
from gtsa_kit.models.task_model import Label, Task, TaskModel, TaskSpec, is_task_run, load_task_model
from gtsa_kit.models.weights import weights_digest


@dataclass(frozen=True)
class Head:
    """Head of a task model whose encoder was frozen in training."""

    name: str
    spec: TaskSpec
    module: torch.nn.Module
    device: torch.device

    gives_mask: ClassVar = False

    @property
    def task(self) -> Task:
        """Task of the head."""
        return self.spec.task

    @property
    def labels(self) -> tuple[Label, ...]:
        """Classes by class number."""
        return self.spec.labels

    @property
    def short_side(self) -> int | None:
        """Short side of the inputs of its training in pixels; None for a square."""
        return self.spec.short_side

    @torch.inference_mode()
    def __call__(self, features: Features) -> np.ndarray:
        """Return the logits of a batch: (B, K, h, w) at the resolution of the maps, or (B, K) of classes."""
        if self.task == "classify":
            inputs = [features.embedding]
        else:
            inputs = [features.layers[layer] for layer in self.spec.layers] or [features.feature_map]
        logits: np.ndarray = self.module(*(torch.from_numpy(x).to(self.device) for x in inputs)).cpu().numpy()
        return logits


def open_head(name: str, path: Path, encoder: Manifest, encoder_digest: str, device: torch.device) -> Head:
    """Open the head of a run that was trained on a frozen encoder.

    Args:
        name: Name of the head.
        path: Run folder.
        encoder: Manifest of the encoder that computes the features.
        encoder_digest: Digest of that encoder's weights (`weights_digest`).
        device: Device of the head.

    Raises:
        ValueError: The path holds no head, or one of another encoder, or the encoder lacks a map that it takes.
    """
    if not is_task_run(path):
        raise ValueError(f"--head {name}: {path} holds no head; train one with: gtsa finetune --freeze")
    model = load_task_model(path)
    check_head(name, model, encoder, encoder_digest)
    return Head(name, model.spec, model.head.to(device), device)


def check_head(name: str, model: TaskModel, encoder: Manifest, encoder_digest: str) -> None:
    """Raise `ValueError` unless a head was trained on the features that an encoder computes."""
    if weights_digest(dict(model.encoder.vit.state_dict())) != encoder_digest:
        raise ValueError(
            f"--head {name} was trained on another encoder, of which the served one has not the weights; serve the "
            "encoder that it was trained on, or train it again with --freeze"
        )
    if not model.spec.final_norm:
        raise ValueError(f"--head {name} takes maps before the final norm, which no encoder file has; train it again")
    own, served = model.encoder.preprocessing.to_dict(), encoder.preprocessing
    if any(tuple(own[key]) != tuple(served[key]) for key in ("mean", "std")):
        raise ValueError(f"--head {name} was trained on images that were normalized in another way; export it again")
    if missing := [layer for layer in model.spec.layers if layer not in encoder.layers]:
        layers = ",".join(map(str, model.spec.layers))
        raise ValueError(
            f"--head {name} takes {layer_output(missing[0])}, which the encoder does not return; export it with "
            f"--layers {layers}"
        )


def open_heads(paths: Mapping[str, Path], encoder: Path, runner: Runner, options: LoadOptions) -> list[Head]:
    """Open heads by their names.

    Args:
        paths: Run folder of each head by its name.
        encoder: File or folder of the encoder.
        runner: The opened encoder.
        options: Options that it was opened with.

    Raises:
        ValueError: See `open_head`; or a head is asked of a task model.
    """
    if not paths:
        return []
    digest = runner.manifest.weights_sha256
    if not is_exported_file(encoder):
        opened = open_source(encoder, options.import_options)
        digest = weights_digest(dict(opened.encoder.vit.state_dict()))
    device = pick_device(options.device)
    return [open_head(name, path, runner.manifest, digest, device) for name, path in paths.items()]


def head_layers_of(paths: Mapping[str, Path]) -> tuple[int, ...]:
    """Return the blocks whose maps the heads in run folders take."""
    specs = [load_task_model(path).spec for path in paths.values() if is_task_run(path)]
    return tuple(sorted({layer for spec in specs for layer in spec.layers}))
