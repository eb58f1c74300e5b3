"""Signals that stop a command: the first one, a second one, and the end of the terminal."""

import os
import signal
from pathlib import Path

import pytest
from helpers.commands import TINY
from helpers.signals import ctrl_c_raises

from gtsa_kit.cli.support import common
from gtsa_kit.cli.support.common import stop_on_signal
from gtsa_kit.cli.support.progress import make_console
from gtsa_kit.cli.support.training_display import TrainingDisplay, training_display
from gtsa_kit.config import load_config
from gtsa_kit.training.checkpoint import load_checkpoint
from gtsa_kit.training.run import train
from gtsa_kit.training.run_logger import RunLogger, StepMetrics

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
BOTH = [signal.SIGINT, signal.SIGTERM]
ALL = [*BOTH, signal.SIGHUP] if hasattr(signal, "SIGHUP") else BOTH


def ignore(*_: object) -> None:
    """Take the place of the handler of a test run, which may ignore a signal or end with it."""


@pytest.fixture(autouse=True)
def handlers() -> None:
    before = {number: signal.signal(number, ignore) for number in ALL}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ALL)
def test_the_first_signal_asks_to_stop(number: int) -> None:
    calls = []
    with stop_on_signal(lambda: calls.append(number)):
        signal.raise_signal(number)
    assert calls == [number]
    assert signal.getsignal(number) is ignore


@pytest.mark.parametrize("first", ALL)
@pytest.mark.parametrize("second", BOTH)
def test_a_second_signal_ends_at_once(first: int, second: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "REPEAT_SECONDS", -1)
    passed = []
    ends = second == signal.SIGINT or first == second
    with ctrl_c_raises(), stop_on_signal(lambda: None):
        signal.raise_signal(first)
        try:
            signal.raise_signal(second)
            passed.append(second)
        except KeyboardInterrupt:
            pass
    assert passed == ([] if ends else [second])


def test_one_signal_that_is_delivered_twice_is_one() -> None:
    """SIGTERM may come from the launcher too, SIGHUP from kernel and shell."""
    calls = []
    with stop_on_signal(lambda: calls.append(1)):
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP, signal.SIGHUP):
            signal.raise_signal(number)
    assert calls == [1]


def test_nohup_keeps_ignoring_the_end_of_the_terminal() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stop_on_signal(lambda: pytest.fail("it was asked to stop")):
        signal.raise_signal(signal.SIGHUP)


def test_output_is_dropped_when_the_terminal_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    common._drop_output([writing])
    os.write(writing, b"nobody reads this")
    os.close(writing)
    assert os.read(reading, 10) == b""
    os.close(reading)


@pytest.mark.parametrize("number", ALL)
def test_training_saves_a_checkpoint_and_stops(
    number: int, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_step_end = TrainingDisplay.on_step_end

    def signal_at_two(display: TrainingDisplay, step: int, metrics: StepMetrics | None) -> None:
        on_step_end(display, step, metrics)
        if step == 2:
            signal.raise_signal(number)

    monkeypatch.setattr(TrainingDisplay, "on_step_end", signal_at_two)
    monkeypatch.setattr(RunLogger, "draw_curves", lambda _: None)
    config = load_config(overrides={**TINY, "data": str(images), "train.steps": 6})
    with training_display(make_console()) as display:
        assert not train(config, tmp_path / "run", False, display)
    assert load_checkpoint(tmp_path / "run")["step"] == 3
