from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def no_curves() -> Iterator[None]:
    """Draw no curves in the runs of this process, half a second each; the command in its own process does."""
    from gtsa_kit.training.run_logger import RunLogger

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunLogger, "draw_curves", lambda _: None)
        yield
