"""Broken files of every kind: an answer or a reason, never a failure. benchmarks/serving_fuzz.py sends many more."""

import asyncio
from collections import Counter

import numpy as np
from helpers.mutants import mutants, seeds
from helpers.raw_http import LEAKS, ask_many, request
from helpers.running_service import Served

COUNT = 600


def requests_of(files: list[bytes]) -> list[bytes]:
    return [request("/v1/features?size=32&outputs=embedding&format=json", f, Content_Type="image/png") for f in files]


def test_the_files_that_are_broken_were_sound(served: Served) -> None:
    answers = asyncio.run(ask_many(served.port, requests_of(seeds()), 4))
    assert {status for status, _, _ in answers} == {200}


def test_no_broken_file_breaks_the_service(served: Served) -> None:
    answers = asyncio.run(ask_many(served.port, requests_of(list(mutants(17, COUNT))), 8))
    statuses = Counter(status for status, _, _ in answers)
    assert set(statuses) == {200, 422}, statuses
    assert min(statuses.values()) > COUNT / 20, "too tame, or nothing gets through"
    for status, _, body in answers:
        if status != 200:
            assert not LEAKS.search(body), body
    assert served.empties()


def test_no_broken_body_of_several_breaks_the_service(served: Served) -> None:
    rng = np.random.default_rng(3)
    sent = []
    for content in mutants(18, 60):
        part = b'--x\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\n' + content + b"\r\n"
        body = bytearray(part * 2 + b"--x--\r\n")
        for _ in range(int(rng.integers(0, 3))):
            body[int(rng.integers(len(body)))] = int(rng.integers(256))
        kind = "multipart/form-data; boundary=x"
        sent.append(request("/v1/features?size=32&outputs=embedding", bytes(body), Content_Type=kind))
    answers = asyncio.run(ask_many(served.port, sent, 8))
    assert {status for status, _, _ in answers} <= {200, 422}
