"""The service against its own OpenAPI document: Schemathesis asks for whatever the document allows, and for more."""

import hypothesis
import pytest
import schemathesis
from conftest import Served
from hypothesis import strategies
from pictures import encoded, scene

from gtsa_kit.service.bodies import IMAGE_TYPES

FILES = [encoded(scene(17, 23), kind) for kind in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")]
for media in sorted(IMAGE_TYPES):
    schemathesis.openapi.media_type(media, strategies.sampled_from(FILES) | strategies.binary(max_size=200))


@pytest.fixture(scope="module")
def document(served: Served) -> schemathesis.openapi.OpenApiSchema:
    return schemathesis.openapi.from_url(f"{served.url}/openapi.json")


schema = schemathesis.pytest.from_fixture("document")


@schema.parametrize()
@hypothesis.settings(max_examples=20, deadline=None, derandomize=True)
def test_answers_are_as_documented(case: schemathesis.Case) -> None:
    case.call_and_validate(timeout=60)
