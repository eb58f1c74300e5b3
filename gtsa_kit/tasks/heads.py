"""Heads that run beside an encoder: features of the encoder to logits of a task."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from gtsa_kit.export import Runner
from gtsa_kit.export.manifest import Manifest
from gtsa_kit.export.open_options import LoadOptions
from gtsa_kit.export.runtime.head_runner import HeadRunner
from gtsa_kit.export.runtime.load import pick_device
from gtsa_kit.export.source_facts import is_exported_file
from gtsa_kit.export.spec import SUFFIX, layer_output
from gtsa_kit.hardware import compute_threads
from gtsa_kit.models.outputs import Features
from gtsa_kit.models.run_folder import check_finished, is_task_run
from gtsa_kit.models.task_spec import Label, Task
from gtsa_kit.tasks.predictor import task_of

if TYPE_CHECKING:
    import torch

    from gtsa_kit.models.task_model import TaskModel


@dataclass(frozen=True)
class Head:
    """Head of a task model whose encoder was frozen in training: a callable from features to logits."""

    name: str
    task: Task
    labels: tuple[Label, ...]
    """Classes by class number."""
    short_side: int | None
    """Short side of the inputs of its training in pixels; None for a square."""
    layers: tuple[int, ...]
    """Blocks whose maps the head takes; none for the last map or the embedding."""
    encoder_sha256: str
    """Digest of the encoder's weights (`weights_digest`)."""
    preprocessing: Mapping[str, Any]
    """Preprocessing of its encoder."""
    run: Callable[[Features], np.ndarray]

    gives_mask: ClassVar = False

    def __call__(self, features: Features) -> np.ndarray:
        """Return the logits of a batch: (B, K, h, w) at the resolution of the maps, or (B, K) of classes."""
        return self.run(features)


def open_head(name: str, path: Path, device: str = "auto") -> Head:
    """Open a head: a file of `gtsa export --part head`, or a run folder of `gtsa finetune`.

    Args:
        name: Name of the head.
        path: ONNX file or run folder.
        device: Device of the head of a run folder, as `load` takes it; ONNX files run on the CPU.

    Raises:
        ValueError: The path holds no head, or one that takes maps that no exported encoder gives.
    """
    try:
        if is_task_run(path):
            from gtsa_kit.models.task_model import load_task_model

            return _of_model(name, load_task_model(path), pick_device(device))
        check_finished(path)
        if path.suffix == SUFFIX["onnx"]:
            return _of_runner(name, HeadRunner(path, compute_threads()))
    except ValueError as error:
        raise ValueError(f"--head {name}: {error}") from error
    raise ValueError(f"--head {name}: {path} holds no head; train one with: gtsa finetune --freeze")


def check_head(head: Head, encoder: Manifest) -> None:
    """Check that a head was trained on the features that an encoder computes.

    Raises:
        ValueError: The encoder has other weights or another preprocessing, or lacks a map that the head takes.
    """
    if head.encoder_sha256 != encoder.weights_sha256:
        raise ValueError(
            f"--head {head.name} was trained on another encoder: its weights are {head.encoder_sha256[:12]}, those of "
            f"the served one {encoder.weights_sha256[:12]}; serve the encoder that it was trained on, or train it with "
            "--freeze"
        )
    own, served = head.preprocessing, encoder.preprocessing
    if any(tuple(own[key]) != tuple(served[key]) for key in ("mean", "std")):
        raise ValueError(f"--head {head.name} was trained on images of another normalization; train it again")
    if missing := [layer for layer in head.layers if layer not in encoder.layers]:
        layers = ",".join(map(str, head.layers))
        raise ValueError(
            f"--head {head.name} takes {layer_output(missing[0])}, which the encoder does not return; export it with "
            f"--layers {layers}"
        )


def open_with_heads(
    path: Path, options: LoadOptions, paths: Mapping[str, Path], load: Callable[[Path, LoadOptions], Runner]
) -> tuple[Runner, list[Head]]:
    """Open an encoder and the heads that run beside it; weights get the maps that the heads take as outputs.

    Args:
        path: The encoder.
        options: Options to open it with.
        paths: File or run folder of each head by its name.
        load: Function that opens the encoder.

    Raises:
        ValueError: See `open_head` and `check_head`; or the model has a head of its own.
    """
    heads = [open_head(name, head, options.device) for name, head in paths.items()]
    if heads and not is_exported_file(path):
        layers = {*options.layers, *(layer for head in heads for layer in head.layers)}
        options = replace(options, layers=tuple(sorted(layers)))
    if heads and is_task_run(path):
        raise ValueError(f"{path} has a head of its own; omit --head, or serve the encoder that it was trained on")
    runner = load(path, options)
    if heads and runner.manifest.kind != "encoder":
        raise ValueError(f"{path} has a head of its own; omit --head, or serve the encoder that it was trained on")
    if heads:
        for head in heads:
            check_head(head, runner.manifest)
    return runner, heads


def _check_crop(name: str, crop_from: int) -> None:
    """Raise `ValueError` for a head whose images are cropped: heads share the input of one encoder, which is not."""
    if crop_from:
        raise ValueError(f"the head {name} is for center crops, which heads can't share; serve the whole model")


def _of_model(name: str, model: "TaskModel", device: "torch.device") -> Head:
    import torch

    from gtsa_kit.models.weights import weights_digest

    spec, module = model.spec, model.head.to(device)
    if spec.task == "detect":
        raise ValueError("a detector's head does not run beside an encoder; serve the detector itself")
    _check_crop(name, spec.crop_from)
    if not spec.final_norm:
        raise ValueError("the head takes maps before the final norm, which encoder files lack; train it with --freeze")

    @torch.inference_mode()
    def run(features: Features) -> np.ndarray:
        inputs = [features.layers[layer] for layer in spec.layers] or [features.feature_map]
        inputs = [features.embedding] if spec.task == "classify" else inputs
        return np.asarray(module(*(torch.from_numpy(np.asarray(x)).to(device) for x in inputs)).cpu())

    encoder_sha256 = weights_digest(dict(model.encoder.vit.state_dict()))
    preprocessing = model.encoder.preprocessing.to_dict()
    return Head(name, spec.task, spec.labels, spec.short_side, spec.layers, encoder_sha256, preprocessing, run)


def _of_runner(name: str, runner: HeadRunner) -> Head:
    manifest = runner.manifest
    _check_crop(name, manifest.crop_from)
    labels = tuple(Label(**dict(label)) for label in manifest.labels)
    facts = manifest.short_side, runner.layers, manifest.weights_sha256, manifest.preprocessing
    return Head(name, task_of(manifest), labels, *facts, runner)
