"""Web page in a real browser: drop, click, similarity colors, keyboard, downloads."""

import http.server
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.channel_models import bands, save_channel_encoder, tiff
from helpers.running_service import RunningService, ServiceFactory
from helpers.signals import WAIT_SECONDS
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

import gtsa_kit
from gtsa_kit.evaluation.models import random_runner
from gtsa_kit.export import Runner
from gtsa_kit.models.architecture import ARCHITECTURES
from gtsa_kit.models.pictures import rgb_picture

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver (apt-get install chromium chromium-driver)"
)
DROP = """
const [slot, encoded, name] = arguments;
const bytes = Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0));
const transfer = new DataTransfer();
transfer.items.add(new File([bytes], name, { type: "image/png" }));
for (const kind of ["dragover", "drop"]) {
  slot.dispatchEvent(new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true }));
}
"""
PIXEL = """
const [canvas, u, v] = arguments;
const x = Math.floor(u * canvas.width), y = Math.floor(v * canvas.height);
return [...canvas.getContext("2d").getImageData(x, y, 1, 1).data];
"""


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of screenshots: GTSA_SCREENSHOTS, which CI may collect, or a temporary one."""
    configured = os.environ.get("GTSA_SCREENSHOTS")
    folder = Path(configured) if configured else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of two sample images."""
    samples = tmp_path_factory.mktemp("samples")
    for i in range(2):
        Image.fromarray(blocks(i)).save(samples / f"sample{i}.png")
    return samples


@pytest.fixture(scope="module")
def sample_service(start_service: ServiceFactory, samples: Path) -> Iterator[RunningService]:
    with start_service(samples=samples) as running:
        yield running


@pytest.fixture(scope="module")
def browser(downloads: Path) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "window-size=1280,1000"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.add_experimental_option("prefs", {"profile.default_content_setting_values.automatic_downloads": 1})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    started.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads)})
    yield started
    started.quit()


def blocks(seed: int) -> np.ndarray:
    """Return an image (128, 192, 3) uint8 of 32-pixel blocks with different colors."""
    rng = np.random.default_rng(seed)
    return np.kron(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8), np.ones((32, 32, 1), np.uint8))


def wait(browser: webdriver.Chrome, condition: Callable[[], Any]) -> Any:
    return WebDriverWait(browser, WAIT_SECONDS, poll_frequency=0.1).until(lambda _: condition())


def are_complete(files: list[Path], folder: Path) -> bool:
    """Return whether two downloads have ended: Chromium makes an empty file first, and another while it writes."""
    return len(files) == 2 and all(path.stat().st_size for path in files) and not [*folder.glob("*.crdownload")]


def status(browser: webdriver.Chrome) -> str:
    return browser.find_element(By.ID, "status").text


def slot(browser: webdriver.Chrome, index: int) -> Any:
    return browser.find_elements(By.CSS_SELECTOR, ".slot")[index]


def canvas(browser: webdriver.Chrome, index: int) -> Any:
    return slot(browser, index).find_element(By.TAG_NAME, "canvas")


def is_idle(browser: webdriver.Chrome) -> bool:
    return not browser.find_elements(By.CSS_SELECTOR, ".stage.busy") and "Computing" not in status(browser)


def drop_image(browser: webdriver.Chrome, index: int, image: np.ndarray, name: str) -> None:
    from base64 import b64encode

    from helpers.image_samples import encoded

    browser.execute_script(DROP, slot(browser, index), b64encode(encoded(image, "PNG")).decode(), name)
    wait(browser, lambda: name in (canvas(browser, index).get_attribute("aria-label") or ""))
    wait(browser, lambda: is_idle(browser))


def open_page(browser: webdriver.Chrome, service: RunningService) -> None:
    browser.get(service.url)
    wait(browser, lambda: "patches" in slot(browser, 0).text and "patches" in slot(browser, 1).text)
    wait(browser, lambda: is_idle(browser))


DELAYED_SAMPLES = """
const original = window.fetch;
window.fetch = async (source, ...rest) => {
  const response = await original(source, ...rest);
  if (/^samples\\/\\d/.test(source)) await new Promise((resolve) => { (window.held ??= []).push(resolve); });
  return response;
};
"""


