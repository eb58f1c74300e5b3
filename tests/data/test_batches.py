"""Worker processes that load batches: their errors, waiting, and stops while waiting."""

import errno
import gc
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator

import pytest
import torch
from helpers.signals import WAIT_SECONDS, Gate
from torch import Tensor

from gtsa_kit.config import ViewsConfig
from gtsa_kit.data import batches as loading
from gtsa_kit.data.augment import make_views
from gtsa_kit.data.batches import LoadingError, StopWhileWaitingError, TimedBatches, make_batches, worker_errors
from gtsa_kit.data.multicrop import collate_views
from gtsa_kit.data.samples import Batch, DistributedBatchSampler

VIEWS = ViewsConfig(global_crops=2, local_crops=1, global_size=32, local_size=16)

pytestmark = pytest.mark.skipif(os.name == "nt", reason="these workers are forked")


class Samples(torch.utils.data.Dataset[Batch]):
    """A dataset that calls a function before it makes a sample."""

    def __init__(self, before: Callable[[int], None]) -> None:
        self.before = before

    def __getitem__(self, t: int) -> Batch:
        self.before(t)
        image = torch.zeros(3, 40, 40, dtype=torch.uint8)
        return Batch(make_views(image, VIEWS, torch.Generator().manual_seed(t)), [])


def batches(before: Callable[[int], None], max_wait: float = 600) -> TimedBatches:
    sampler = DistributedBatchSampler(2, 1, 0, 1, 0, 3)
    return TimedBatches(make_batches(Samples(before), sampler, 1, False, collate_views), max_wait)


@pytest.fixture
def hang(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """A function that waits until the test ends; torch terminates a worker that hangs at once, not after 5 seconds."""
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.05)
    gate = Gate()
    yield gate.wait
    gate.open()


def fail(t: int) -> None:
    raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize(
    ("before", "hint"),
    [
        (lambda _: os.kill(os.getpid(), signal.SIGBUS), r"/dev/shm .*; .*--workers 0.*--shm-size=8g"),
        (lambda _: os.kill(os.getpid(), signal.SIGKILL), r"was killed .*memory.*; use fewer --workers"),
        (fail, "Input/output error; see it happen with --workers 0"),
    ],
)
def test_a_worker_that_dies_or_fails_ends_the_wait_with_a_hint(before: Callable[[int], None], hint: str) -> None:
    with pytest.raises(LoadingError, match=hint), worker_errors():
        next(batches(before))


def test_a_batch_without_shared_memory_is_an_error_of_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's own thread would print the error and drop the batch, and the parent would wait forever."""

    def full(_: Tensor) -> Tensor:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(Tensor, "share_memory_", full)
    with pytest.raises(LoadingError, match="/dev/shm is full or too small"), worker_errors():
        next(batches(lambda _: None))


def test_a_batch_is_waited_for_until_the_limit(hang: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "POLL_SECONDS", 0.05)
    with pytest.raises(LoadingError, match=r"no batch of images for 0.2 seconds; .*max_batch_wait"):
        next(batches(hang, max_wait=0.2))


def test_waiting_loses_no_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "POLL_SECONDS", 0.01)
    gate, calls = Gate(), []

    def release_at_the_third() -> bool:
        calls.append(1)
        if len(calls) == 3:
            gate.open()
        return False

    delayed = batches(gate.wait)
    delayed.should_stop = release_at_the_third
    views = [next(delayed) for _ in range(3)]
    expected = batches(lambda _: None)
    for one in views:
        assert all(map(torch.equal, one, next(expected)))
    assert len(calls) >= 3


def test_a_stop_is_heard_while_a_batch_is_waited_for_and_the_terminated_worker_is_no_error(
    hang: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loading, "POLL_SECONDS", 0.05)
    waiting = batches(hang)
    waiting.should_stop = lambda: True
    with pytest.raises(StopWhileWaitingError):
        next(waiting)
    waiting.close()
    del waiting
    gc.collect()
    for worker in multiprocessing.active_children():  # terminated, and about to end
        worker.join(WAIT_SECONDS)
    assert "Error" not in capfd.readouterr().err


def test_errors_that_are_not_the_workers_pass() -> None:
    with pytest.raises(RuntimeError, match="CUDA out of memory"), worker_errors():
        raise RuntimeError("CUDA out of memory")
