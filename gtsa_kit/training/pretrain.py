"""Public function `pretrain`, and the settings of a new or resumed run."""

from collections.abc import Collection, Mapping
from glob import has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gtsa_kit.config import InitConfig, RunConfig, given_settings, load_config
from gtsa_kit.models.packaged_weights import resolve_weights
from gtsa_kit.models.run_folder import newest_checkpoint

if TYPE_CHECKING:
    from gtsa_kit.training.start import Start
    from gtsa_kit.training.trainer import TrainerCallback


def pretrain(
    images: str | Path,
    out: str | Path,
    *,
    init: str | Path | None = None,
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
        init: Weights to start from, instead of random ones: a run folder, weights of gtsa-kit, or a checkpoint of
            another tool. Facts that its file does not contain are settings, such as {"init.mean": (0.5, 0.5, 0.5)}.
        preset: "coco" (the paper's settings, the default), "ade20k", "quick", or "adapt", which goes well with `init`.
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
    overrides |= {"init.weights": absolute_source(str(resolve_weights(init)))} if init else {}
    config = resolve_config(Path(out), resume, preset, None, overrides)
    config, start = open_weights_to_start(config, Path(out), resume, given_settings(None, overrides))
    train(config, Path(out), resume, callback or TrainerCallback(), start)
    return Path(out)


def open_weights_to_start(
    config: RunConfig, run_dir: Path, resume: bool, given: Collection[str]
) -> "tuple[RunConfig, Start | None]":
    """Open the weights that a new run starts from, and fit the settings to them.

    Args:
        config: Settings of the run.
        run_dir: Run folder.
        resume: Whether to continue the run in the folder, if there is one.
        given: Dotted keys of the settings that are no defaults.

    Returns:
        Settings and weights; None for random weights, and for a run that goes on from a checkpoint.

    Raises:
        ValueError: The weights can't be opened, or given settings do not fit them.
    """
    if resume and newest_checkpoint(run_dir):
        return config, None
    if not config.channels.is_measured:
        from gtsa_kit.training.channels import resolve_channels

        config = resolve_channels(config)
    if not config.init.weights:
        return config, None
    from gtsa_kit.training.start import check_start, fit_views, open_start

    config, start = fit_views(config, open_start(config), given)
    return check_start(config, start), start


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
    given = given_settings(file, overrides)
    check_same_start(saved, given, run_dir)
    base = {"data": saved.data, "method": saved.method} | dict(overrides) | _saved_start(saved, given)
    base = _saved_channels(saved, base, run_dir) | base
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


def check_same_start(saved: RunConfig, given: Mapping[str, Any], run_dir: Path) -> None:
    """Raise `ValueError` if weights to start from are given, and are not those that a saved run started from.

    Args:
        saved: Settings of the run.
        given: Given settings by dotted key.
        run_dir: Run folder.
    """
    init = load_config(overrides={key: value for key, value in given.items() if key.startswith("init.")}).init
    if init in (InitConfig(), saved.init):
        return
    other = "choose another --out for a new run"
    if not saved.init.weights:
        raise ValueError(f"the run in {run_dir} started from random weights; omit --init, or {other}")
    facts = {name: value for name, value in init.model_dump().items() if value and name != "weights"}
    if changed := [name for name, value in facts.items() if getattr(saved.init, name) != value]:
        raise ValueError(f"the run in {run_dir} has another init.{changed[0]}; omit it to resume the run, or {other}")
    from gtsa_kit.training.start import open_start

    path = init.weights or saved.init.weights
    config = saved.model_copy(update={"init": saved.init.model_copy(update={"weights": path, "sha256": ""})})
    if (digest := open_start(config).sha256) != saved.init.sha256:
        raise ValueError(
            f"the run in {run_dir} started from other weights than {path}: SHA-256 {saved.init.sha256[:12]}..., "
            f"now {digest[:12]}...; omit --init to resume it, or {other}"
        )


RGB_CHANNELS = 3
"""Number that --channels may give for 8-bit RGB."""


def _saved_channels(saved: RunConfig, base: dict[str, Any], run_dir: Path) -> dict[str, Any]:
    """Return what a saved run has found out about its channels, by dotted key; auto is taken out of `base`.

    Raises:
        ValueError: Another number of channels is given.
    """
    count = base.get("channels.count", saved.channels.count)
    if count == "auto" or (count == RGB_CHANNELS and saved.channels.is_rgb):
        del base["channels.count"]
    elif count != saved.channels.count:
        raise ValueError(f"the run in {run_dir} has {saved.channels.count} channels; choose another --out for {count}")
    if saved.channels.is_rgb:
        return {}
    return {f"channels.{key}": value for key, value in saved.channels.model_dump(mode="json").items()}


def _saved_start(saved: RunConfig, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a saved run that follow from the weights that it started from, by dotted key."""
    start = {f"init.{key}": value for key, value in saved.init.model_dump().items()}
    if saved.init.weights:
        views = {f"views.{key}": getattr(saved.views, key) for key in ("global_size", "local_size", "interpolation")}
        start |= {key: value for key, value in views.items() if key not in given}
    return start


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