def test_a_sample_that_arrives_late_does_not_replace_the_image_that_was_dropped(
    browser: webdriver.Chrome, sample_service: RunningService
) -> None:
    added = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": DELAYED_SAMPLES})
    try:
        browser.get(sample_service.url)
        wait(browser, lambda: browser.execute_script("return (window.held ?? []).length") == 2)
        drop_image(browser, 0, blocks(2), "dropped.png")
        browser.execute_script("window.held.forEach((release) => release())")
        wait(browser, lambda: "patches" in slot(browser, 1).text and is_idle(browser))
        assert "dropped.png" in canvas(browser, 0).get_attribute("aria-label")
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)


def set_opacity(browser: webdriver.Chrome, value: int) -> None:
    script = "const r = document.getElementById('opacity'); r.value = arguments[0]; r.dispatchEvent(new Event('input'))"
    browser.execute_script(script, value)


def choose(browser: webdriver.Chrome, box: str, value: str) -> None:
    browser.find_element(By.CSS_SELECTOR, f"#{box} option[value='{value}']").click()
    wait(browser, lambda: is_idle(browser))


def click_at(browser: webdriver.Chrome, index: int, u: float, v: float) -> None:
    """Click at the fractions (u, v) of the canvas' width and height."""
    target = canvas(browser, index)
    size = target.size
    x, y = (u - 0.5) * size["width"], (v - 0.5) * size["height"]
    webdriver.ActionChains(browser).move_to_element_with_offset(target, round(x), round(y)).click().perform()


def brightness_map(browser: webdriver.Chrome, index: int, grid: tuple[int, int]) -> np.ndarray:
    """Return the brightness (h, w) at the centers of the patches."""
    h, w = grid
    target = canvas(browser, index)
    pixels = [[browser.execute_script(PIXEL, target, (c + 0.5) / w, (r + 0.5) / h) for c in range(w)] for r in range(h)]
    return np.array(pixels)[..., :3].sum(-1)


def offline(runner: Runner, image: np.ndarray) -> np.ndarray:
    """Return the feature map (D, 9, 14) that the page requests at 224."""
    return np.asarray(runner(runner.prepare(Image.fromarray(image), (144, 224))[None]).feature_map[0])


@pytest.mark.parametrize(("max_size", "patches"), [(1024, "21 x 32"), (100, "5 x 7")])
def test_sizes_are_whole_patches_of_the_model(
    max_size: int, patches: str, browser: webdriver.Chrome, start_service: ServiceFactory, samples: Path
) -> None:
    """Patches of 14 pixels, of which neither limit is a multiple; the second is below all sizes of the menu."""
    plain = ARCHITECTURES["vit_test"]
    architecture = replace(plain, timm_kwargs={**plain.timm_kwargs, "patch_size": 14, "reg_tokens": 4})
    with start_service(random_runner(architecture, 0, "cpu"), samples=samples, max_size=max_size) as running:
        open_page(browser, running)
        assert f"{patches} patches of 64 dimensions" in slot(browser, 0).text


def test_a_click_colors_the_similar_patches_of_dropped_images(
    browser: webdriver.Chrome, sample_service: RunningService, runner: Runner, screenshots: Path
) -> None:
    open_page(browser, sample_service)
    choose(browser, "size", "224")
    first, second = blocks(7), np.roll(blocks(7), 64, axis=1)
    drop_image(browser, 0, first, "dropped.png")
    drop_image(browser, 1, second, "rolled.png")
    browser.save_screenshot(str(screenshots / "colors.png"))
    set_opacity(browser, 100)
    grid, row, column = (9, 14), 4, 3
    click_at(browser, 0, (column + 0.5) / grid[1], (row + 0.5) / grid[0])
    wait(browser, lambda: "Row 5, column 4" in status(browser))
    browser.save_screenshot(str(screenshots / "similarity.png"))

    maps = [offline(runner, image) for image in (first, second)]
    unit = [m / np.linalg.norm(m, axis=0) for m in maps]
    for index in range(2):
        cosines = np.tensordot(unit[0][:, row, column], unit[index], 1)
        brightness = brightness_map(browser, index, grid)
        best = np.unravel_index(cosines.argmax(), grid)
        assert brightness[best] == brightness.max(), "the most similar patch is not the brightest"
        order = np.argsort(cosines.ravel())
        assert np.corrcoef(order.argsort(), brightness.ravel().argsort().argsort())[0, 1] > 0.95
    assert (
        np.argwhere(brightness_map(browser, 0, grid) == brightness_map(browser, 0, grid).max()) == [row, column]
    ).all()
    best = np.unravel_index(np.tensordot(unit[0][:, row, column], unit[1], 1).argmax(), grid)
    assert f"row {best[0] + 1}, column {best[1] + 1}" in status(browser)
    assert_clean(browser)


