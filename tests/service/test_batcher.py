"""Batcher: composition and order of batches, waiting, cancellation and failures."""

import asyncio
import time
from collections.abc import Coroutine, Sequence
from typing import Any

import numpy as np
import pytest
from helpers.running_service import GatedRunner, SlowRunner
from helpers.signals import WAIT_SECONDS

from gtsa_kit.export import Runner
from gtsa_kit.service import served_model
from gtsa_kit.service.batcher import Batcher, InferenceResult
from gtsa_kit.service.errors import APIError
from gtsa_kit.service.metrics import ServiceMetrics
from gtsa_kit.service.served_model import ServedModel

MAX_WAIT = 1.0
"""Seconds that a batch waits for images that are expected."""


def image(value: float, side: int = 16) -> np.ndarray:
    return np.full((3, side, side), value, np.float32)


def run(runner: Runner, work: Any, max_batch: int = 4, max_wait: float = 0.0) -> Any:
    async def run_and_close() -> Any:
        batcher = Batcher(ServedModel(runner), max_batch, max_wait, ServiceMetrics())
        try:
            return await asyncio.wait_for(work(batcher), WAIT_SECONDS)
        finally:
            await batcher.close()

    return asyncio.run(run_and_close())


async def start_calls(
    batcher: Batcher, *calls: Coroutine[Any, Any, InferenceResult]
) -> list[asyncio.Task[InferenceResult]]:
    """Start the calls in this order and let them proceed to the queue."""
    tasks = [asyncio.create_task(call) for call in calls]
    await let_proceed()
    return tasks


async def let_proceed() -> None:
    """Let every task run until it waits for the model or for time."""
    for _ in range(50):
        await asyncio.sleep(0)


def test_batches_hold_images_of_one_size_up_to_the_limit_oldest_first(runner: Runner) -> None:
    gated = GatedRunner(runner)

    async def work(batcher: Batcher) -> list[InferenceResult]:
        first = await start_calls(batcher, batcher(image(0)))  # occupies the model
        rest = await start_calls(
            batcher,
            *(batcher(image(i)) for i in (1, 2, 3)),
            batcher(image(9, 32)),
            *(batcher(image(i)) for i in (4, 5, 6)),
        )
        gated.gate.set()
        return await asyncio.gather(*first, *rest)

    results = run(gated, work)
    assert [shape[0] for shape in gated.batches] == [1, 4, 1, 2]
    assert gated.batches[2][2] == 32
    assert [r.batch_size for r in results] == [1, 4, 4, 4, 1, 4, 2, 2]
    for value, result in zip((0, 1, 2, 3, 9, 4, 5, 6), results, strict=True):
        alone = runner(image(value, 32 if value == 9 else 16)[None])
        np.testing.assert_allclose(result.output.features.embedding, alone.embedding[0], atol=2e-4)
        np.testing.assert_allclose(result.output.features.layers[1], alone.layers[1][0], atol=2e-4)
    assert gated.threads == {"gtsa-model_0"}


def test_a_lone_image_does_not_wait_but_one_with_others_expected_does(runner: Runner) -> None:
    slow = SlowRunner(runner, 0.0)

    async def work(batcher: Batcher) -> tuple[float, float, list[InferenceResult]]:
        await batcher(image(0))
        started = time.monotonic()
        await batcher(image(1))
        lone_seconds = time.monotonic() - started
        with batcher.expect():
            first = await start_calls(batcher, batcher(image(2)))
            assert not first[0].done()
            second = await start_calls(batcher, batcher(image(3)))
        both = await asyncio.gather(*first, *second)
        with batcher.expect():  # an image that never arrives
            started = time.monotonic()
            await batcher(image(4))
            return lone_seconds, time.monotonic() - started, both

    lone_seconds, waited_seconds, both = run(slow, work, max_wait=MAX_WAIT)
    assert lone_seconds < MAX_WAIT
    assert waited_seconds > 0.95 * MAX_WAIT
    assert [r.batch_size for r in both] == [2, 2]


def test_a_cancelled_image_leaves_the_queue_and_the_others_are_computed(runner: Runner) -> None:
    gated = GatedRunner(runner)

    async def work(batcher: Batcher) -> None:
        tasks = await start_calls(batcher, batcher(image(0)))
        tasks += await start_calls(batcher, *(batcher(image(i)) for i in (1, 2, 3)), batcher(image(4)))
        assert batcher.queued == 4
        for i in (0, 2, 3):  # the first is in the model already
            tasks[i].cancel()
        await let_proceed()
        assert batcher.queued == 2
        gated.gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(r, asyncio.CancelledError) for r in results] == [True, False, True, True, False]

    run(gated, work, max_batch=8)
    assert [shape[0] for shape in gated.batches] == [1, 2]


def test_an_image_that_the_model_can_not_compute_fails_alone(runner: Runner) -> None:
    class FailingRunner(SlowRunner):
        def _run(self, images: np.ndarray) -> Sequence[np.ndarray]:
            if (images == 7).any():
                raise RuntimeError("CUDA error at /usr/lib/secret.so")
            return super()._run(images)

    async def work(batcher: Batcher) -> list[Any]:
        results = await asyncio.gather(*(batcher(image(i)) for i in (5, 6, 7, 8)), return_exceptions=True)
        assert batcher.alive
        return [*results, await batcher(image(1))]

    results = run(FailingRunner(runner, 0.0), work)
    assert [type(result) for result in results] == [
        InferenceResult,
        InferenceResult,
        APIError,
        InferenceResult,
        InferenceResult,
    ]
    assert results[2].status == 503
    assert "secret" not in results[2].message


@pytest.mark.parametrize(("side", "limit"), [(224, 8), (112, 8), (448, 2), (1024, 1)])
def test_a_batch_of_larger_images_holds_fewer(runner: Runner, side: int, limit: int) -> None:
    batcher_limit = []

    async def work(batcher: Batcher) -> None:
        batcher_limit.append(batcher.batch_limit((3, side, side)))

    run(runner, work, max_batch=8)
    assert batcher_limit == [limit]


@pytest.mark.parametrize(
    ("provider", "threads", "batch"),
    [
        ("ONNX Runtime, CPUExecutionProvider", 2, 4),
        ("ONNX Runtime, CPUExecutionProvider", 1, 4),
        ("OpenVINO on CPU, f32", 6, 12),
        ("TorchScript on cpu", 64, 32),
        ("TorchScript on cuda:0", 2, 32),
        ("ONNX Runtime, CUDAExecutionProvider, 3 Shape elsewhere", 2, 32),
        ("tensorrt-rtx 1.7.1 on NVIDIA H200", 2, 32),
    ],
)
def test_the_default_batch_follows_the_device(
    provider: str, threads: int, batch: int, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU a batch of all clients at once leaves the model without work while they send the next images."""
    named = GatedRunner(runner)
    named.provider = provider
    monkeypatch.setattr(served_model, "compute_threads", lambda: threads)
    assert ServedModel(named).default_batch == batch
