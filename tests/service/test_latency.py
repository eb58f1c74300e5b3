"""What waits where nothing has to."""

import http.client
import statistics
import time

from helpers.running_service import Served


def test_small_answers_on_a_kept_connection_do_not_wait_for_acknowledgements(served: Served) -> None:
    """An answer in two pieces waits 40 ms and more for the client where the second is held back (Nagle)."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    seconds = []
    for _ in range(30):
        started = time.perf_counter()
        connection.request("GET", "/health")
        assert connection.getresponse().read()
        seconds.append(time.perf_counter() - started)
        time.sleep(0.002)
    connection.close()
    assert statistics.median(seconds) < 0.025
