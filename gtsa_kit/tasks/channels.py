"""Channels of the labeled images of a run: those of its weights, or measured where the weights are for RGB."""

from pathlib import Path

from gtsa_kit.config import ChannelsConfig, RunConfig
from gtsa_kit.config.finetune import FinetuneConfig
from gtsa_kit.config.sections import InitConfig
from gtsa_kit.data.channels.reader import ImageReader
from gtsa_kit.data.entries import Entry
from gtsa_kit.data.labeled import read_classification_dataset
from gtsa_kit.data.mask_pairs import find_pairs
from gtsa_kit.data.sources import FileSource
from gtsa_kit.models.channel_images import channels_of
from gtsa_kit.training.channels import describe_channels, measure_channels, with_channels
from gtsa_kit.training.start import Start, fit_channels


def choose_channels(config: FinetuneConfig, start: Start) -> tuple[FinetuneConfig, Start]:
    """Return settings with the channels of the images, and the start with weights for them.

    Raises:
        ValueError: The settings ask for other channels than the weights have, or no image has those that they ask for.
    """
    preprocessing, given = start.spec.preprocessing, config.channels
    if given.scene_window is not None:
        raise ValueError("channels.scene_window is for gtsa train; labeled images are read whole, so omit it")
    if not preprocessing.is_rgb:
        own = channels_of(preprocessing)
        _check_given(given, own, config.model.weights)
        return config.model_copy(update={"channels": own}), start
    if given.is_rgb:
        return config, start
    train = RunConfig().train.model_copy(update={"seed": config.train.seed})
    named = {"data": config.data.source, "init": InitConfig(weights=config.model.weights), "train": train}
    run = RunConfig().model_copy(update={"channels": given, **named})
    if not given.is_measured:
        entries = [Entry(str(path), str(path)) for path in _image_paths(config)]
        run = measure_channels(FileSource(Path(config.data.source)), entries, run)
    config = config.model_copy(update={"channels": run.channels})
    if start.weights is None and not run.channels.is_rgb:
        return config, Start(with_channels(start.spec, run), notes=(describe_channels(run),))
    return config, fit_channels(start, run)


def _check_given(given: ChannelsConfig, own: ChannelsConfig, weights: str) -> None:
    """Raise `ValueError` if a setting is another one than that of the weights."""
    default = ChannelsConfig()
    for name, value in given:
        is_open = value == getattr(default, name) or (name, value) == ("count", "auto")
        if not is_open and value != getattr(own, name):
            raise ValueError(
                f"channels.{name} is {value}, and that of {weights} {getattr(own, name)}; omit it: images are "
                "read with the channels of the weights"
            )


def _image_paths(config: FinetuneConfig) -> list[Path]:
    """Return the files of the images, of which none has been opened."""
    source, reader = Path(config.data.source), ImageReader(ChannelsConfig(count="auto"))
    if config.task == "segment":
        return [pair.image for pair in find_pairs(source, None, config.data.mask_suffix, channels=True)[0]]
    if config.task == "classify":
        return read_classification_dataset(source, config.data.max_missing, reader).paths
    raise ValueError("objects are learned from the channels of the weights; name weights of gtsa train --channels")
