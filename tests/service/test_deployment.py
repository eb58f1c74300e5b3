"""Service behind a proxy and for other web pages: path prefix, CORS, and request bodies in gzip."""

import gzip
import json
import re
import zlib

import httpx
import numpy as np
import pytest
from helpers.image_samples import encoded, scene
from helpers.running_service import RunningService, ServiceFactory

from gtsa_kit.service import Client
from gtsa_kit.service.settings import ServiceSettings

PNG = encoded(scene(), "PNG")
ORIGIN = "https://lab.example"
URL = "/v1/features?outputs=embedding&format=json&size=32"


def vector(response: httpx.Response) -> np.ndarray:
    assert response.status_code == 200, response.text
    return np.array(response.json()["embedding"])


def test_a_path_prefix_may_be_passed_on_or_removed_by_the_proxy(start_service: ServiceFactory) -> None:
    with start_service(root_path="/lab/gtsa", token="s3cret") as service, service.client() as client:
        assert client.get("/lab/gtsa/health").status_code == client.get("/health").status_code == 200
        client.headers["Authorization"] = "Bearer s3cret"
        moved = client.get("/lab/gtsa")
        assert (moved.status_code, moved.headers["location"]) == (307, "/lab/gtsa/")
        for path in ("/", "/docs", "/v1/model", "/page.js", "/openapi.json"):
            assert client.get(f"/lab/gtsa{path}").content == client.get(path).content
        assert client.get("/openapi.json").json()["servers"] == [{"url": "/lab/gtsa"}]
        for path in ("/", "/docs"):  # links are relative, and lead to something
            links = re.findall(r'(?:href|src)="([^"]+)"', client.get(f"/lab/gtsa{path}").text)
            assert len(links) >= 4
            for link in links:
                target = httpx.URL(f"{service.url}/lab/gtsa{path}").join(link)
                assert target.path.startswith("/lab/gtsa/")
                assert client.get(target).status_code == 200
        assert not re.search(r"fetch\([\"`]/", client.get("/page.js").text)
        assert client.get("/lab/gtsax/health").status_code == client.get("/lab/gtsa/nothing").status_code == 404
        with Client(f"{service.url}/lab/gtsa", token="s3cret") as own:
            assert own.features(PNG, outputs=["embedding"], size=32)["embedding"].shape == (64,)
        assert 'gtsa_requests_total{route="/health",status="200"} 2.0' in client.get("/lab/gtsa/metrics").text


def test_only_named_origins_may_use_the_service_from_a_page(start_service: ServiceFactory) -> None:
    preflight = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    preflight["Access-Control-Request-Headers"] = "authorization,content-type,x-stainless-os"
    with start_service(cors=(ORIGIN,), token="s3cret") as service, service.client() as client:
        allowed = client.options("/v1/embeddings", headers=preflight)
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == ORIGIN
        assert "x-stainless-os" in allowed.headers["access-control-allow-headers"]
        refused = client.get("/v1/model", headers={"Origin": ORIGIN})  # an error can be read by the page too
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, ORIGIN)
        other = client.options("/v1/embeddings", headers={**preflight, "Origin": "https://other.example"})
        assert "access-control-allow-origin" not in other.headers
        assert "access-control-allow-credentials" not in allowed.headers
    with start_service(cors=("*",)) as service, service.client() as client:
        assert client.get("/v1/model", headers={"Origin": ORIGIN}).headers["access-control-allow-origin"] == "*"
    with start_service() as service, service.client() as client:
        assert client.options("/v1/embeddings", headers=preflight).status_code == 405
        assert "access-control-allow-origin" not in client.get("/health", headers={"Origin": ORIGIN}).headers


@pytest.mark.parametrize(
    ("name", "value"),
    [("cors", ("https://a.example/",)), ("cors", ("a.example",)), ("root_path", "a"), ("root_path", "/a b")],
)
def test_wrong_origins_and_prefixes_are_refused(
    name: str, value: object, service: RunningService, start_service: ServiceFactory
) -> None:
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} .*; "):
        ServiceSettings(artifact="x", **{name: value})  # type: ignore[arg-type]


def test_gzip_bodies_are_equal_to_plain_ones(service: RunningService) -> None:
    half = len(PNG) // 2
    members = gzip.compress(PNG[:half]) + gzip.compress(PNG[half:])
    with service.client() as client:
        plain = vector(client.post(URL, content=PNG, headers={"Content-Type": "image/png"}))
        for encoding, body in (("gzip", gzip.compress(PNG)), ("X-GZIP", members)):
            headers = {"Content-Type": "image/png", "Content-Encoding": encoding}
            np.testing.assert_array_equal(vector(client.post(URL, content=body, headers=headers)), plain)
            pieces = (body[i : i + 7] for i in range(0, len(body), 7))
            np.testing.assert_array_equal(vector(client.post(URL, content=pieces, headers=headers)), plain)
        body = gzip.compress(json.dumps({"input": "aGk="}).encode())
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        assert "input[0]: not an image" in client.post("/v1/embeddings", content=body, headers=headers).text


def test_a_bomb_is_413_and_damaged_gzip_is_422(start_service: ServiceFactory) -> None:
    bomb = gzip.compress(bytes(16 << 20)) * 64  # 1 GiB in 1 MiB
    packed = gzip.compress(PNG)
    wrong_sum = packed[:-8] + bytes([packed[-8] ^ 1]) + packed[-7:]
    cases = [(bomb, 413), (packed[:-4], 422), (PNG, 422), (wrong_sum, 422), (packed + b"x", 422), (b"", 422)]
    with start_service(max_image_mb=2, max_pending_mb=8) as service, service.client() as client:
        for body, status in cases:
            headers = {"Content-Type": "image/png", "Content-Encoding": "gzip"}
            response = client.post("/v1/features", content=body, headers=headers)
            assert response.status_code == status, response.text
        for encoding in ("br", "deflate", "gzip, gzip"):
            headers = {"Content-Type": "image/png", "Content-Encoding": encoding}
            response = client.post("/v1/features", content=zlib.compress(PNG), headers=headers)
            assert (response.status_code, response.json()["error"]["param"]) == (415, "content-encoding")
        assert service.drains()
