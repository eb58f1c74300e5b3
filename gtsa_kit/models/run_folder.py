"""Weights in a run folder: the saved encoder of a finished run, or a branch in a checkpoint."""

import json
from pathlib import Path
from typing import Final, Literal, NamedTuple

import yaml

from gtsa_kit.files import sha256_of, shell_word
from gtsa_kit.models.task_spec import HEADS

Branch = Literal["teacher", "student"]

ENCODER: Final = "encoder.safetensors"
CHECKPOINTS: Final = "checkpoints"
DIGESTS: Final = "SHA256SUMS"
"""File beside the checkpoints, as `sha256sum` writes it."""
MODEL: Final = "model.safetensors"
"""File of a fine-tuned model in its run folder; `model.json` lies beside it."""
EXPORT_FILE: Final = "gtsa.json"
"""Report that `gtsa export` writes into a folder for another framework or for Triton."""


class RunWeights(NamedTuple):
    """File of a run folder that holds the requested weights."""

    file: Path
    branch: Branch | None
    """Branch to take from the file; None for encoder.safetensors, which holds the teacher's encoder alone."""
    note: str
    """Sentence about weights that are not those of the finished run's teacher, else ""."""


def is_run(folder: Path) -> bool:
    """Return whether a folder is that of a run, finished or not."""
    return folder.is_dir() and ((folder / ENCODER).exists() or (folder / CHECKPOINTS).exists())


def list_checkpoints(run_dir: Path) -> list[Path]:
    """Return the complete checkpoints of a run folder, newest first; an unfinished one still has a temporary name."""
    folder = run_dir / CHECKPOINTS
    numbered, last = sorted(folder.glob("step_*.ckpt"), reverse=True), folder / "last"
    if not last.exists() or any(path.samefile(last) for path in numbered):
        return numbered
    return [*numbered, last]


def newest_checkpoint(run_dir: Path) -> Path | None:
    """Return the newest complete checkpoint of a run folder."""
    return next(iter(list_checkpoints(run_dir)), None)


def read_digests(folder: Path) -> list[tuple[str, str]]:
    """Return SHA-256 and name of every line of SHA256SUMS."""
    try:
        lines = (folder / DIGESTS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    return [(digest, name) for digest, _, name in (line.partition("  ") for line in lines)]


def is_intact(checkpoint: Path) -> bool:
    """Return whether a checkpoint holds what was written, as far as SHA256SUMS knows it.

    A name has two lines after a checkpoint was replaced: a kill may have come before or after.
    """
    digests = {digest for digest, name in read_digests(checkpoint.parent) if name == checkpoint.name}
    return not digests or sha256_of(checkpoint) in digests


def check_run_dir(run_dir: Path, resume: bool) -> bool:
    """Check that a folder is free for a new run, or holds a run to resume; return whether there is a checkpoint.

    Raises:
        ValueError: The folder is a file, holds a run that is not to be resumed, or other files.
    """
    if run_dir.exists() and not run_dir.is_dir():
        raise ValueError(f"{run_dir} is a file; choose another --out")
    has_checkpoint = newest_checkpoint(run_dir) is not None
    if has_checkpoint and not resume:
        raise ValueError(f"{run_dir} already holds a run; add --resume to continue it, or choose another --out")
    is_new = not has_checkpoint and run_dir.is_dir() and not (run_dir / "config.yaml").exists()
    if is_new and any(not path.name.startswith(".") for path in run_dir.iterdir()):
        raise ValueError(f"{run_dir} is not empty and holds no run; choose another --out")
    return has_checkpoint


def find_run_weights(run_dir: Path, branch: Branch | None = None) -> RunWeights:
    """Find the weights of a run: encoder.safetensors, or for an unfinished run and for the student the checkpoint.

    Args:
        run_dir: Run folder.
        branch: Requested branch; None means the teacher.

    Raises:
        ValueError: The run has no checkpoint yet, it was deleted, or it is damaged.
    """
    encoder, checkpoint = run_dir / ENCODER, newest_checkpoint(run_dir)
    if encoder.exists() and branch != "student":
        return RunWeights(encoder, None, _newer_checkpoint_note(encoder, checkpoint))
    if checkpoint is None:
        hint = (
            "only a checkpoint holds the student"
            if encoder.exists()
            else f"continue it with: gtsa train --resume --out {shell_word(run_dir)}"
        )
        raise ValueError(f"{run_dir} holds no checkpoint; {hint}")
    if not is_intact(checkpoint):
        raise ValueError(
            f"{checkpoint} is damaged: its content is not what was written; delete it to use the checkpoint before it"
        )
    branch = branch or "teacher"
    if encoder.exists():
        return RunWeights(checkpoint, branch, f"the {branch} of {_describe(checkpoint)}")
    note = f"{run_dir} is an unfinished run: this is the {branch} of {_describe(checkpoint)}"
    return RunWeights(checkpoint, branch, note)


def checkpoint_step(checkpoint: Path) -> int | None:
    """Return the step in a checkpoint's name, or None for `last` without its numbered file."""
    number = checkpoint.stem.removeprefix("step_")
    return int(number) if number.isdecimal() else None


def _describe(checkpoint: Path) -> str:
    step = checkpoint_step(checkpoint)
    return f"the last checkpoint, of step {step}" if step is not None else "the last checkpoint"


def _newer_checkpoint_note(encoder: Path, checkpoint: Path | None) -> str:
    """Return a sentence if a checkpoint is newer than the encoder: the run was extended and is not finished."""
    step = checkpoint_step(checkpoint) if checkpoint else None
    try:
        saved = json.loads(encoder.with_suffix(".json").read_text(encoding="utf-8"))["training"]["steps"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    if step is None or not isinstance(saved, int) or step <= saved:
        return ""
    return f"{encoder} is of step {saved}; the run was continued, its last checkpoint is of step {step}"


def is_task_run(path: Path) -> bool:
    """Return whether a path is a run folder with a fine-tuned model, or the file of one."""
    file = path / MODEL if path.is_dir() else path
    return file.name == MODEL and file.exists() and file.with_suffix(".json").exists()


def check_finished(path: Path) -> None:
    """Raise `ValueError` for the folder of a fine-tuning run that has no model yet."""
    settings = path / "config.yaml"
    if not settings.is_file() or is_task_run(path):
        return
    content = yaml.safe_load(settings.read_text(encoding="utf-8"))
    if isinstance(content, dict) and content.get("task") in HEADS and "head" in content:
        command = f"gtsa finetune {content['task']} --resume --out {shell_word(path)}"
        raise ValueError(f"{path} is an unfinished run of fine-tuning, which has no model yet; continue it: {command}")
