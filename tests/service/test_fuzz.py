"""Mutated image files of every format get features or a 422; benchmarks/serving_fuzz.py sends more."""

import asyncio
from collections import Counter

import numpy as np
from helpers.mutants import mutated_files, valid_files
from helpers.raw_http import LEAKS, request, send_requests
from helpers.running_service import RunningService

COUNT = 600


def build_requests(files: list[bytes]) -> list[bytes]:
    return [request("/v1/features?size=32&outputs=embedding&format=json", f, Content_Type="image/png") for f in files]


def test_the_files_before_mutation_are_valid(service: RunningService) -> None:
    responses = asyncio.run(send_requests(service.port, build_requests(valid_files()), 4))
    assert {status for status, _, _ in responses} == {200}


def test_mutated_files_get_200_or_422(service: RunningService) -> None:
    responses = asyncio.run(send_requests(service.port, build_requests(list(mutated_files(17, COUNT))), 8))
    statuses = Counter(status for status, _, _ in responses)
    assert set(statuses) == {200, 422}, statuses
    assert min(statuses.values()) > COUNT / 20, "the mutations are too weak or too strong"
    for status, _, body in responses:
        if status != 200:
            assert not LEAKS.search(body), body
    assert service.drains()


def test_mutated_multipart_bodies_get_200_or_422(service: RunningService) -> None:
    rng = np.random.default_rng(3)
    requests = []
    for content in mutated_files(18, 60):
        part = b'--x\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\n' + content + b"\r\n"
        body = bytearray(part * 2 + b"--x--\r\n")
        for _ in range(int(rng.integers(0, 3))):
            body[int(rng.integers(len(body)))] = int(rng.integers(256))
        content_type = "multipart/form-data; boundary=x"
        requests.append(request("/v1/features?size=32&outputs=embedding", bytes(body), Content_Type=content_type))
    responses = asyncio.run(send_requests(service.port, requests, 8))
    assert {status for status, _, _ in responses} <= {200, 422}
