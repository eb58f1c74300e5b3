"""Files of labels: their forms, errors, and the colors of labels."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image, ImageCms

from gtsa_kit.data.label_colors import VOID_COLOR, fill_colors, to_lab
from gtsa_kit.data.label_file import read_mask_options
from gtsa_kit.data.label_map import MaskOptions, build_label_map

ROAD, CAR = (128, 64, 128), (0, 0, 142)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{0: road, 3: car}", MaskOptions({0: "road", 3: "car"})),
        ('{"0": road, "3": car}', MaskOptions({0: "road", 3: "car"})),
        ("[road, car]", MaskOptions({0: "road", 1: "car"})),
        ("- road\n- {name: car, color: [0, 0, 142]}", MaskOptions({0: "road", 1: "car"}, colors={1: CAR})),
        ("{road: 0, car: 3}", MaskOptions({0: "road", 3: "car"})),
        (
            '{0: {name: road, color: "#804080"}, 3: {name: car, color: "#00008E"}}',
            MaskOptions({0: "road", 3: "car"}, colors={0: ROAD, 3: CAR}),
        ),
        ("0: road\n3: {name: car}", MaskOptions({0: "road", 3: "car"})),
        (
            "{road: '#804080', car: [0, 0, 142]}",
            MaskOptions({0x804080: "road", 0x8E: "car"}, True, colors={0x804080: ROAD, 0x8E: CAR}),
        ),
        (
            '{"#804080": road, "#00008e": {name: car, color: "#010203"}}',
            MaskOptions({0x804080: "road", 0x8E: "car"}, True, colors={0x804080: ROAD, 0x8E: (1, 2, 3)}),
        ),
    ],
)
def test_all_forms_of_a_file_of_labels_are_read(text: str, expected: MaskOptions, tmp_path: Path) -> None:
    for name in ("labels.yaml", "labels.yml"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert read_mask_options(tmp_path / name, []) == expected
    content = yaml.safe_load(text)
    (tmp_path / "labels.json").write_text(json.dumps(content), encoding="utf-8-sig")
    assert read_mask_options(tmp_path / "labels.json", []) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "[]", "holds nothing"),
        ("a.json", "{", "Expecting property name"),
        ("a.json", '{"red": "x"}', "'x' is no color"),
        ("a.json", "{}", "holds nothing"),
        ("a.json", '{"#000000": "x", "1": "y"}', "holds indices and colors"),
        ("a.json", '{"1": "x", "1": "y"}', "'1' is there twice"),
        ("a.json", '{"#ff0000": "x", "#FF0000": "y"}', "x and y have one value"),
        ("a.yaml", "0: road\n0: car", "0 is there twice"),
        ("a.yaml", '0: road\n"0": car', "road and car have one value"),
        ("a.yaml", "0: {name: road, name: car}", "'name' is there twice"),
        ("a.yaml", "0: no\n1: yes", "False is no name; put names like no"),
        ("a.yaml", "0: road\n1: ''", "'' is no name"),
        ("a.yaml", "{0: {name: road, hue: '#000000'}}", "'name', 'hue'"),
        ("a.yaml", "{0: {color: '#000000'}}", "a label has a name and a color, not 'color'"),
        ("a.yaml", "road: #804080\ncar: #00008e", "None is no color .* outside of quotes begins a comment"),
        ("a.yaml", "road: [1, 2, 256]", "is no color"),
        ("a.yaml", "road: {id: 3}", "'road' holds a table"),
        ("a.yaml", "-1: road", "-1 is no index"),
        ("a.yaml", "70000: road", "70000 is no index of a mask"),
        ("a.yaml", "road", "neither a list nor a table"),
        ("a.yaml", "a: [b", "expected"),
        ("a.yaml", "[" * 1200, "expected YAML or JSON"),
        ("a.csv", "name,r,g\nx,1,2", "line 2 is not name,r,g,b"),
        ("a.csv", "name,r,g,b\nx,1,2,256", "line 2"),
        ("a.csv", "name,r,g,b\nx,1,2", "line 2"),
        ("a.csv", "name,r,g,b\nx,1,2,3\ny,1,2,3", "x and y have one value"),
    ],
)
def test_an_invalid_file_of_labels_is_refused_by_name(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=rf"a\.(json|yaml|csv).*{message}"):
        read_mask_options(tmp_path / name, [])


def test_labels_have_the_colors_of_the_file_and_the_others_colors_that_differ() -> None:
    options = MaskOptions({0: "road", 1: "car", 2: "sky", 3: "road"}, colors={1: CAR, 3: ROAD})
    labels = build_label_map([(Path("a.png"), np.array([0, 1, 2, 3]), False)], options)
    assert labels.classes == ("road", "car", "sky")
    assert labels.ids == (0, 1, 2)
    assert labels.colors[:2] == (ROAD, CAR)
    in_color = build_label_map([(Path("none.png"), np.array([0x804080, 0x8E]), True)], MaskOptions())
    assert dict(zip(in_color.classes, in_color.colors, strict=True)) == {"#00008e": CAR, "#804080": ROAD}
    assert in_color.ids == (0x8E, 0x804080)


@pytest.mark.parametrize(("palette", "used"), [([(0, 0, 0), ROAD, CAR], True), ([(i, i, i) for i in range(3)], False)])
def test_labels_have_the_colors_of_the_palette_in_the_masks_if_they_differ(
    palette: list[tuple[int, int, int]], used: bool, tmp_path: Path
) -> None:
    mask = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    mask.putpalette(bytes(np.array(palette, np.uint8)))
    mask.save(tmp_path / "a.png")
    masks = [(tmp_path / "a.png", np.array([0, 1, 2]), False)]
    colors = build_label_map(masks, MaskOptions()).colors
    assert (colors == tuple(palette)) == used
    assert len(set(colors)) == 3
    named = MaskOptions({0: "a", 1: "b", 2: "c"}, colors={1: (9, 9, 9)})
    assert build_label_map(masks, named).colors[1] == (9, 9, 9)


@pytest.mark.parametrize(("count", "least"), [(20, 20.0), (100, 11.0), (255, 7.0)])
def test_colors_of_labels_differ_from_each_other_and_from_void(count: int, least: float) -> None:
    colors = fill_colors([None] * count)
    assert colors == fill_colors([None] * (count + 5))[:count]
    lab = to_lab(np.array([VOID_COLOR, *colors]))
    distances = np.linalg.norm(lab[:, None] - lab[None], axis=2) + 1e9 * np.eye(count + 1)
    assert distances.min() > least
    given = fill_colors([None, colors[0], None])
    assert given[1] == colors[0]
    assert colors[0] not in (given[0], given[2])


def test_lab_is_that_of_little_cms() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (1, 200, 3), dtype=np.uint8)
    # Little CMS adapts its profile of Lab to D50; neutral colors and lightness agree, and hues to a few units.
    transform = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    raw = np.asarray(ImageCms.applyTransform(Image.fromarray(rgb), transform)).astype(int)[0]
    expected = np.stack([raw[:, 0] * 100 / 255, (raw[:, 1] ^ 128) - 128, (raw[:, 2] ^ 128) - 128], 1)
    difference = np.abs(to_lab(rgb[0]) - expected)
    assert difference[:, 0].max() < 4
    assert difference.max() < 12
