"""Repeated queries are answered and validated anew every time."""

import pytest
from helpers.image_samples import encoded, scene
from helpers.raw_http import request, send_raw
from helpers.running_service import RunningService, wait_for

PNG = encoded(scene(), "PNG")
HEADERS = {"Content-Type": "image/png"}


@pytest.mark.parametrize(
    "query", ["", "size=32", "size=32&format=json&points=3,4&boxes=1,1,20,20", "outputs=embedding&dtype=float32"]
)
def test_repeated_requests_get_equal_responses(service: RunningService, query: str) -> None:
    with service.client() as client:
        responses = [client.post(f"/v1/features?{query}", content=PNG, headers=HEADERS) for _ in range(3)]
        assert [response.status_code for response in responses] == [200] * 3
        assert len({response.content for response in responses}) == 1
        headers = [{**response.headers, "date": "", "server-timing": ""} for response in responses]
        assert headers[0] == headers[1] == headers[2]


@pytest.mark.parametrize("query", ["size=17", "size=32&nope=1", "boxes=5,5,1,1", "points=900,900", "format=png"])
def test_repeated_invalid_queries_get_equal_errors(service: RunningService, query: str) -> None:
    with service.client() as client:
        responses = [client.post(f"/v1/features?{query}", content=PNG, headers=HEADERS) for _ in range(3)]
    assert [response.status_code for response in responses] == [422] * 3
    assert len({response.content for response in responses}) == 1


def test_an_accepted_query_does_not_skip_other_checks(service: RunningService) -> None:
    query = "size=48"
    with service.client() as client:
        assert client.post(f"/v1/features?{query}", content=PNG, headers=HEADERS).status_code == 200
        for body, headers, status in (
            (b"x", HEADERS, 422),
            (b"", HEADERS, 422),
            (PNG, {"Content-Type": "text/plain"}, 415),
        ):
            response = client.post(f"/v1/features?{query}", content=body, headers=headers)
            assert (response.status_code, set(response.json())) == (status, {"error"})
        assert client.get(f"/v1/features?{query}").status_code == 405
        assert client.post(f"/v1/similarity?{query}", content=PNG, headers=HEADERS).status_code == 422
        assert client.post(f"/v1/features/?{query}", content=PNG, headers=HEADERS).status_code == 404
    partial = request(f"/v1/features?{query}", PNG[:50], Content_Type="image/png", Content_Length="5000")
    send_raw(service.port, partial, 0.2)  # and disconnects
    assert wait_for(lambda: service.limiter.images == 0)


def test_many_different_and_long_queries_are_answered(service: RunningService) -> None:
    with service.client() as client:
        for i in range(67):
            query = f"size=32&outputs=embedding&points={i % 8}.{i},1"
            assert client.post(f"/v1/features?{query}", content=PNG, headers=HEADERS).status_code == 200
        query = "size=32&outputs=embedding" + "&points=1,1" * 128
        for _ in range(2):
            assert client.post(f"/v1/features?{query}", content=PNG, headers=HEADERS).status_code == 200
