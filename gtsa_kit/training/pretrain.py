"""Public function `pretrain`, and the settings of a new or resumed run."""

from collections.abc import Mapping
from glob import has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gtsa_kit.config import RunConfig, load_config
from gtsa_kit.models.run_folder import newest_checkpoint

if TYPE_CHECKING:
    from gtsa_kit.training.trainer import TrainerCallback


def pretrain(
    images: str | Path,
    out: str | Path,
    *,
    preset: str | None = None,
    method: str | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    callback: "TrainerCallback | None" = None,
) -> Path:
    """Train an encoder on images without labels, as `gtsa train` does.

    Args:
        images: Folder, glob, list, archive or URL.
        out: Run folder: new, or with `resume` that of an earlier call.
        preset: "coco" (the paper's settings, the default), "ade20k" or "quick".
        method: "gtsa" (the default), "dino" or "mocov3".
        settings: Further settings by their dotted names, such as {"train.batch_size": 64}.
        resume: Continue the run in `out` from its newest checkpoint, with its saved settings; more steps extend it.
        callback: Training callback; its `should_stop` ends the run early.

    Returns:
        The run folder. It holds encoder.safetensors when the run has finished.

    Raises:
        ValueError: A setting or a folder is invalid, or a resumed run has other settings; training was not started.
        RunFailedError: Training was started and cannot continue, for example because too many images are unreadable.
    """
    from gtsa_kit.training.run import train
    from gtsa_kit.training.trainer import TrainerCallback

    overrides = {"data": absolute_source(str(images)), **({"method": method} if method else {}), **(settings or {})}
    config = resolve_config(Path(out), resume, preset, None, overrides)
    train(config, Path(out), resume, callback or TrainerCallback())
    return Path(out)


def resolve_config(
    run_dir: Path, resume: bool, preset: str | None, file: Path | None, overrides: Mapping[str, Any]
) -> RunConfig:
    """Resolve the settings of a run from preset, file and overrides; a resumed run starts from its saved settings.

    Args:
        run_dir: Run folder.
        resume: Whether to continue the run in the folder, if there is one.
        preset: Name of a preset; "coco" by default for a new run.
        file: YAML file of settings.
        overrides: Settings by their dotted names.

    Raises:
        ValueError: A setting is invalid, or differs from the saved run and must not change on resume.
    """
    saved_file = run_dir / "config.yaml"
    if not (resume and (saved_file.exists() or newest_checkpoint(run_dir))):
        return load_config(preset or "coco", file, overrides)
    from gtsa_kit.training.resume import diff_configs, restore_config

    if not saved_file.exists():
        restore_config(run_dir)

    saved = load_config(file=saved_file)
    if overrides.get("method", saved.method) != saved.method:  # checked first, because a method changes other settings
        raise ValueError(
            f"the run in {run_dir} has the method {saved.method}; choose another --out for {overrides['method']}"
        )
    base = {"data": saved.data, "method": saved.method} | dict(overrides)
    if base.get("train.batch_size") == "auto":  # it was chosen when the run started
        base["train.batch_size"] = saved.train.batch_size
    if preset or file:
        settings = load_config(preset or "coco", file, base)
    else:
        settings = load_config(file=saved_file, overrides=base)
    if changed := diff_configs(saved, settings):
        raise ValueError(
            f"the run in {run_dir} has other settings (saved, now: {'; '.join(changed)}); "
            "remove these options to resume it, or choose another --out for a new run"
        )
    return settings


def absolute_source(source: str) -> str:
    """Return a source of images that does not depend on the working directory.

    Raises:
        ValueError: The source is empty, or a path that does not exist.
    """
    if not source.strip():
        raise ValueError("the source of the images is an empty text; give a folder, and for this one a dot")
    if "://" in source:
        return source
    path = Path(source)
    if not has_magic(source) and not path.exists():
        raise ValueError(f"{path} does not exist")
    return str(path.absolute())
