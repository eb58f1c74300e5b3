"""Contents of responses, compared with the offline runner, torchvision's RoIAlign and readers of each format."""

import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from helpers.image_samples import encoded, scene
from helpers.running_service import RunningService
from PIL import Image
from safetensors.numpy import load as load_safetensors
from torchvision.ops import roi_align

from gtsa_kit.export import Runner
from gtsa_kit.service.extract import CAST_CHUNK, cast_array, is_finite

FILE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")


def post(service: RunningService, content: bytes, content_type: str = "image/png", **query: Any) -> Any:
    with service.client() as client:
        return client.post("/v1/features", params=query, content=content, headers={"Content-Type": content_type})


def parse_npz(content: bytes) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays and the metadata of an npz."""
    with np.load(io.BytesIO(content)) as file:
        arrays = {name: file[name] for name in file}
    return arrays, json.loads(str(arrays.pop("metadata")))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_each_format_holds_the_features_of_the_runner(service: RunningService, runner: Runner, dtype: str) -> None:
    picture = scene(40, 60)
    features = runner(runner.prepare(Image.fromarray(picture), (48, 64))[None])
    expected = {"embedding": features.embedding[0], "feature_map_0": features.layers[0][0]}
    expected["class_token"] = features.class_token[0]
    query = {"outputs": ",".join(expected), "size": "48x64", "dtype": dtype}
    body = encoded(picture, "PNG")

    npz, metadata = parse_npz(post(service, body, format="npz", **query).content)
    safe = load_safetensors(post(service, body, format="safetensors", **query).content)
    response = post(service, body, format="json", **query).json()
    plain = {name: np.array(response[name], dtype) for name in expected}
    table = pa.ipc.open_stream(post(service, body, format="arrow", **query).content).read_all()
    arrow = {name: table[name].combine_chunks().to_numpy_ndarray()[0] for name in expected}

    assert json.loads(table.schema.metadata[b"metadata"]) == metadata
    for arrays in (npz, safe, plain, arrow):
        assert sorted(arrays) == sorted(expected)
        for name, values in expected.items():
            assert arrays[name].dtype == dtype
            assert arrays[name].shape == values.shape
            np.testing.assert_allclose(arrays[name], values, atol=2e-4, rtol=1e-3 if dtype == "float16" else 0)
    assert response["grid"] == metadata["grid"] == [3, 4]
    assert (metadata["width"], metadata["height"], metadata["stride"], metadata["input_size"]) == (60, 40, 16, [48, 64])
    assert metadata["model"]["sha256"] == runner.manifest.source_sha256
    assert np.allclose(metadata["grid_to_pixel"], [[15, 0, 0], [0, 40 / 3, 0]])


def test_the_default_size_is_the_artifacts_own_and_timings_are_in_a_header(
    service: RunningService, runner: Runner
) -> None:
    response = post(service, encoded(scene(), "JPEG"), "image/jpeg")
    arrays, _ = parse_npz(response.content)
    side = runner.preprocessing.size // 16
    assert arrays["feature_map"].shape == (64, side, side)
    stages = dict(part.split(";dur=") for part in response.headers["server-timing"].split(", ") if ";dur=" in part)
    assert {"read", "decode", "queue", "model", "encode"} == set(stages)
    assert all(float(value) >= 0 for value in stages.values())
    assert "server" not in response.headers


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_and_points_are_in_pixels_of_the_file_for_every_exif_orientation(
    service: RunningService, runner: Runner, orientation: int
) -> None:
    picture = scene(30, 50)
    exif = Image.Exif()
    exif[0x0112] = orientation
    body = encoded(picture, "JPEG", quality=95, subsampling=0, exif=exif)
    boxes = [(5, 3, 35, 27), (40, 20, 60, 40), (0, 0, 50, 30)]  # the second leaves the image and is clipped
    points = [(0, 0), (49.5, 29.5), (20.25, 11)]
    arrays, metadata = parse_npz(
        post(
            service,
            body,
            "image/jpeg",
            size="64x80",
            dtype="float32",
            roi_size=3,
            boxes=[",".join(map(str, box)) for box in boxes],
            points=[",".join(map(str, point)) for point in points],
        ).content
    )
    # The reference uses no affine: it transposes coordinates as Pillow transposes pixels, one case per orientation.
    upright = Image.open(io.BytesIO(body))
    corners = np.array([[x, y] for x0, y0, x1, y1 in boxes for x, y in ((x0, y0), (min(x1, 50), min(y1, 30)))], float)
    transpose = {
        1: lambda x, y: (x, y),
        2: lambda x, y: (50 - x, y),
        3: lambda x, y: (50 - x, 30 - y),
        4: lambda x, y: (x, 30 - y),
        5: lambda x, y: (y, x),
        6: lambda x, y: (30 - y, x),
        7: lambda x, y: (30 - y, 50 - x),
        8: lambda x, y: (y, 50 - x),
    }[orientation]
    transposed = np.array([transpose(x, y) for x, y in corners]).reshape(-1, 2, 2)
    width, height = (30, 50) if orientation >= 5 else (50, 30)
    scale = np.array([5 / width, 4 / height])
    boxes_on_grid = np.concatenate([(transposed * scale).min(1), (transposed * scale).max(1)], 1)
    from PIL import ImageOps

    image = ImageOps.exif_transpose(upright).convert("RGB")
    feature_map = runner(runner.prepare(image, (64, 80))[None]).feature_map
    np.testing.assert_allclose(arrays["feature_map"], feature_map[0], atol=2e-4)
    pooled = roi_align(torch.from_numpy(feature_map).double(), [torch.from_numpy(boxes_on_grid)], 3, aligned=True)
    np.testing.assert_allclose(arrays["feature_map.boxes"], pooled.numpy(), atol=3e-4)
    for i, point in enumerate(points):
        position = np.array(transpose(*point)) * scale
        np.testing.assert_allclose(arrays["feature_map.points"][i], bilinear(feature_map[0], *position), atol=3e-4)
        assert np.allclose(np.array(metadata["grid_to_pixel"]) @ [*position, 1], point)
    assert (metadata["width"], metadata["height"], metadata["orientation"]) == (50, 30, orientation)


def bilinear(feature_map: np.ndarray, x: float, y: float) -> np.ndarray:
    """Interpolate by a sum over all patches with products of two triangle functions as weights."""
    _, height, width = feature_map.shape
    x, y = np.clip(x - 0.5, 0, width - 1), np.clip(y - 0.5, 0, height - 1)
    total = np.zeros(len(feature_map))
    for row in range(height):
        for column in range(width):
            total += max(0, 1 - abs(x - column)) * max(0, 1 - abs(y - row)) * feature_map[:, row, column]
    return total


def test_regions_without_a_requested_map_come_without_it(service: RunningService) -> None:
    arrays, _ = parse_npz(post(service, encoded(scene(), "PNG"), outputs="embedding", size=32, boxes="1,1,9,9").content)
    assert sorted(arrays) == ["embedding", "feature_map.boxes"]
    assert arrays["feature_map.boxes"].shape == (1, 64, 7, 7)


@pytest.mark.parametrize("response_format", ["npz", "safetensors", "json", "arrow"])
def test_an_invalid_image_among_several_fails_alone(
    service: RunningService, runner: Runner, response_format: str
) -> None:
    good = [encoded(scene(20 + i, 30), "PNG") for i in range(3)]
    truncated = encoded(scene(), "JPEG")[:200]
    parts = [good[0], b"", good[1], truncated, b"x" * 100, good[2]]
    files = [("images", (f"{i}.bin", part, "application/octet-stream")) for i, part in enumerate(parts)]
    files.insert(3, ("images", ("notes.txt", b"hello", "text/plain")))
    with service.client() as client:
        response = client.post(
            "/v1/features", params={"size": 32, "format": response_format, "dtype": "float32"}, files=files
        )
    assert response.status_code == 200, response.text
    if response_format == "npz":
        arrays, metadata = parse_npz(response.content)
    elif response_format == "safetensors":
        arrays = load_safetensors(response.content)
        length = int.from_bytes(response.content[:8], "little")
        metadata = json.loads(json.loads(response.content[8 : 8 + length])["__metadata__"]["metadata"])
    elif response_format == "json":
        metadata = response.json()
        keys = ("embedding", "feature_map")
        arrays = {f"{i}.{k}": np.array(item[k]) for i, item in enumerate(metadata["items"]) for k in keys if k in item}
    else:
        table = pa.ipc.open_stream(response.content).read_all()
        metadata = json.loads(table.schema.metadata[b"metadata"])
        arrays = {}
        for name in table.column_names:
            column = table[name].combine_chunks()
            for i in range(len(column)):
                if column[i].is_valid:
                    arrays[f"{i}.{name}"] = np.array(column.storage[i].as_py()).reshape(column.type.shape)
    assert [item["status"] for item in metadata["items"]] == [200, 422, 200, 415, 422, 422, 200]
    assert {name.partition(".")[0] for name in arrays} == {"0", "2", "6"}
    for index, content in ((0, good[0]), (2, good[1]), (6, good[2])):
        image = runner.prepare(Image.open(io.BytesIO(content)).convert("RGB"), (32, 32))
        expected = runner(image[None])
        np.testing.assert_allclose(arrays[f"{index}.embedding"], expected.embedding[0], atol=2e-4)
        np.testing.assert_allclose(arrays[f"{index}.feature_map"], expected.feature_map[0], atol=2e-4)


def test_if_all_images_are_invalid_each_has_its_error(service: RunningService) -> None:
    with service.client() as client:
        response = client.post("/v1/features", json={"images": ["aGVsbG8=", "!!", "data:text/plain;base64,aGk="]})
    assert response.status_code == 422
    assert [item["status"] for item in response.json()["items"]] == [422, 422, 415]


@pytest.mark.parametrize("file_format", FILE_FORMATS)
def test_every_file_format_opens_whatever_image_content_type_is_sent(service: RunningService, file_format: str) -> None:
    response = post(service, encoded(scene(), file_format), "image/png", size=32, outputs="embedding")
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("encoding", ["multipart", "json"])
def test_similarity_is_the_cosine_of_the_point_or_box_with_every_patch(
    service: RunningService, runner: Runner, encoding: str
) -> None:
    import base64

    first, second = scene(40, 40), scene(50, 70)[:, ::-1].copy()
    maps = [runner(runner.prepare(Image.fromarray(p), (64, 96))[None]).layers[1][0] for p in (first, second)]
    body: dict[str, Any]
    if encoding == "multipart":
        body = {"files": [(n, (n, encoded(p, "PNG"), "image/png")) for n, p in (("a", first), ("b", second))]}
    else:
        texts = [base64.b64encode(encoded(p, "PNG")).decode() for p in (first, second)]
        body = {"json": {"first": texts[0], "second": f"data:image/png;base64,{texts[1]}"}}
    with service.client() as client:
        common = {"size": "64x96", "output": "feature_map_1"}
        at_point = client.post("/v1/similarity", params={**common, "point": "22,13"}, **body)
        in_box = client.post("/v1/similarity", params={**common, "box": "0,0,20,30"}, **body)
    vectors = {
        0: bilinear(maps[0], 22 * 6 / 40, 13 * 4 / 40),
        1: roi_align(
            torch.from_numpy(maps[0])[None].double(), [torch.tensor([[0.0, 0.0, 3.0, 3.0]]).double()], 1, aligned=True
        ).numpy()[0, :, 0, 0],
    }
    for i, response in enumerate((at_point, in_box)):
        response = response.json()
        unit = maps[1] / np.linalg.norm(maps[1], axis=0)
        expected = np.tensordot(vectors[i] / np.linalg.norm(vectors[i]), unit, 1)
        np.testing.assert_allclose(response["similarity"], expected, atol=1e-4)
        row, column = np.unravel_index(expected.argmax(), expected.shape)
        assert response["best"]["x"] == pytest.approx((column + 0.5) * 70 / 6)
        assert response["best"]["y"] == pytest.approx((row + 0.5) * 50 / 4)


def test_float16_equals_numpys_and_overflow_is_detected() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.standard_normal(5000) * 10.0 ** rng.integers(-9, 5, 5000), [0.0, -0.0, 65519.9]])
    values = values.astype(np.float32)
    half = cast_array(values, "float16")
    np.testing.assert_array_equal(half.view(np.uint16), values.astype(np.float16).view(np.uint16))
    assert is_finite(half)
    assert is_finite(values)
    for bad in (65520.0, np.inf, -np.inf, np.nan):
        overflowed = cast_array(np.append(values, np.float32(bad)), "float16")
        assert not is_finite(overflowed)


@pytest.mark.parametrize("shape", [(0,), (7,), (CAST_CHUNK - 1,), (CAST_CHUNK + 1,), (3, CAST_CHUNK), (5, 64, 64)])
def test_the_cast_in_chunks_equals_numpys(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32) * 1e3
    np.testing.assert_array_equal(cast_array(values, "float16"), values.astype(np.float16))
    np.testing.assert_array_equal(cast_array(values.T, "float16"), values.T.astype(np.float16))
