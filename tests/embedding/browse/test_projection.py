"""Projections against brute force, and their page in a parser and in a browser."""

import base64
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.embedded_dataset import unit64, write_dataset
from PIL import Image, ImageColor
from typer.testing import CliRunner

from gtsa_kit.cli.embed_browse import browse_app
from gtsa_kit.embedding.browse.folders import group_by_folder
from gtsa_kit.embedding.browse.projection import make_projection, pca
from gtsa_kit.embedding.browse.projection_page import write_projection_page
from gtsa_kit.embedding.browse.thumbnails import SourceImages
from gtsa_kit.embedding.browse.vectors import open_vectors
from gtsa_kit.figures import PALETTE

EVIL = ["</script><script>document.title='owned'</script>.jpg", "<img src=x onerror=document.title='owned'>.jpg"]
EVIL += ["a b#c?d%41.jpg", "日本 ü&amp;'\".jpg", "{{content}}.jpg"]


class Scripts(HTMLParser):
    """Scripts and links as an HTML parser finds them."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.links: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag == "script"
        if self._inside:
            self.scripts.append("")
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.scripts[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._inside = False


def content_of(page: Path) -> dict[str, Any]:
    parser = Scripts()
    parser.feed(page.read_text(encoding="utf-8"))
    assert len(parser.scripts) == 2
    assert parser.links == ["data:,"]
    return json.loads(parser.scripts[0])


@pytest.fixture(scope="module")
def mapped(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset with some image names that contain HTML, and write its page with three embedded thumbnails."""
    folder = tmp_path_factory.mktemp("map")
    (folder / "photos").mkdir()
    names = [*(name.replace("/", "\N{DIVISION SLASH}") for name in EVIL), *(f"p{i}.jpg" for i in range(5, 20))]
    for index, name in enumerate(names):
        shutil.copy(images / f"p{index}.jpg", folder / "photos" / name)
    rows = np.random.default_rng(0).standard_normal((21, 8)).astype(np.float16)
    rows[20] = 0
    sizes = [Image.open(folder / "photos" / name).size for name in names]
    data = write_dataset(folder / "data", rows, [*names, "p20.jpg"], [*sizes, (1, 1)], source=folder / "photos")
    done = CliRunner().invoke(browse_app, ["map", str(data), "--thumbnails", "3"])
    assert done.exit_code == 0, done.output
    assert "no direction (zeros, NaN or infinity): 1 rows, p20.jpg" in done.stderr
    return data


def test_points_are_principal_components(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((300, 6)) * [5, 3, 1, 1, 1, 1] + 2).astype(np.float32)
    scores = pca(rows, 2)
    centered = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    left, sizes, _ = np.linalg.svd(centered, full_matrices=False)
    for axis in range(2):
        expected = left[:, axis] * sizes[axis]
        assert min(np.abs(scores[:, axis] - expected).max(), np.abs(scores[:, axis] + expected).max()) < 1e-4
    assert pca(np.ones((3, 1), dtype=np.float32), 2).shape == (3, 2)