def test_the_page_works_with_the_keyboard_alone(browser: webdriver.Chrome, sample_service: RunningService) -> None:
    open_page(browser, sample_service)
    focused = set()

    def press(key: str) -> None:
        webdriver.ActionChains(browser).send_keys(key).perform()

    for _ in range(30):
        press(Keys.TAB)
        active = browser.switch_to.active_element
        focused.add((active.tag_name, active.get_attribute("type") or "", active.get_attribute("data-rotate") or ""))
        if active.tag_name == "canvas":
            press(Keys.ARROW_RIGHT)
            wait(browser, lambda: "Row" in status(browser))
            before = status(browser)
            press(Keys.ARROW_RIGHT)
            wait(browser, lambda: status(browser) != before)  # noqa: B023
            press(Keys.ESCAPE)
    for element in (("canvas", "", ""), ("select", "select-one", ""), ("button", "button", "1"), ("input", "file", "")):
        assert element in focused
    assert_clean(browser)


def test_rotations_layers_samples_and_downloads(
    browser: webdriver.Chrome, sample_service: RunningService, downloads: Path
) -> None:
    open_page(browser, sample_service)
    choose(browser, "size", "224")
    before = slot(browser, 0).find_element(By.CLASS_NAME, "info").text
    assert before.startswith("9 x 14 patches of 64")
    slot(browser, 0).find_element(By.CSS_SELECTOR, "[data-rotate='1']").click()
    wait(browser, lambda: "14 x 9 patches" in slot(browser, 0).text)
    info = slot(browser, 0).find_element(By.CLASS_NAME, "info").text
    assert "rotated 90° left" in info
    assert 0 < float(info.rpartition(" ")[2]) < 0.9999  # the features of a ViT depend on the rotation
    choose(browser, "layer", "feature_map_0")
    assert "14 x 9 patches of 64" in slot(browser, 0).text
    slot(browser, 0).find_element(By.CSS_SELECTOR, "[data-save='npz']").click()
    slot(browser, 0).find_element(By.CSS_SELECTOR, "[data-save='png']").click()
    wait(browser, lambda: are_complete([*downloads.glob("*.npz"), *downloads.glob("*.png")], downloads))
    with np.load(next(downloads.glob("*.npz"))) as saved:
        assert saved["feature_map_0"].shape == (64, 14, 9)
        assert json.loads(str(saved["metadata"]))["grid"] == [14, 9]
    width, height = Image.open(next(downloads.glob("*.png"))).size
    assert width * 3 == pytest.approx(height * 2, abs=4)
    browser.find_element(By.CSS_SELECTOR, "#target option[value='1']").click()
    browser.find_element(By.CSS_SELECTOR, "[data-sample='0']").click()
    wait(browser, lambda: "sample0" in (canvas(browser, 1).get_attribute("aria-label") or ""))
    assert_clean(browser)


