"""Start of a run: its folder and its list of images."""

import random
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from gtsa_kit.config import RunConfig, dump_config
from gtsa_kit.data.channels.other import describe_reduced
from gtsa_kit.data.entries import Entry, Source
from gtsa_kit.data.image_files import NOT_RGB, ImageList, list_images, validate_images
from gtsa_kit.data.labeled import read_classification_dataset
from gtsa_kit.data.sources import open_entry
from gtsa_kit.files import write_text
from gtsa_kit.folder_lock import folder_lock
from gtsa_kit.models.run_folder import check_run_dir
from gtsa_kit.models.weights import save_weights
from gtsa_kit.training.channels import image_reader
from gtsa_kit.training.image_list import load_image_list, save_image_list
from gtsa_kit.training.run_logger import RunLogger
from gtsa_kit.training.start import FILE as START_FILE
from gtsa_kit.training.start import Start
from gtsa_kit.training.trainer import RunFailedError, TrainerCallback, check_unreadable_fraction


def prepare(
    config: RunConfig,
    run_dir: Path,
    resume: bool,
    callback: TrainerCallback,
    resources: ExitStack,
    start: Start | None = None,
) -> ImageList:
    """Create the run folder or check that it can be resumed; list the images and decode them once.

    A resumed run keeps its list of images, so that files added to the folder do not change their order. `resources`
    gets the lock of the folder. The folder of a new run gets the trained weights of `start`.

    Raises:
        ValueError: The folder holds another run or other files, another process uses it, or there are no images.
        RunFailedError: Too many images are unreadable.
    """
    has_checkpoint = check_run_dir(run_dir, resume)
    if config.train.probe:
        read_classification_dataset(Path(config.train.probe))  # an error of it comes before the run
    channels = not config.channels.is_rgb
    images = None if has_checkpoint else list_images(config.data, stamps=True, channels=channels)
    run_dir.mkdir(parents=True, exist_ok=True)
    resources.enter_context(folder_lock(run_dir))
    if check_run_dir(run_dir, resume) or images is None:  # another process may have trained a run meanwhile
        images = load_image_list(run_dir, config.data, channels=channels)
        write_text(run_dir / "config.yaml", dump_config(config))
        return images
    write_text(run_dir / "config.yaml", dump_config(config))
    for stale in ("metrics.jsonl", "errors.jsonl", START_FILE):
        (run_dir / stale).unlink(missing_ok=True)
    if start and start.weights:
        save_weights(run_dir / START_FILE, start.weights)
    images = _skip_unreadable(images, config, run_dir, callback)
    save_image_list(run_dir, config.data, images)
    return images


def _skip_unreadable(images: ImageList, config: RunConfig, run_dir: Path, callback: TrainerCallback) -> ImageList:
    """Return the images without the unreadable ones, which are listed in errors.jsonl."""
    kept = keep_readable(images, config, callback)
    logger = RunLogger(run_dir, 0)
    logger.add_unreadable([*images.unreadable, *kept.unreadable])
    logger.close()
    check_enough_readable(kept, config, run_dir)
    return kept


def keep_readable(images: ImageList, config: RunConfig, callback: TrainerCallback) -> ImageList:
    """Decode the images (a sample of a large folder), and return them without the unreadable ones; write nothing."""
    total = len(images.entries)
    limit = config.train.validate_images
    sample = images.entries if total <= limit else random.Random(config.train.seed).sample(images.entries, limit)
    done = 0

    def on_image() -> None:
        nonlocal done
        done += 1
        if callback.should_stop():
            raise KeyboardInterrupt
        callback.on_scan(done, len(sample))

    reader = image_reader(config)

    def read(source: Source, entry: Entry) -> None:
        with open_entry(source, entry, reader.reads_whole) as content:
            reader.samples(content, entry.name, positions=reader.positions)

    own = None if config.channels.is_rgb else read
    unreadable = validate_images(images.source, sample, reader.max_pixels, on_image, own)
    if config.channels.is_rgb:
        for note in filter(None, (describe_not_rgb(unreadable), describe_reduced(images.source, sample))):
            callback.on_notice(note)
    skipped = {entry.locator for entry in unreadable}
    entries = [entry for entry in images.entries if entry.locator not in skipped]
    return ImageList(images.source, entries, unreadable)


def describe_not_rgb(unreadable: Sequence[Entry]) -> str:
    """Return a note that images of other channels than 8-bit RGB are read with --channels; "" if there are none."""
    kinds = Counter(entry.reason.removesuffix(f", {NOT_RGB}") for entry in unreadable if entry.reason.endswith(NOT_RGB))
    if not kinds:
        return ""
    kind, count = kinds.most_common(1)[0][0], kinds.total()
    images = "image has" if count == 1 else "images have"
    return f"{count} {images} other channels than 8-bit RGB, such as {kind}; --channels auto reads them"


def check_enough_readable(kept: ImageList, config: RunConfig, run_dir: Path | None) -> None:
    """Raise `RunFailedError` if none of the images is readable, or too many are not.

    Args:
        kept: Result of `keep_readable`.
        config: Settings of the run.
        run_dir: Folder whose errors.jsonl lists the unreadable ones; None if there is none.
    """
    if len(kept.unreadable) == kept.total:
        listed = f"; see {run_dir / 'errors.jsonl'}" if run_dir else ""
        note = describe_not_rgb(kept.unreadable)
        raise RunFailedError(f"none of the {kept.total} images is readable{listed}{note and f'; {note}'}")
    checked = min(kept.total, config.train.validate_images)
    check_unreadable_fraction(len(kept.unreadable), checked or 1, config, run_dir)