@pytest.mark.parametrize("device", [None, torch.device("cpu")], ids=["numpy", "torch"])
def test_neighbors_equal_brute_force(device: torch.device | None, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((700, 8)).astype(np.float32)
    rows[50] = rows[60] = rows[70]
    rows[5] = np.nan
    projection = make_projection(open_vectors(write_dataset(tmp_path / "d", rows, part=300)), device=device)
    kept = np.delete(np.arange(700), 5)
    assert [row.index for row in projection.rows] == kept.tolist()
    unit = unit64(rows[kept])
    cosine = np.round(unit @ unit.T, 6)
    np.fill_diagonal(cosine, -2)
    order = np.argsort(-cosine, axis=1, kind="stable")[:, :5]
    np.testing.assert_array_equal(projection.neighbors, order)
    np.testing.assert_allclose(projection.cosines, np.take_along_axis(cosine, order, axis=1), atol=2e-6)
    assert np.abs(projection.points).max() == pytest.approx(1)
    few = make_projection(open_vectors(tmp_path / "d"), max_points=10)
    assert [row.index for row in few.rows] == [0, 78, 155, 233, 311, 388, 466, 544, 621, 699]


@pytest.mark.parametrize("layout", ["pca", "tsne"])
def test_few_and_equal_rows(layout: str, tmp_path: Path) -> None:
    for count in (1, 2, 5):
        same = np.ones((count, 4), dtype=np.float32)
        projection = make_projection(open_vectors(write_dataset(tmp_path / f"{count}", same)), layout)
        assert np.isfinite(projection.points).all()
        assert projection.neighbors.shape == (count, min(5, count - 1))
        write_projection_page(projection, SourceImages(()), tmp_path / "page.html", "few")
        assert content_of(tmp_path / "page.html")["pictures"] == [None] * count
    nothing = write_dataset(tmp_path / "zero", np.zeros((3, 4), dtype=np.float32))
    with pytest.raises(ValueError, match=r"no row of .* has a direction"):
        make_projection(open_vectors(nothing), layout)


def test_tsne_keeps_clusters_together(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    label = np.arange(60) % 3
    rows = (4 * rng.standard_normal((3, 16))[label] + 0.3 * rng.standard_normal((60, 16))).astype(np.float32)
    data = open_vectors(write_dataset(tmp_path / "d", rows))
    points = make_projection(data, "tsne").points
    apart = np.linalg.norm(points[:, None] - points[None], axis=2) + 9 * np.eye(60)
    assert (label[apart.argmin(axis=1)] == label).all()
    np.testing.assert_array_equal(make_projection(data, "tsne").points, points)


def test_the_page_holds_names_thumbnails_and_links(mapped: Path) -> None:
    page = mapped / "map.html"
    content = content_of(page)
    names = [row.path for row in open_vectors(mapped).rows()][:20]
    assert content["names"] == names
    inside = [i for i, picture in enumerate(content["pictures"]) if picture.startswith("data:image/jpeg;base64,")]
    assert inside == [0, 10, 19]
    for index, picture in enumerate(content["pictures"]):
        if index not in inside:
            assert re.fullmatch(r"\.\./photos/[-A-Za-z0-9_.~%]+", picture)
    neighbors = np.frombuffer(base64.b64decode(content["neighbors"]), "<i4").reshape(20, content["neighbors_per_point"])
    assert neighbors.shape == (20, 5)
    assert "http" not in page.read_text(encoding="utf-8").replace("http-equiv", "")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Headless Chromium without network."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("needs chromium and chromedriver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    profile = tmp_path_factory.mktemp("profile")
    for argument in (
        "headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --window-size=1200,800"
    ).split():
        options.add_argument(argument if argument.startswith("--") else f"--{argument}")
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def canvas_offset(content: dict[str, Any], index: int, width: float, height: float) -> tuple[float, float]:
    """Return the offset of a point from the middle of the canvas, at the initial zoom."""
    points = np.frombuffer(base64.b64decode(content["points"]), "<f4").reshape(-1, 2)
    scale = min(width, height) / 2 - 24
    return float(points[index, 0] * scale), float(-points[index, 1] * scale)


def wait_for(driver: Any, script: str) -> Any:
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(driver, 120).until(lambda d: d.execute_script(script))


def test_pointing_in_a_browser_displays_the_image(browser: Any, mapped: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    page = mapped / "map.html"
    content = content_of(page)
    browser.get(page.as_uri())
    canvas = browser.find_element(By.ID, "canvas")
    wait_for(
        browser,
        "return document.getElementById('note').textContent === '20 images; 1 without a direction left out'",
    )
    neighbors = np.frombuffer(base64.b64decode(content["neighbors"]), "<i4").reshape(20, -1)
    for index in (0, 1, 2, 3, 4, 10):  # inside the page and linked, with all dangerous names
        x, y = canvas_offset(content, index, canvas.size["width"], canvas.size["height"])
        ActionChains(browser).move_to_element_with_offset(canvas, round(x), round(y)).perform()
        displayed = browser.find_element(By.ID, "name").get_property("textContent")
        assert displayed == content["names"][index]
        assert wait_for(
            browser, "const i = document.querySelector('#picture img'); return i && i.complete && i.naturalWidth"
        )
        listed = [
            item.get_property("textContent") for item in browser.find_elements(By.CSS_SELECTOR, "#neighbors .label")
        ]
        assert [text.split(" ", 1)[1] for text in listed] == [content["names"][i] for i in neighbors[index]]
    assert browser.title == "Map of photos"  # no name ran as a script
    assert browser.get_log("browser") == []


def test_folders_are_the_first_level_that_differs() -> None:
    names = ["all/cats/1.jpg", "all/dogs/old/2.jpg", "all/dogs/3.jpg", "all/4.jpg"]
    groups, indices = group_by_folder(names)
    assert groups == ["all/dogs (2)", "all (1)", "all/cats (1)"]
    assert indices.tolist() == [2, 0, 0, 1]
    assert group_by_folder(["a/1.jpg", "a/2.jpg"])[0] == group_by_folder(["1.jpg"])[0] == []
    groups, indices = group_by_folder([f"{i // 2:02}/{i}.jpg" for i in range(40)])
    assert len(groups) == 13
    assert groups[-1] == "8 other folders (16)"
    assert np.bincount(indices).tolist() == [2] * 12 + [16]


def test_thumbnails_lie_on_the_map_in_the_color_of_their_folder(browser: Any, tmp_path: Path) -> None:
    from selenium.webdriver.common.by import By

    photos = tmp_path / "photos"
    names = [f"{folder}/{i}.png" for folder in ("cats", "dogs") for i in range(2)]
    fills = [(250, 240, 10), (10, 200, 250), (250, 10, 200), (120, 130, 140)]
    for name, fill in zip(names, fills, strict=True):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), fill).save(photos / name)
    rows = np.array([[1, 0, 0], [0.9, 0.3, 0], [0, 1, 0], [-1, 0.2, 0.5]], dtype=np.float32)
    data = open_vectors(write_dataset(tmp_path / "data", rows, names, [(40, 40)] * 4, source=photos))
    write_projection_page(make_projection(data), SourceImages(data.sources), tmp_path / "map.html", "Map")
    browser.get((tmp_path / "map.html").as_uri())
    wait_for(browser, "return document.getElementById('canvas').dataset.thumbnails === '4'")
    legend = [item.text for item in browser.find_elements(By.CSS_SELECTOR, "#legend li")]
    assert legend == ["cats (2)", "dogs (2)"]
    canvas = browser.find_element(By.ID, "canvas")
    content = content_of(tmp_path / "map.html")
    assert content["palette"] == list(PALETTE)

    def color_at(index: int, offset: int) -> list[int]:
        x, y = canvas_offset(content, index, canvas.size["width"], canvas.size["height"])
        x, y = canvas.size["width"] / 2 + x + offset, canvas.size["height"] / 2 + y
        script = "return [...document.getElementById('canvas').getContext('2d').getImageData(...arguments, 1, 1).data]"
        return browser.execute_script(script, round(x), round(y))[:3]

    frames = [list(ImageColor.getrgb(PALETTE[group])) for group in (0, 0, 1, 1)]
    for index, (fill, frame) in enumerate(zip(fills, frames, strict=True)):
        assert np.abs(np.subtract(color_at(index, 0), fill)).max() < 12  # JPEG
        assert color_at(index, -24) == frame
    browser.find_element(By.ID, "thumbnails").click()
    wait_for(browser, "return document.getElementById('canvas').dataset.thumbnails === '0'")
    for index, frame in enumerate(frames):
        assert np.abs(np.subtract(color_at(index, 0), frame)).max() < 60  # a marker, slightly transparent


def test_keyboard_and_phone_width_in_a_browser(browser: Any, mapped: Path, tmp_path: Path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    browser.get((mapped / "map.html").as_uri())
    canvas = browser.find_element(By.ID, "canvas")
    canvas.send_keys(Keys.ARROW_RIGHT)
    name = "return document.getElementById('details').hidden ? '' : document.getElementById('name').textContent"
    first = wait_for(browser, name)
    seen = {first}
    for key in (Keys.ARROW_RIGHT, Keys.ARROW_LEFT, Keys.ARROW_UP, Keys.ARROW_DOWN, "+", "-", "0"):
        canvas.send_keys(key)
        seen.add(browser.execute_script(name))
    assert len(seen) >= 3
    canvas.send_keys(Keys.ESCAPE)
    assert browser.execute_script(name) == ""
    browser.find_element(By.ID, "query").send_keys("p12", Keys.ENTER)
    assert browser.execute_script(name) == "p12.jpg"
    assert browser.find_element(By.ID, "matches").text == "1 found"
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 700, "deviceScaleFactor": 2, "mobile": True}
    )
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
    assert canvas.size["height"] > 150
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    browser.save_screenshot(str(tmp_path / "phone.png"))
    assert np.asarray(Image.open(tmp_path / "phone.png").convert("L")).mean() < 110
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