def test_the_page_works_behind_a_path_prefix(
    browser: webdriver.Chrome, start_service: ServiceFactory, tmp_path: Path
) -> None:
    for i in range(2):
        Image.fromarray(blocks(i)).save(tmp_path / f"sample{i}.png")
    with start_service(root_path="/lab/gtsa", samples=tmp_path) as running:
        browser.get(f"{running.url}/lab/gtsa")
        wait(browser, lambda: "patches" in slot(browser, 0).text and "patches" in slot(browser, 1).text)
        wait(browser, lambda: is_idle(browser))
        browser.find_element(By.LINK_TEXT, "API reference").click()
        wait(browser, lambda: "API reference" in browser.title)
        style = "return getComputedStyle(document.querySelector('.reference section')).marginTop"
        assert browser.execute_script(style) != "0px"  # the style sheet was loaded
        browser.find_element(By.LINK_TEXT, "Feature viewer").click()
        wait(browser, lambda: "patches" in slot(browser, 1).text)
        assert browser.current_url == f"{running.url}/lab/gtsa/"
        assert browser.get_log("browser") == []


def test_a_page_of_an_allowed_origin_gets_features_and_another_one_does_not(
    browser: webdriver.Chrome, start_service: ServiceFactory, tmp_path: Path
) -> None:
    (tmp_path / "index.html").write_text("<!doctype html><link rel=icon href=data:,>")
    handler = partial(QuietHandler, directory=str(tmp_path))
    ask = (
        "fetch(arguments[0] + '/v1/model', {headers: {Authorization: 'Bearer s3cret'}}).then((r) => r.json())"
        ".then((m) => m.id, () => 'refused').then(arguments[1])"
    )
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as pages:
        threading.Thread(target=pages.serve_forever, daemon=True).start()
        origin = f"http://127.0.0.1:{pages.server_port}"
        browser.get(origin)
        for cors, answer in (((origin,), "vit_test-"), (("http://127.0.0.1:1",), "refused")):
            with start_service(cors=cors, token="s3cret") as running:
                assert browser.execute_async_script(ask, running.url).startswith(answer)
        pages.shutdown()
    browser.get_log("browser")


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Handler without a log."""

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


def test_a_file_that_is_no_image_is_reported(browser: webdriver.Chrome, sample_service: RunningService) -> None:
    open_page(browser, sample_service)
    browser.execute_script(DROP, slot(browser, 0), "aGVsbG8=", "letter.png")
    wait(browser, lambda: "letter.png: not an image" in status(browser))
    assert "error" in (browser.find_element(By.ID, "status").get_attribute("class") or "")
    (entry,) = browser.get_log("browser")
    assert "v1/picture? - Failed to load resource: the server responded with a status of 422" in entry["message"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_and_follows_the_color_scheme(
    browser: webdriver.Chrome, sample_service: RunningService, screenshots: Path, scheme: str
) -> None:
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    phone = {"width": 360, "height": 1600, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    open_page(browser, sample_service)
    browser.save_screenshot(str(screenshots / f"phone-{scheme}.png"))
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
    paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    light = sum(int(part) for part in paper.strip("rgba()").split(",")[:3]) > 3 * 128
    assert light == (scheme == "light")
    tops = [slot(browser, i).location["y"] for i in range(2)]
    assert tops[1] > tops[0] + 100
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert_clean(browser)


def test_predictions_lie_over_the_image_with_legend_and_opacity(
    browser: webdriver.Chrome, start_service: ServiceFactory, samples: Path, tmp_path: Path, screenshots: Path
) -> None:
    from helpers.task_models import save_random_task, task_spec

    from gtsa_kit.export.open_options import LoadOptions
    from gtsa_kit.tasks.predict import predict
    from gtsa_kit.tasks.predictor import open_predictor

    save_random_task(tmp_path, task_spec("linear"))
    predictor = open_predictor(tmp_path, LoadOptions("cpu"))
    with start_service(predictor, samples=samples) as running:
        browser.get(running.url)
        wait(browser, lambda: "classes" in slot(browser, 0).text and "classes" in slot(browser, 1).text)
        wait(browser, lambda: is_idle(browser))
        image = blocks(2)
        drop_image(browser, 0, image, "dropped.png")
        set_opacity(browser, 100)
        browser.save_screenshot(str(screenshots / "prediction.png"))
        result = next(predict(predictor, [image]))
        assert result.mask is not None
        h, w = image.shape[:2]
        for row, column in ((20, 30), (100, 160), (64, 90)):
            red, green, blue, _ = browser.execute_script(PIXEL, canvas(browser, 0), (column + 0.5) / w, (row + 0.5) / h)
            assert (red, green, blue) == result.labels[result.mask[row, column]].color
        legend = slot(browser, 0).find_element(By.CSS_SELECTOR, ".legend")
        shares = {result.labels[i].name: (result.mask == i).mean() for i in np.unique(result.mask)}
        for name, share in shares.items():
            line = next(item.text for item in legend.find_elements(By.TAG_NAME, "li") if item.text.startswith(name))
            assert float(line.split(" ")[-1].rstrip("%")) == pytest.approx(100 * share, abs=0.2)
        set_opacity(browser, 0)
        pixel = browser.execute_script(PIXEL, canvas(browser, 0), 20.5 / w, 20.5 / h)
        assert np.abs(np.array(pixel[:3]) - image[20, 20]).max() < 8
        assert not browser.find_element(By.CSS_SELECTOR, "input[value='colors']").is_displayed()
        assert_clean(browser)


def test_detections_have_boxes_masks_and_a_threshold(
    browser: webdriver.Chrome, start_service: ServiceFactory, samples: Path, tmp_path: Path, screenshots: Path
) -> None:
    from helpers.task_models import save_random_task, task_spec

    from gtsa_kit.export.open_options import LoadOptions
    from gtsa_kit.tasks.predict import predict
    from gtsa_kit.tasks.predictor import open_predictor

    save_random_task(tmp_path, task_spec("mask-rcnn"))
    predictor = open_predictor(tmp_path, LoadOptions("cpu"))
    image = blocks(2)
    h, w = image.shape[:2]

    def set_threshold(value: float) -> list[Any]:
        """Move the slider; return what is then displayed: number, classes with their counts."""
        script = "const r = document.getElementById('threshold'); r.value = arguments[0]; "
        browser.execute_script(script + "r.dispatchEvent(new Event('input'))", value)
        legend = slot(browser, 0).find_element(By.CSS_SELECTOR, ".legend")
        counts = dict(item.text.rsplit(" ", 1) for item in legend.find_elements(By.TAG_NAME, "li"))
        info = slot(browser, 0).find_element(By.CLASS_NAME, "info").text
        return [int(info.removeprefix("detect: ").split(" ")[0]), {name: int(count) for name, count in counts.items()}]

    with start_service(predictor, samples=samples) as running:
        browser.get(running.url)
        wait(browser, lambda: "detect: " in slot(browser, 0).text and "detect: " in slot(browser, 1).text)
        wait(browser, lambda: is_idle(browser))
        drop_image(browser, 0, image, "dropped.png")
        lowest = next(predict(predictor, [image], threshold=0.05)).detections
        assert lowest is not None
        middle = float(np.round((lowest.scores[1] + lowest.scores[2]) / 2, 2))
        for threshold in (0.05, middle, 1.0):
            kept = lowest.select(lowest.scores >= threshold)
            names = [predictor.labels[number].name for number in kept.classes]
            assert set_threshold(threshold) == [len(kept), {name: names.count(name) for name in names}]
        picture = [browser.execute_script(PIXEL, canvas(browser, 0), (x + 0.5) / w, 20.5 / h) for x in range(0, w, 8)]
        assert np.abs(np.array(picture)[:, :3] - image[20, ::8]).max() < 12, "nothing is drawn above every score"
        set_threshold(middle)
        set_opacity(browser, 100)
        browser.save_screenshot(str(screenshots / "detections.png"))
        x0, y0, _, y1 = lowest.boxes[0].tolist()
        colors = [predictor.labels[number].color for number in lowest.classes[:2]]
        left = [
            browser.execute_script(PIXEL, canvas(browser, 0), min(max(x0, 0.5), w - 0.5) / w, y / h)[:3]
            for y in np.linspace(y0 + 0.6 * (y1 - y0), y1 - 2, 9)
        ]
        assert any(tuple(pixel) in colors for pixel in left), "the left edge of the box of the highest score"
        assert browser.find_element(By.ID, "threshold").is_displayed()
        assert_clean(browser)


def test_heads_and_features_of_one_encoder_are_displayed_in_turn(
    browser: webdriver.Chrome, heads_service: RunningService
) -> None:
    browser.get(heads_service.url)
    wait(browser, lambda: browser.find_elements(By.CSS_SELECTOR, "#head option[value='weather']"))
    drop_image(browser, 0, blocks(2), "dropped.png")
    assert "road: " in slot(browser, 0).text
    choose(browser, "head", "weather")
    wait(browser, lambda: "weather: " in slot(browser, 0).text)
    assert "%" in slot(browser, 0).find_element(By.CSS_SELECTOR, ".legend").text
    browser.find_element(By.CSS_SELECTOR, "input[value='colors']").click()
    wait(browser, lambda: "patches of 64" in slot(browser, 0).text)
    assert not slot(browser, 0).find_element(By.CSS_SELECTOR, ".legend").is_displayed()
    browser.find_element(By.CSS_SELECTOR, "input[value='prediction']").click()
    wait(browser, lambda: "weather: " in slot(browser, 0).text)
    assert_clean(browser)


def assert_clean(browser: webdriver.Chrome) -> None:
    """Check that all resources come from the service, and that the console reports no errors."""
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    here = browser.current_url.rstrip("/")
    assert all(name.startswith((here, "blob:")) for name in loaded), loaded
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def canvas_pixels(browser: webdriver.Chrome, index: int, step: int) -> np.ndarray:
    """Return every pixel (h, w, 3) of the canvas whose row and column are multiples of a step."""
    script = (
        "const [c, step] = arguments, { data } = c.getContext('2d').getImageData(0, 0, c.width, c.height), out = [];"
        "for (let y = 0; y < c.height; y += step) for (let x = 0; x < c.width; x += step) {"
        "  const at = 4 * (y * c.width + x); out.push(data[at], data[at + 1], data[at + 2]); }"
        "return [c.height, c.width, ...out];"
    )
    height, width, *values = browser.execute_script(script, canvas(browser, index), step)
    return np.array(values, float).reshape(-(-height // step), -(-width // step), 3)


def test_scenes_of_other_channels_are_drawn_by_the_service(
    browser: webdriver.Chrome, start_service: ServiceFactory, tmp_path: Path
) -> None:
    from base64 import b64encode

    pytest.importorskip("tifffile", reason="tifffile is not installed")
    (tmp_path / "scenes").mkdir()
    values = [bands(seed, height=512, width=640) for seed in range(3)]
    for seed in range(2):
        np.save(tmp_path / "scenes" / f"scene{seed}.npy", values[seed])
    runner = gtsa_kit.load(save_channel_encoder(tmp_path / "model"), "cpu")
    with start_service(runner, samples=tmp_path / "scenes", show="3,2,1") as running:
        open_page(browser, running)
        browser.find_element(By.CSS_SELECTOR, "label:has(input[value=image])").click()

        def shows(index: int, image: np.ndarray, chosen: tuple[int, ...]) -> bool:
            displayed = rgb_picture(image, runner.preprocessing, chosen)
            displayed, drawn = displayed[::16, ::16], canvas_pixels(browser, index, 16)
            return drawn.shape == displayed.shape and np.abs(drawn - displayed).max() <= 1

        wait(browser, lambda: shows(1, values[1], (2, 1, 0)))
        content = b64encode(tiff(values[2], compression="zlib")).decode()
        browser.execute_script(DROP, slot(browser, 0), content, "dropped.tif")
        wait(browser, lambda: shows(0, values[2], (2, 1, 0)))
        assert not slot(browser, 0).find_element(By.CSS_SELECTOR, "[data-rotate]").is_enabled()
        displayed = browser.find_element(By.ID, "show")
        displayed.send_keys("4,5,1", Keys.TAB)
        wait(browser, lambda: shows(0, values[2], (3, 4, 0)) and shows(1, values[1], (3, 4, 0)))
        wait(browser, lambda: is_idle(browser) and "patches" in slot(browser, 0).text)
        browser.execute_script(DROP, slot(browser, 0), b64encode(b"no scene").decode(), "wrong.tif")
        wait(browser, lambda: "wrong.tif: not an image" in status(browser))
        severe = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        assert ["v1/picture" in entry["message"] for entry in severe] == [True]  # of the file that is no scene
