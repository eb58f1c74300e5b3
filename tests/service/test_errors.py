"""Invalid input gets the right status and the field's name, without internal details, and never a 500."""

import base64
import json
import struct
import tracemalloc
import zlib
from typing import Any

import pytest
from helpers.image_samples import chunk, encoded, scene
from helpers.raw_http import LEAKS, request, send_raw, status_of
from helpers.running_service import RunningService, ServiceFactory

from gtsa_kit.service.served_model import ServedModel

PNG = encoded(scene(), "PNG")


def check_error(response: Any, status: int, field: str | None = None) -> None:
    assert response.status_code == status, response.text
    assert not LEAKS.search(response.content), response.text
    assert "server" not in response.headers
    error = response.json()["error"]
    assert error["message"]
    assert set(error) == {"message", "type", "param", "code"}
    if field is not None:
        assert error["param"] == field, error


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("size=17", "size"),
        ("size=16&dtype=float16&size=32", "size"),
        ("size=0", "size"),
        ("size=99999", "size"),
        ("size=-16", "size"),
        ("size=32x", "size"),
        ("size=2048", "size"),
        ("size=%00", "size"),
        ("outputs=feature_map_7", "outputs"),
        ("outputs=", "outputs"),
        ("outputs=__class__", "outputs"),
        ("output=embedding", "output"),
        ("format=pickle", "format"),
        ("dtype=float64", "dtype"),
        ("boxes=1,2,3", "boxes"),
        ("boxes=5,5,1,1", "boxes"),
        ("boxes=nan,0,1,1", "boxes"),
        ("boxes=100,100,200,200", "boxes"),
        ("points=-1,5", "points"),
        ("points=32.5,5", "points"),
        ("points=1e999,5", "points"),
        ("roi_size=0", "roi_size"),
        ("roi_size=33", "roi_size"),
        ("roi_size=x", "roi_size"),
        ("&".join(["points=1,1"] * 1025), "points"),
    ],
)
def test_an_invalid_parameter_is_named(service: RunningService, query: str, field: str) -> None:
    with service.client() as client:
        check_error(
            client.post(f"/v1/features?{query}", content=PNG, headers={"Content-Type": "image/png"}), 422, field
        )


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "image/svg+xml", "image/jxl", "", "multipart/mixed"],
)
def test_an_unsupported_content_type_is_415(service: RunningService, content_type: str) -> None:
    with service.client() as client:
        check_error(client.post("/v1/features", content=PNG, headers={"Content-Type": content_type}), 415)
        check_error(client.post("/v1/similarity?point=1,1", content=PNG, headers={"Content-Type": content_type}), 415)
        check_error(client.post("/v1/embeddings", content=PNG, headers={"Content-Type": content_type}), 415)
        compressed = {"Content-Type": "image/png", "Content-Encoding": "br"}
        check_error(client.post("/v1/features", content=PNG, headers=compressed), 415)


