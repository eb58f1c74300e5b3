"""Channels of the images of a run: read from the files, and measured once before the run starts."""

import os
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from gtsa_kit.config import ChannelsConfig, RunConfig
from gtsa_kit.config.channels_section import sample_scale
from gtsa_kit.data.channels.image import ChannelImage, ChannelLayout
from gtsa_kit.data.channels.read import read_header
from gtsa_kit.data.channels.reader import RGB, ImageReader
from gtsa_kit.data.channels.statistics import ChannelStatistics, StatisticsPass
from gtsa_kit.data.entries import Entry, Source
from gtsa_kit.data.formats import CHANNEL_SUFFIXES
from gtsa_kit.data.image_files import bounded_map, list_images
from gtsa_kit.data.image_io import ImageError
from gtsa_kit.data.sources import open_entry
from gtsa_kit.models.encoder_spec import EncoderSpec
from gtsa_kit.models.preprocessing import Preprocessing, Samples

HEADERS = 200
"""Number of images, spread evenly over the source, whose headers tell the channels of a run."""


def image_reader(config: RunConfig) -> ImageReader:
    """Return the reader of the images of a run."""
    return ImageReader(config.channels, round(config.train.max_megapixels * 1e6))


def resolve_channels(config: RunConfig) -> RunConfig:
    """Find out what the settings leave open about the channels of the images, and measure them in one pass.

    Images that are 8-bit RGB are read as without settings of channels.
    Of a large source, as many images are measured as are checked before a run.

    Raises:
        ValueError: No image has such channels.
    """
    if config.channels.is_measured:
        return config
    images = list_images(config.data, channels=True)
    return measure_channels(images.source, images.entries, config)


def measure_channels(source: Source, entries: Sequence[Entry], config: RunConfig) -> RunConfig:
    """Return settings with the channels of images, measured in one pass; see `resolve_channels`."""
    layout = _find_layout(source, entries, config)
    if layout == RGB and not _needs_channels(entries, config):
        return config.model_copy(update={"channels": ChannelsConfig()})
    config = _with_channels(config, {"count": layout.count, "dtype": layout.dtype, "colors": layout.colors})
    measured = _measure(source, entries, config)
    scale = sample_scale(layout.dtype)
    return _with_channels(
        config,
        {
            "mean": tuple(value / scale for value in measured.mean),
            "std": tuple(value / scale for value in measured.std),
            "low": measured.low,
            "high": measured.high,
        },
    )


def describe_channels(config: RunConfig) -> str:
    """Return what a run measured of its channels, in a sentence."""
    channels = config.channels
    assert channels.low, "measured when the run starts"
    assert channels.high, "measured when the run starts"
    limits = "percentiles" if channels.percentiles else "samples"
    text = f"{image_reader(config).layout}, {limits} from {min(channels.low):g} to {max(channels.high):g}"
    constant = [str(i) for i, (low, high) in enumerate(zip(channels.low, channels.high, strict=True)) if low == high]
    if constant:
        text += f"; constant: channel{'s' * (len(constant) > 1)} {', '.join(constant)} (from 0)"
    return f"images of {text}; mean and standard deviation of each channel are in config.yaml"


def with_channels(spec: EncoderSpec, config: RunConfig) -> EncoderSpec:
    """Return the specification of an encoder for the channels of a run, with what was measured of them."""
    channels = config.channels
    if channels.is_rgb:
        return spec
    values = (channels.mean, channels.std, channels.low, channels.high)
    mean, std, low, high = (value or () for value in values)
    assert channels.dtype, "read from the files when the run starts"
    clip = channels.percentiles is not None
    samples = Samples(channels.dtype, low, high, clip, bool(channels.colors), channels.dicom_window)
    own = spec.preprocessing
    preprocessing = Preprocessing(own.size, own.resize, own.interpolation, mean, std, samples)
    return EncoderSpec(spec.architecture.with_channels(len(mean)), preprocessing)


def _needs_channels(entries: Sequence[Entry], config: RunConfig) -> bool:
    """Return whether 8-bit RGB is read as other channels are: by settings, or from files that Pillow does not open."""
    channels = config.channels
    return bool(channels.percentiles or channels.scene_window) or any(
        Path(entry.name).suffix.lower() in CHANNEL_SUFFIXES for entry in entries
    )


def _find_layout(source: Source, entries: Sequence[Entry], config: RunConfig) -> ChannelLayout:
    """Return the layout that most images have, of those with the given number of channels and type, if any."""
    required = config.channels
    layouts: Counter[ChannelLayout] = Counter()
    for entry in entries[:: -(-len(entries) // HEADERS)]:
        try:
            with open_entry(source, entry) as content:
                layouts[read_header(content, Path(entry.name)).layout] += 1
        except ImageError:  # listed when the images are checked
            continue
    fitting = {
        layout: count
        for layout, count in layouts.items()
        if required.count in ("auto", layout.count) and required.dtype in (None, layout.dtype)
    }
    if not fitting:
        have = ", ".join(f"{count} of {layout}" for layout, count in layouts.most_common(3)) or "none that can be read"
        request = "channels" if required.count == "auto" else f"{required.count} channels"
        request += f" of {required.dtype}" if required.dtype else ""
        raise ValueError(f"no image of {config.data} has {request} (seen: {have}); give --channels auto")
    layout = max(fitting, key=lambda one: fitting[one])
    colors = layout.colors if required.colors is None else required.colors and layout.count == 3
    return ChannelLayout(layout.count, layout.dtype, colors)


def _measure(source: Source, entries: Sequence[Entry], config: RunConfig) -> ChannelStatistics:
    """Measure the images, or a random sample of many; those that can't be read are passed over."""
    limit, reader = config.train.validate_images or len(entries), image_reader(config)
    sample = entries if len(entries) <= limit else random.Random(config.train.seed).sample(entries, limit)
    measuring = StatisticsPass(reader.layout, len(sample) * len(reader.positions), config.channels.percentiles)

    def read(entry: Entry) -> list[ChannelImage]:
        parts = []
        for position in reader.positions:
            with suppress(ImageError), open_entry(source, entry, reader.reads_whole) as content:
                parts.append(reader(content, entry.name, reader.frames(content, entry.name) // 2, position))
        return parts

    cores = os.cpu_count() or 1
    with ThreadPoolExecutor(max_workers=cores) as pool:
        for parts in bounded_map(pool, read, sample, window=2 * cores):
            for part in parts:
                measuring.add(part)
    return measuring.result()


def _with_channels(config: RunConfig, changes: Mapping[str, object]) -> RunConfig:
    channels = type(config.channels).model_validate(config.channels.model_dump() | dict(changes))
    return config.model_copy(update={"channels": channels})
