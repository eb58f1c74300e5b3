"""Early end of a fine-tuning run: its last checkpoint becomes the result."""

from pathlib import Path
from typing import Any

from gtsa_kit.config.finetune import FinetuneConfig, resolved
from gtsa_kit.files import shell_word
from gtsa_kit.models.encoder_spec import EncoderSpec
from gtsa_kit.models.task_spec import TaskSpec
from gtsa_kit.tasks.build import learning_rates, place_model
from gtsa_kit.tasks.extension import check_data, check_kind
from gtsa_kit.tasks.finetune import measure
from gtsa_kit.tasks.result import write_result
from gtsa_kit.tasks.start import saved_start
from gtsa_kit.tasks.state import FinetuneCallback, FinetuneState
from gtsa_kit.tasks.task_data import open_task_data
from gtsa_kit.training.checkpoint import load_checkpoint
from gtsa_kit.training.fabric import make_fabric


def finish_run(run_dir: Path, callback: FinetuneCallback | None = None) -> str:
    """Score the model of the last checkpoint, and write the result; the run can still be resumed afterwards.

    The result is the best model of the run so far, as it is at the end of a run.

    Returns:
        A sentence on the step of the checkpoint.

    Raises:
        ValueError: The folder holds no run, or no checkpoint that can be read; or the labeled images are others.
    """
    callback = callback or FinetuneCallback()
    checkpoint = load_checkpoint(run_dir)
    if checkpoint is None and not (run_dir / "config.yaml").exists():
        raise ValueError(f"{run_dir} holds no run; give the folder of one with --out")
    if checkpoint is None:
        raise ValueError(f"{run_dir} holds no checkpoint yet; continue it with --resume --out {shell_word(run_dir)}")
    check_kind(checkpoint)
    state = state_of(checkpoint, run_dir, callback)
    if not state.best or state.best["step"] != state.step:
        measure(state, callback)
    write_result(state, callback)
    return f"written from the checkpoint of step {state.step} of {state.steps}; --resume continues the run"


def state_of(checkpoint: dict[str, Any], run_dir: Path, callback: FinetuneCallback) -> FinetuneState:
    """Return the state of a checkpoint in one process, without batches, as it is not trained."""
    config = FinetuneConfig.model_validate(checkpoint["settings"])
    alone = {"devices": 1, "accumulate": checkpoint["batch"] // resolved(config.train.batch_size)}
    config = config.model_copy(update={"train": config.train.model_copy(update=alone)})
    data, fabric = open_task_data(config, callback.on_progress), make_fabric(config.train)
    check_data(checkpoint, config, data)
    spec, start = TaskSpec.from_dict(checkpoint["task"]), saved_start(run_dir, EncoderSpec.from_dict(checkpoint))
    model = place_model(config, start, spec, checkpoint, fabric)
    trained = model.head if config.train.freeze else model
    lr = learning_rates(config, checkpoint["batch"], int((~data.validation).sum()))
    return FinetuneState(
        *(config, run_dir, data, checkpoint["data"], fabric, model, trained, trained, None, lr, None),
        mixer=None,
        class_weights=None,
        val_features=None,
        start_digest=config.model.sha256,
        step=checkpoint["step"],
        best=checkpoint["best"],
        extensions=tuple((step, old, new) for step, old, new in checkpoint["extensions"]),
    )
