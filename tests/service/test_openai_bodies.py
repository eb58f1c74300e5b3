"""Bodies of /v1/embeddings as clients of OpenAI's interface send them, and the list of models."""

import base64
import textwrap
from typing import Any

import numpy as np
import openai
import pytest
from helpers.image_samples import encoded, scene
from helpers.running_service import RunningService

PNG = encoded(scene(23, 31), "PNG")
TEXT = base64.b64encode(PNG).decode()


@pytest.fixture(scope="module")
def expected(service: RunningService) -> list[float]:
    return embed(service, {"input": TEXT})["data"][0]["embedding"]


def embed(service: RunningService, body: dict[str, Any]) -> dict[str, Any]:
    with service.client() as client:
        response = client.post("/v1/embeddings", json=body)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize(
    "body",
    [
        {"model": None, "encoding_format": None, "dimensions": None, "user": "me", "input": TEXT},
        {"input": [TEXT]},
        {"input": "\r\n".join(textwrap.wrap(TEXT, 76)) + "\n"},
        {"input": TEXT.rstrip("=")},
        {"input": base64.urlsafe_b64encode(PNG).decode()},
        {"input": f"data:image/png;base64,\n{TEXT.rstrip('=')}\n"},
    ],
    ids=["null", "list", "lines", "no padding", "alphabet of URLs", "data URI"],
)
def test_what_openais_interface_accepts_is_accepted(
    service: RunningService, expected: list[float], body: dict[str, Any]
) -> None:
    np.testing.assert_allclose(embed(service, body)["data"][0]["embedding"], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("value", "field", "message"),
    [
        ([TEXT] * 65, "input", "holds 65 items; a request holds up to 64"),
        ([], "input", "is an empty list; send at least one image"),
        ("", "input", "is an empty string; send an image as base64 or as a data URI"),
        ([TEXT, ""], "input[1]", "is an empty string; send an image"),
        ({"image": TEXT}, "input", "is an object; send an image as base64"),
        ([{"type": "image_url", "image_url": {"url": TEXT}}], "input[0]", "is an object; send an image"),
        ([1, 2, 3], "input[0]", "is a number; send an image"),
        ([[1, 2]], "input[0]", "is a list; send an image"),
        (None, "input", "is null; send an image"),
        (True, "input", "is a boolean; send an image"),
        ("a photo of a cat", "input[0]", "is neither base64 nor a data URI"),
        ("file:///etc/hostname", "input[0]", "is neither base64 nor a data URI"),
        ("http://127.0.0.1:9/a.png", "input[0]", "is neither base64 nor a data URI"),
        ("AAAAA", "input[0]", "is neither base64 nor a data URI"),
    ],
)
def test_what_is_wrong_is_named(service: RunningService, value: Any, field: str, message: str) -> None:
    with service.client() as client:
        response = client.post("/v1/embeddings", json={"model": "any", "input": value})
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (422, field)
        assert error["message"].startswith(f"{field}: {message}")
        if field == "input":  # the other routes with images in JSON have the same rules
            response = client.post("/v1/features", json={"images": value if isinstance(value, list) else [value]})
            assert response.status_code == 422
            assert message[:20] in response.json()["error"]["message"]


def test_openais_client_lists_the_model(service: RunningService) -> None:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as client:
        models = client.models.list().data
        assert len(models) == 1
        answer = client.embeddings.create(model=models[0].id, input=TEXT)
        assert answer.model == models[0].id
        entry = client.models.retrieve(models[0].id)
        assert entry.to_dict() == models[0].to_dict()
        assert (entry.object, entry.owned_by) == ("model", "gtsa-kit")
        assert entry.created > 1_600_000_000
        assert entry.to_dict()["dimensions"] == len(answer.data[0].embedding)
        with pytest.raises(openai.NotFoundError, match=f"this service has one model, {entry.id}"):
            client.models.retrieve("gpt-4")