def decompression_bomb(width: int, height: int) -> bytes:
    """Return a small PNG whose header declares a large image, with rows that compress well."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    rows = zlib.compress(bytes(min(width * 3 + 1, 1 << 20) * min(height, 64)), 9)
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(20_000, 20_000), (7100, 7100), (2**31 - 1, 2**31 - 1), (50_000_001, 1)])
def test_a_decompression_bomb_is_rejected_by_its_header_before_it_takes_memory(
    service: RunningService, size: tuple[int, int]
) -> None:
    content = decompression_bomb(*size)
    with service.client() as client:
        tracemalloc.start()
        response = client.post("/v1/features", content=content, headers={"Content-Type": "image/png"})
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    check_error(response, 422)
    assert peak < 10 << 20


@pytest.mark.parametrize("content", [b"", b"hello", PNG[:60], PNG[:-30], b"\x00" * 5000, b"%!PS-Adobe-3.0 EPSF-3.0"])
def test_a_file_that_is_no_image_is_422(service: RunningService, content: bytes) -> None:
    with service.client() as client:
        check_error(client.post("/v1/features", content=content, headers={"Content-Type": "image/png"}), 422, "image")


def test_a_large_body_is_413_whether_its_size_is_declared_or_not(start_service: ServiceFactory) -> None:
    large = b"\x00" * 70_000
    chunks = b"".join(b"1000\r\n" + b"\x00" * 4096 + b"\r\n" for _ in range(64))
    with start_service(max_image_mb=1 / 16, max_request_mb=1 / 8) as small, small.client() as client:
        check_error(client.post("/v1/features", content=large, headers={"Content-Type": "image/png"}), 413)
        # Rejected by its declared size: the body is never sent.
        declared = request("/v1/features", Content_Type="image/png", Content_Length="99999999999", Connection="close")
        assert status_of(send_raw(small.port, declared, 1)) == 413
        chunked = request("/v1/features", chunks, Content_Type="image/png", Transfer_Encoding="chunked")
        assert status_of(send_raw(small.port, chunked, 1)) == 413
        two = [("images", ("a", large, "image/png")), ("images", ("b", PNG, "image/png"))]
        response = client.post("/v1/features?size=32&format=json", files=two)
        assert [item["status"] for item in response.json()["items"]] == [413, 200]
        check_error(client.post("/v1/features", files=two * 2), 413)
        check_error(client.post("/v1/embeddings", json={"input": base64.b64encode(large).decode()}), 413, "input[0]")
        assert small.drains()


@pytest.mark.parametrize(
    "content",
    [
        request("/v1/features", PNG, Content_Type="image/png", Content_Length="-5"),
        request("/v1/features", PNG, Content_Type="image/png", Content_Length="1e3"),
        request("/v1/features", PNG, Content_Type="image/png", Content_Length="5", Content_length="6"),
        request("/health", method="GET", X="a" * 100_000),
        request("/" + "a" * 100_000, method="GET"),
        request("/v1/features", b"zz\r\n", Content_Type="image/png", Transfer_Encoding="chunked"),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"\r\n\r\n\r\n",
        request("/v1/features?" + "size=32&" * 9000, PNG, Content_Type="image/png"),
    ],
)
def test_invalid_http_is_400_or_closed(service: RunningService, content: bytes) -> None:
    response = send_raw(service.port, content, 0.3)  # some connections stay open
    assert status_of(response) in (0, 400, 422, 431), response[:300]
    assert not LEAKS.search(response.replace(b"HTTP/1.1", b"")), response[:300]
    with service.client() as client:
        assert client.get("/ready").status_code == 200


@pytest.mark.parametrize("path", ["/nope", "/v1/", "/v1/features/", "/../../etc/passwd", "/page.css/..%2f..", "/%00"])
def test_unknown_paths_are_404(service: RunningService, path: str) -> None:
    with service.client() as client:
        check_error(client.get(path), 404)


def test_wrong_methods_are_405_with_the_allowed_ones(service: RunningService) -> None:
    with service.client() as client:
        for method, path in (("GET", "/v1/features"), ("DELETE", "/health"), ("POST", "/"), ("HEAD", "/v1/features")):
            response = client.request(method, path)
            assert response.status_code == 405
            assert response.headers["allow"]
        for path in ("/", "/health", "/metrics", "/v1/model", "/docs"):
            by_get, by_head = client.get(path), client.head(path)
            assert (by_head.status_code, by_head.content) == (200, b"")
            assert by_head.headers["content-type"] == by_get.headers["content-type"]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/features", b"{", "body"),
        ("/v1/features", b"[" * 100_000, "body"),
        ("/v1/features", b'{"images": [' + b'"",' * 5000 + b'""]}', "body"),
        ("/v1/features", b'{"images": []}', "images"),
        ("/v1/features", b'{"images": ["aa"], "size": 32}', "size"),
        ("/v1/features", b"\xff\xfe", "body"),
        ("/v1/embeddings", b"{}", "input"),
        ("/v1/embeddings", b'{"input": 5}', None),
        ("/v1/embeddings", b'{"input": "hello world"}', "input[0]"),
        ("/v1/embeddings", b'{"input": "aGk=", "encoding_format": "int8"}', "encoding_format"),
        ("/v1/embeddings", b'{"input": "aGk=", "dimensions": 7}', "dimensions"),
        ("/v1/similarity?point=1,1", b'{"first": "aGk="}', "second"),
        ("/v1/similarity", b'{"first": "aGk=", "second": "aGk="}', "point"),
        ("/v1/similarity?point=1,1&box=1,1,2,2", b'{"first": "aGk=", "second": "aGk="}', "point"),
        ("/v1/similarity?point=1,1", b'{"first": "aGk=", "second": "aGk="}', "first"),
    ],
)
def test_invalid_json_is_422(service: RunningService, path: str, body: bytes, field: str | None) -> None:
    with service.client() as client:
        check_error(client.post(path, content=body, headers={"Content-Type": "application/json"}), 422, field)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--x",
        b"--x\r\n\r\nhello\r\n--x--\r\n",
        b'--x\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\nabc',
        b'--x\r\nContent-Disposition: form-data; name="size"\r\n\r\n32\r\n--x--\r\n',
        b"--x\r\n" + b"A: b\r\n" * 50 + b"\r\n\r\n--x--\r\n",
        b"--x--\r\n",
    ],
)
def test_an_invalid_multipart_body_is_422(service: RunningService, body: bytes) -> None:
    with service.client() as client:
        check_error(
            client.post("/v1/features", content=body, headers={"Content-Type": "multipart/form-data; boundary=x"}), 422
        )
        check_error(client.post("/v1/features", content=body, headers={"Content-Type": "multipart/form-data"}), 422)


def test_too_many_images_are_422(service: RunningService) -> None:
    with service.client() as client:
        check_error(client.post("/v1/features", files=[("images", ("a", PNG, "image/png"))] * 65), 422)


def test_a_token_is_required_except_for_the_probes(start_service: ServiceFactory) -> None:
    with start_service(token="s3cret") as guarded, guarded.client() as client:
        for path in ("/health", "/ready"):
            assert client.get(path).status_code == 200
        for path in ("/", "/docs", "/metrics", "/openapi.json", "/v1/model", "/nope", "/page.js", "/samples"):
            check_error(client.get(path), 401)
        basic = "Basic " + base64.b64encode(b"anyone:s3cret").decode()
        wrong = ("", "Bearer", "Bearer s3cre", "Bearer s3cret2", "Basic s3cret", "s3cret", "Bearer \xe9", "Basic ====")
        for authorization in (*wrong, "Basic " + base64.b64encode(b"s3cret:x").decode()):
            response = client.post(
                "/v1/features", headers={"Authorization": authorization.encode("latin-1")}, content=PNG
            )
            check_error(response, 401)
            assert response.headers["www-authenticate"]
        for authorization in ("Bearer s3cret", "bearer s3cret", basic):
            headers = {"Authorization": authorization, "Content-Type": "image/png"}
            assert client.post("/v1/features?size=32", headers=headers, content=PNG).status_code == 200
        assert guarded.drains()


def test_metrics_count_requests_and_errors(start_service: ServiceFactory) -> None:
    with start_service() as fresh, fresh.client() as client:
        for _ in range(3):
            client.post("/v1/features?size=32", content=PNG, headers={"Content-Type": "image/png"})
        client.post("/v1/features", content=b"x", headers={"Content-Type": "image/png"})
        client.get("/nope")
        text = client.get("/metrics").text
    for line in (
        'gtsa_requests_total{route="/v1/features",status="200"} 3.0',
        'gtsa_requests_total{route="/v1/features",status="422"} 1.0',
        'gtsa_requests_total{route="other",status="404"} 1.0',
        'gtsa_errors_total{code="undecodable_image"} 1.0',
        "gtsa_images_total 3.0",
        "gtsa_pending_images 0.0",
        "gtsa_queue_images 0.0",
    ):
        assert line in text.splitlines()
    assert "gtsa_batch_size_bucket" in text
    assert 'gtsa_request_seconds_bucket{le="+Inf",route="/v1/features"} 4.0' in text


def test_the_model_route_returns_the_manifest_and_the_limits(service: RunningService, runner: Any) -> None:
    with service.client() as client:
        info = client.get("/v1/model").json()
    assert info["manifest"] == json.loads(runner.manifest.model_dump_json())
    assert info["sha256"] == runner.manifest.source_sha256
    assert info["provider"] == runner.provider
    assert info["limits"]["max_image_mb"] == 20
    assert info["limits"]["max_batch"] == ServedModel(runner).default_batch
