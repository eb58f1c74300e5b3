"""Latency of small responses."""

import http.client
import statistics
import time

from helpers.running_service import RunningService


def test_small_responses_on_a_kept_connection_do_not_wait_for_acknowledgements(service: RunningService) -> None:
    """The second piece of each response must not wait 40 ms for an acknowledgement, so TCP_NODELAY is set."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    seconds = []
    for _ in range(60):
        started = time.perf_counter()
        connection.request("GET", "/health")
        assert connection.getresponse().read()
        seconds.append(time.perf_counter() - started)
    connection.close()
    # The first responses are acknowledged at once in any case. A busy machine delays some of the others, not all.
    assert statistics.quantiles(seconds[20:])[0] < 0.03
