"""Public function `finetune`, and the settings of a new or resumed run."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gtsa_kit.config.finetune import FinetuneConfig, TaskName
from gtsa_kit.config.finetune_presets import load_finetune_config, resume_finetune_config
from gtsa_kit.models.packaged_weights import resolve_weights

if TYPE_CHECKING:
    from gtsa_kit.tasks.state import FinetuneCallback


def finetune(
    task: TaskName,
    data: str | Path,
    out: str | Path,
    *,
    model: str | Path | None = None,
    random: str | None = None,
    preset: str | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    callback: "FinetuneCallback | None" = None,
) -> Path:
    """Train a head, or all layers, on labeled images, as `gtsa finetune` does.

    Args:
        task: "segment", "classify" or "detect".
        data: Folder, CSV or JSON file of labeled images; docs/finetuning.md and docs/detection.md list the layouts.
        out: Run folder: new, or with `resume` that of an earlier call.
        model: Weights to start from: a run folder, weights of gtsa-kit, or a checkpoint of another tool. Facts that its
            file does not contain are settings, such as {"model.mean": (0.5, 0.5, 0.5)}.
        random: Architecture of random weights, in place of `model`.
        preset: "auto" (the default), "ade20k-fpn", "coco-mask-rcnn" or "inat19".
        settings: Further settings by their dotted names, such as {"train.freeze": True}.
        resume: Continue the run in `out` from its newest checkpoint, with its saved settings; more steps extend it.
        callback: Callback of the run; its `should_stop` ends the run early.

    Returns:
        The run folder. It holds model.safetensors and scores.json when the run has finished.

    Raises:
        ValueError: A setting, a folder, the weights or the labeled images can't be used; training was not started.
        RunFailedError: Training was started and cannot continue.
    """
    from gtsa_kit.tasks.run import finetune_run

    overrides = {
        **start_settings(model, random),
        "data.source": str(absolute_data(data)),
        **(settings or {}),
    }
    finetune_run(resolve_finetune(task, Path(out), resume, preset, None, overrides), Path(out), resume, callback)
    return Path(out)


def start_settings(model: str | Path | None, random: str | None) -> dict[str, Any]:
    """Return the settings of the encoder to start from, by dotted key."""
    weights = {"model.weights": str(resolve_weights(model).absolute())} if model else {}
    return weights | ({"model.random": random} if random else {})


def absolute_data(data: str | Path) -> Path:
    """Return a path of labeled images that does not depend on the working directory; `ValueError` if it is missing."""
    path = Path(data)
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    return path.absolute()


def resolve_finetune(
    task: TaskName, run_dir: Path, resume: bool, preset: str | None, file: Path | None, overrides: Mapping[str, Any]
) -> FinetuneConfig:
    """Resolve the settings of a new run, or of the run in a folder that is resumed.

    Raises:
        ValueError: A setting is invalid, or must not change; no images or no encoder are given.
    """
    saved = run_dir / "config.yaml"
    if resume and saved.exists():
        return resume_finetune_config(saved, task, preset, file, overrides)
    config = load_finetune_config(task, preset, file, overrides)
    if not config.data.source:
        raise ValueError(f"no labeled images given; give a folder or a CSV: gtsa finetune {task} DATA")
    if not config.model.weights and config.model.random is None:
        raise ValueError("no weights to start from; give --model WEIGHTS, or --random vit_small to compare with")
    return config
