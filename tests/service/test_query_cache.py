"""Queries that were found sound once, and the cast of what they ask for."""

import numpy as np
import pytest
from helpers.image_samples import encoded, scene
from helpers.raw_http import raw, request
from helpers.running_service import Served, wait_for

from gtsa_kit.service.extract import PIECE, cast_to
from gtsa_kit.service.query_cache import LONGEST, MOST

PNG = encoded(scene(), "PNG")
KIND = {"Content-Type": "image/png"}


@pytest.mark.parametrize(
    "query", ["", "size=32", "size=32&format=json&points=3,4&boxes=1,1,20,20", "outputs=embedding&dtype=float32"]
)
def test_the_second_answer_is_the_first(served: Served, query: str) -> None:
    with served.client() as client:
        answers = [client.post(f"/v1/features?{query}", content=PNG, headers=KIND) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200] * 3
        assert len({answer.content for answer in answers}) == 1
        said = [{**answer.headers, "date": "", "server-timing": ""} for answer in answers]
        assert said[0] == said[1] == said[2]


@pytest.mark.parametrize("query", ["size=17", "size=32&nope=1", "boxes=5,5,1,1", "points=900,900", "format=png"])
def test_what_is_refused_is_refused_again_in_the_same_words(served: Served, query: str) -> None:
    with served.client() as client:
        answers = [client.post(f"/v1/features?{query}", content=PNG, headers=KIND) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [422] * 3
    assert len({answer.content for answer in answers}) == 1


def test_a_known_query_excuses_nothing_else(served: Served) -> None:
    query = "size=48"
    with served.client() as client:
        assert client.post(f"/v1/features?{query}", content=PNG, headers=KIND).status_code == 200
        for body, headers, status in ((b"x", KIND, 422), (b"", KIND, 422), (PNG, {"Content-Type": "text/plain"}, 415)):
            answer = client.post(f"/v1/features?{query}", content=body, headers=headers)
            assert (answer.status_code, set(answer.json())) == (status, {"error"})
        assert client.get(f"/v1/features?{query}").status_code == 405
        assert client.post(f"/v1/similarity?{query}", content=PNG, headers=KIND).status_code == 422
        assert client.post(f"/v1/features/?{query}", content=PNG, headers=KIND).status_code == 404
    half = request(f"/v1/features?{query}", PNG[:50], Content_Type="image/png", Content_Length="5000")
    raw(served.port, half, 0.2)  # and goes away
    assert wait_for(lambda: served.pending.images == 0)


def test_more_queries_than_are_kept_and_long_ones_are_answered(served: Served) -> None:
    with served.client() as client:
        for i in range(MOST + 3):
            query = f"size=32&outputs=embedding&points={i % 8}.{i},1"
            assert client.post(f"/v1/features?{query}", content=PNG, headers=KIND).status_code == 200
        query = "size=32&outputs=embedding" + "&points=1,1" * (LONGEST // 8)
        for _ in range(2):
            assert client.post(f"/v1/features?{query}", content=PNG, headers=KIND).status_code == 200


@pytest.mark.parametrize("shape", [(0,), (7,), (PIECE - 1,), (PIECE + 1,), (3, PIECE), (5, 64, 64)])
def test_the_cast_is_numpys(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32) * 1e3
    np.testing.assert_array_equal(cast_to(values, "float16"), values.astype(np.float16))
    turned = values.T
    np.testing.assert_array_equal(cast_to(turned, "float16"), turned.astype(np.float16))
