"""Sentences about a run, for train.log and the console."""

from pathlib import Path

from gtsa_kit.config import PUBLISHED_MOMENTUM, RunConfig
from gtsa_kit.files import shell_word
from gtsa_kit.training.optim import MAX_INITIAL_SHARE, make_schedules, teacher_momenta
from gtsa_kit.training.state import TrainState

MAX_TRAINED_SHARE = 0.5
"""Largest share that a teacher may keep of trained weights without a notice."""


def start_notices(state: TrainState) -> list[str]:
    """Return the sentences before the first step: memory and time, an extension, a teacher that will lag."""
    left, notices = state.schedule.steps - state.step, []
    if state.estimate:
        notices.append(state.estimate.sentence(state.config.train.micro_batch, left, state.schedule.batch))
    notices += [extension_notice(state)] if state.extensions and state.extensions[-1][0] == state.step else []
    share = state.final_initial_share()
    if share >= max_share(state.config):
        momenta, steps = state.schedules.teacher_momentum, state.schedule.steps
        published, auto = PUBLISHED_MOMENTUM[state.config.method], {"teacher_momentum": "auto"}
        optim = state.config.optim.model_copy(update=auto)
        first, _ = teacher_momenta(optim, published, steps, state.schedule.frozen)
        notices.append(
            f"the teacher lags: with a momentum of {momenta[0]:g} to {momenta[-1]:g} over {steps} steps it will keep "
            f"{share:.2g} of its initial weights; optim.teacher_momentum=auto would start at {first:g}"
        )
    return notices


def max_share(config: RunConfig) -> float:
    """Return the share of initial weights from which on a teacher lags: trained ones may stay in it."""
    return MAX_TRAINED_SHARE if config.init.weights else MAX_INITIAL_SHARE


def lag_notices(initial_share: float, run_dir: Path, config: RunConfig) -> list[str]:
    """Return a sentence if the teacher has kept `max_share` of its initial weights, or more."""
    if initial_share < max_share(config):
        return []
    return [
        f"the teacher lags: it has kept {initial_share:.2g} of its initial weights; "
        f"the student has not: gtsa export {shell_word(run_dir)} --branch student"
    ]


def extension_notice(state: TrainState) -> str:
    """Return the sentence on the schedules of a run that was extended when it was resumed."""
    step, before, after = state.extensions[-1]
    shorter = state.schedule.with_steps(before, state.config)
    old = make_schedules(
        *(state.config.optim, before, shorter.warmup, shorter.batch),
        published_momentum=PUBLISHED_MOMENTUM[state.config.method],
        frozen=shorter.frozen,
    )
    last, now = old.at(min(step, before - 1)), state.schedules.at(step)
    names = {"lr": "learning rate", "weight_decay": "weight decay", "teacher_momentum": "teacher momentum"}
    changes = ", ".join(f"{name} {last[key]:.4g} to {now[key]:.4g}" for key, name in names.items())
    return (
        f"extended from {before} to {after} steps: from step {step} on all schedules are those of {after} ({changes})"
    )
