"""Beginning and continuing of a job: the inputs and settings that a folder was begun with, against those of now."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gtsa_kit.data.channels.frames import Frames
from gtsa_kit.data.entries import Source
from gtsa_kit.data.sources import open_source
from gtsa_kit.embedding.folder import INPUT_INDEX, JOB
from gtsa_kit.embedding.input_index import (
    InputIndex,
    describe_changes,
    keep_stamps,
    open_input_index,
    write_input_index,
)
from gtsa_kit.embedding.moved import check_moved
from gtsa_kit.files import shell_word, write_json


def open_inputs(where: str, out: Path, command: str) -> Source:
    """Open the source of a job; if that of a job in `out` can't be opened, its images may have moved.

    Args:
        where: The source.
        out: Folder of the job.
        command: Command that continues the job, with NEW_PLACE for the source.

    Raises:
        ValueError: There is no such source.
    """
    try:
        return open_source(where)
    except ValueError as error:
        if not (out / JOB).exists():
            raise
        hint = f"if the images moved, name their new place: {command} --resume --out {shell_word(out)}"
        raise ValueError(f"{str(error).partition('; ')[0]}; {hint}") from error


def create_or_resume(
    out: Path,
    source: Source,
    where: str,
    record: Callable[[InputIndex], dict[str, Any]],
    sample: Callable[[], Mapping[str, str]],
    channels: bool = False,
    frames: Frames = "first",
) -> InputIndex:
    """Write the input index and job.json of a new job, or compare them with those of the job to resume.

    Images that moved keep the stamps that the job began with, so that rows do not depend on the move. `listing` in
    job.json is then the digest of the images with the stamps of their new place.

    Args:
        out: Folder of the job.
        source: The opened source.
        where: Its name, for errors.
        record: Function from the inputs to the content of job.json: everything that the results depend on.
        sample: Function that returns the SHA-256 of some images that are done, by name; called if the images moved.
        channels: Whether formats count that are read with all of their channels alone.
        frames: Whether the first frame of a file counts, or each of them.

    Raises:
        ValueError: The model, an option or an input has changed.
    """
    record_file = out / JOB
    if not record_file.exists():
        inputs = write_input_index(source, out / INPUT_INDEX, channels, frames)
        write_json(record_file, record(inputs))
        return inputs
    inputs = write_input_index(source, out / ".input_index.new.sqlite", channels, frames)
    try:
        old = json.loads(record_file.read_text(encoding="utf-8"))
        new = json.loads(json.dumps(record(inputs)))
        check_unchanged(old, new, out)
        moved = inputs.digest != old.get("listing", old["inputs"]["sha256"])
        before = open_input_index(out / INPUT_INDEX)
        if moved and new["source"] == old["source"]:
            changes = describe_changes(before.path, inputs.path)
            raise ValueError(
                f"the images of {where} have changed since {out} was started: {changes}; choose another folder"
            )
        if moved:
            check_moved(before, inputs, out, source, where, sample)
        keep_stamps(before.path, inputs.path)
        os.replace(inputs.path, out / INPUT_INDEX)
        listing = {"listing": inputs.digest} if moved else {}
        write_json(record_file, old | {"source": new["source"], "model": new["model"]} | listing)
    finally:
        inputs.path.unlink(missing_ok=True)
    return open_input_index(out / INPUT_INDEX)


def check_unchanged(old: dict[str, Any], new: dict[str, Any], out: Path) -> None:
    """Raise `ValueError` if the model or an option differs between two records of a job."""
    changed = [name for name in new if new[name] != old.get(name) and name not in ("source", "gtsa_kit", "inputs")]
    if "model" in changed and old["model"]["sha256"] == new["model"]["sha256"]:
        changed.remove("model")  # the same model under another path
    if changed:
        name = changed[0]
        values = f"{name}: {_shorten(old.get(name))} before, {_shorten(new[name])} now"
        raise ValueError(
            f"{out} was started with other settings ({', '.join(changed)} changed). {values}; "
            "use the settings of the first call, or choose another folder"
        )


def _shorten(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) < 120 else text[:117] + "..."
