"""Segmentation probes against slow loops and scikit-learn, on made masks and on images."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import accuracy_score, jaccard_score, recall_score
from torch import from_numpy

from gtsa_kit.data.label_map import VOID, MaskOptions, read_options
from gtsa_kit.data.labeled_masks import boxes, read_masked
from gtsa_kit.evaluation.dense_probes import LinearRecipe, NeighborRecipe, fit_linear, fit_neighbors, predict
from gtsa_kit.evaluation.dense_tokens import Framing, Place, Tokens, cell_shares, compute_tokens
from gtsa_kit.evaluation.models import Model, open_models
from gtsa_kit.evaluation.segment import SegmentOptions, counts_of, measures_of, segment
from gtsa_kit.progress import no_progress

QUICK = LinearRecipe(epochs=1, least_steps=80)
COLORS = np.array([[210, 40, 40], [40, 180, 60], [30, 60, 220]], np.uint8)


def write_scene(root: Path, name: str, rng: np.random.Generator, size: tuple[int, int] = (64, 96)) -> np.ndarray:
    """An image of blocks of color, on the grid of patches, and its index mask; the mask."""
    blocks = rng.integers(0, 3, (size[0] // 16, size[1] // 16))
    blocks.flat[:3] = 0, 1, 2
    mask = np.kron(blocks, np.ones((16, 16), int)).astype(np.uint8)
    pixels = COLORS[mask].astype(int) + rng.integers(-9, 10, (*size, 3))
    for kind in ("images", "masks"):
        (root / kind / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / "images" / f"{name}.png")
    Image.fromarray(mask).save(root / "masks" / f"{name}.png")
    return mask


@pytest.fixture(scope="session")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images in train, four in val."""
    folder, rng = tmp_path_factory.mktemp("blocks"), np.random.default_rng(0)
    for split, count in (("train", 10), ("val", 4)):
        for index in range(count):
            write_scene(folder / split, f"ä{index}", rng)
    return folder


@pytest.fixture(scope="session")
def models(tiny_run: Path) -> list[Model]:
    return open_models([tiny_run], ["vit_test"], device="cpu")


# --- measures -------------------------------------------------------------------------------------------------------


def maps(classes: int = 5, present: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, present, (30, 40)).astype(np.uint8)
    found = np.where(rng.random(labels.shape) < 0.6, labels, rng.integers(0, present, labels.shape)).astype(np.int64)
    labels[:5] = VOID
    return found, labels


def test_measures_against_nested_loops_and_scikit_learn() -> None:
    found, labels = maps()
    got = measures_of(counts_of(found, labels, 5))
    inter, union, there = [0] * 5, [0] * 5, [0] * 5
    right = pixels = 0
    for row in range(30):
        for column in range(40):
            truth, guess = int(labels[row, column]), int(found[row, column])
            if truth == VOID:
                continue
            pixels, right = pixels + 1, right + (truth == guess)
            there[truth] += 1
            inter[truth] += truth == guess
            for own in {truth, guess}:
                union[own] += 1
    assert got["iou"][4] is None  # neither there nor predicted
    assert got["iou"][:4] == pytest.approx([100 * i / u for i, u in zip(inter[:4], union[:4], strict=True)])
    assert got["miou"] == pytest.approx(100 * sum(i / u for i, u in zip(inter[:4], union[:4], strict=True)) / 4)
    assert got["macc"] == pytest.approx(100 * sum(i / t for i, t in zip(inter[:4], there[:4], strict=True)) / 4)
    assert got["aacc"] == pytest.approx(100 * right / pixels)
    known = labels != VOID
    assert got["miou"] == pytest.approx(100 * jaccard_score(labels[known], found[known], average="macro"))
    assert got["macc"] == pytest.approx(100 * recall_score(labels[known], found[known], average="macro"))
    assert got["aacc"] == pytest.approx(100 * accuracy_score(labels[known], found[known]))


def test_a_class_that_is_predicted_but_not_there_counts_in_miou_alone() -> None:
    labels, found = np.array([[0, 0, 1, 1]], np.uint8), np.array([[0, 0, 1, 2]])
    got = measures_of(counts_of(found, labels, 4))
    assert got["iou"] == [100, 50, 0, None]
    assert got["miou"] == 50
    assert got["macc"] == 75


def test_predictions_under_void_do_not_matter() -> None:
    found, labels = maps()
    other = found.copy()
    other[labels == VOID] = 4
    np.testing.assert_array_equal(counts_of(found, labels, 5), counts_of(other, labels, 5))


# --- cells and pixels -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "grid"), [((32, 48), (2, 3)), ((30, 41), (3, 4)), ((3, 3), (5, 2))])
def test_shares_of_cells_against_a_slow_loop(size: tuple[int, int], grid: tuple[int, int]) -> None:
    labels = np.random.default_rng(0).integers(0, 3, size).astype(np.uint8)
    labels[labels == 2] = VOID
    slow, pixels = np.zeros((*grid, 2)), np.zeros(grid)
    for y in range(size[0]):
        for x in range(size[1]):
            cell = math.floor((y + 0.5) * grid[0] / size[0]), math.floor((x + 0.5) * grid[1] / size[1])
            pixels[cell] += 1
            if labels[y, x] != VOID:
                slow[(*cell, labels[y, x])] += 1
    wanted = slow / np.maximum(pixels, 1)[..., None]
    np.testing.assert_allclose(cell_shares(labels, grid, 2).reshape(*grid, 2), wanted, rtol=1e-6)


def test_scores_are_upsampled_between_the_centers_of_cells() -> None:
    """Two cells on eight pixels: centers at 2 and 6, straight between them, flat outside."""
    tokens = Tokens((), np.array([[1.0], [0.0]], np.float32), np.zeros((2, 2), np.float32))
    place = Place(0, (0, 0, 1, 8), (16, 32), 0)
    for threshold, last in ((0.9, 1), (0.6, 3), (0.4, 4), (0.1, 5)):
        found = predict(tokens, [place], (1, 8), lambda x, t=threshold: from_numpy(np.c_[x, np.full_like(x, t)]))
        height = [1, 1, 0.875, 0.625, 0.375, 0.125, 0, 0]
        assert found[0].tolist() == [int(value < threshold) for value in height], last


@pytest.mark.parametrize(("size", "tile"), [((480, 360), 96), ((96, 96), 96), ((50, 200), 64), ((640, 480), None)])
def test_tiles_cover_every_pixel_with_as_few_as_can_be(size: tuple[int, int], tile: int | None) -> None:
    width, height = size
    seen, found = np.zeros((height, width), int), list(boxes(width, height, tile))
    for top, left, bottom, right in found:
        assert (bottom - top, right - left) == (min(tile or height, height), min(tile or width, width))
        seen[top:bottom, left:right] += 1
    assert seen.min() == 1
    assert len(found) == math.ceil(width / min(tile or width, width)) * math.ceil(height / min(tile or height, height))


# --- probes on features ---------------------------------------------------------------------------------------------


def made_tokens(shares: np.ndarray, features: np.ndarray, photos: int) -> Tokens:
    """Images of 2 x 2 cells."""
    places = tuple((Place(photo, (0, 0, 32, 32), (32, 32), 4 * photo),) for photo in range(photos))
    return Tokens(places, features.astype(np.float32), shares.astype(np.float32))


def test_patch_votes_against_a_slow_loop() -> None:
    rng = np.random.default_rng(0)
    shares, features = rng.dirichlet(np.ones(3), 40), rng.standard_normal((40, 5))
    shares[7] = 0  # void alone: no neighbor
    shares[8] *= 0.25  # void for three quarters: its labeled part counts in full
    tokens = made_tokens(shares, features, 10)
    places = tokens.places(np.ones(10, bool))
    query = rng.standard_normal((1, 5)).astype(np.float32)
    got = fit_neighbors(tokens, places, 0, NeighborRecipe(k=6, temperature=0.1))(query)[0].numpy()
    found = []
    for share, feature in zip(tokens.shares, tokens.features, strict=True):
        if share.sum() > 0:
            cosine = float(feature @ query[0]) / float(np.linalg.norm(feature) * np.linalg.norm(query))
            found.append((cosine, share / share.sum()))
    found = sorted(found, key=lambda item: -item[0])[:6]
    wanted = sum(math.exp(cosine / 0.1) * share for cosine, share in found)
    np.testing.assert_allclose(got, wanted / wanted.sum(), rtol=1e-4)


def test_patches_to_look_among_are_drawn_by_seed() -> None:
    rng = np.random.default_rng(0)
    tokens = made_tokens(np.eye(2)[rng.integers(0, 2, 40)], rng.standard_normal((40, 5)), 10)
    query, places = rng.standard_normal((9, 5)).astype(np.float32), tokens.places(np.ones(10, bool))
    recipe = NeighborRecipe(k=3, most=12)
    first, same, other = (fit_neighbors(tokens, places, seed, recipe)(query) for seed in (0, 0, 1))
    assert (first == same).all()
    assert (first != other).any()


def test_the_linear_probe_finds_what_is_linear_and_is_deterministic() -> None:
    """Whatever the scales of the dimensions."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((80, 6)) * [1, 100, 0.01, 1, 1, 1] + 5
    kinds = 2 * (features[:, 0] > 5).astype(int) + (features[:, 2] > 5)
    shares = np.eye(4)[kinds]
    tokens = made_tokens(shares, features, 20)
    places, recipe = tokens.places(np.ones(20, bool)), LinearRecipe(lr=0.1)
    first, same, other = (fit_linear(tokens, places, seed, recipe)(tokens.features) for seed in (0, 0, 1))
    assert (first.argmax(1).numpy() == kinds).mean() > 0.95
    assert (first == same).all()
    assert (first != other).any()


def test_the_loss_is_the_cross_entropy_of_pixels() -> None:
    """One cell, seven pixels of one class and one of the other, the rest void: the shares are what is learnt."""
    shares = np.tile([[7 / 16, 1 / 16]], (4, 1))
    tokens = made_tokens(shares, np.ones((4, 2)), 1)
    score = fit_linear(tokens, tokens.places(np.ones(1, bool)), 0, LinearRecipe(lr=0.1, weight_decay=0))
    np.testing.assert_allclose(score(tokens.features).softmax(1)[0], [7 / 8, 1 / 8], atol=3e-3)


# --- images ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tile", [None, 32])
def test_blocks_of_color_are_found_by_both_probes_and_models(blocks: Path, models: list[Model], tile: int) -> None:
    data = read_masked(blocks)
    assert (data.classes, data.given, len(data.pairs)) == (("0", "1", "2"), True, 14)
    options = SegmentOptions(Framing(96 if tile is None else None, tile), seeds=1, linear=QUICK)
    report = segment(models, data, options)
    assert [row["model"].split(", ")[1] for row in report.rows] == ["linear", "knn"] * 2
    for row in report.rows:
        assert row["aacc"] > 85  # edges are blurred by upsampling
        assert row["miou_low"] <= row["miou"] <= row["miou_high"]
        assert row["inputs"] == ([[64, 96]] if tile is None else [[32, 32]])
        assert row["iou"].keys() == {"0", "1", "2"}


def test_whole_masks_of_one_class_give_everything(models: list[Model], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for index in range(4):
            for kind in ("images", "masks"):
                (tmp_path / split / kind).mkdir(parents=True, exist_ok=True)
            pixels = COLORS[index % 2] + rng.integers(0, 9, (48, 48, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / split / "images" / f"{index}.png")
            Image.new("L", (48, 48), index % 2).save(tmp_path / split / "masks" / f"{index}.png")
    report = segment(models, read_masked(tmp_path), SegmentOptions(Framing(48), seeds=2, linear=QUICK))
    assert {(row["miou"], row["aacc"], row["macc"]) for row in report.rows} == {(100.0, 100.0, 100.0)}


def test_seeds_reproduce_and_a_split_is_drawn(models: list[Model], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(6):
        write_scene(tmp_path, f"{index}", rng)
    data, options = read_masked(tmp_path), SegmentOptions(Framing(64), seeds=2, linear=QUICK, val_share=0.3)
    assert not data.given
    reports = [segment(models[:1], data, options).to_dict() for _ in range(2)]
    assert reports[0] == reports[1]
    assert all((row["train"], row["val"]) == (4, 2) for row in reports[0]["rows"])
    separate = read_masked(tmp_path / "images", tmp_path / "masks")
    assert [pair.name for pair in separate.pairs] == [pair.name for pair in data.pairs]


def test_what_lies_under_void_does_not_matter(models: list[Model], tmp_path: Path) -> None:
    """Two kinds of void, shuffled: not one measure changes."""
    found = []
    for kind in ("a", "b"):
        rng = np.random.default_rng(0)
        for index in range(5):
            mask = write_scene(tmp_path / kind, f"{index}", rng)
            mask[:20] = np.random.default_rng(index).choice([11, 255], mask[:20].shape) if kind == "a" else 11
            Image.fromarray(mask).save(tmp_path / kind / "masks" / f"{index}.png")
        data = read_masked(tmp_path / kind, options=MaskOptions(ignore=("11",)))
        assert data.classes == ("0", "1", "2")
        found.append(segment(models[:1], data, SegmentOptions(Framing(64), seeds=1, linear=QUICK)).rows)
    assert found[0] == found[1]
    assert found[0][0]["void"] == pytest.approx(100 * 20 / 64)


def test_tokens_are_the_models_own_and_fall_to_a_file_when_many(
    blocks: Path, models: list[Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, runner = read_masked(blocks), models[0].runner
    monkeypatch.setattr("gtsa_kit.evaluation.dense_tokens.MOST_BYTES", 10)
    with compute_tokens(runner, data, Framing(96), no_progress, "") as tokens:
        assert isinstance(tokens.features, np.memmap)
        image = Image.open(data.pairs[3].image).convert("RGB")
        own = runner(runner.prepare(image, (64, 96))[None]).feature_map[0]
        (place,) = tokens.photos[3]
        np.testing.assert_allclose(tokens.features[place.cells], own.reshape(len(own), -1).T, atol=1e-4)
        labels = data.labels(data.pairs[3])[8::16, 8::16].ravel()
        np.testing.assert_array_equal(tokens.shares[place.cells], np.eye(3, dtype=np.float32)[labels])


def test_a_model_of_one_shape_gets_its_shape(blocks: Path, fixed: Model) -> None:
    for framing in (Framing(96), Framing(tile=32)):
        row = segment([fixed], read_masked(blocks), SegmentOptions(framing, ("linear",), 1, linear=QUICK)).rows[0]
        assert row["inputs"] == [[48, 80]]
        assert row["aacc"] > 60


@pytest.fixture(scope="session")
def fixed() -> Model:
    """Batches of 3, 48 x 80."""
    from gtsa_kit.evaluation.models import random_runner
    from gtsa_kit.export.build_manifest import build_manifest
    from gtsa_kit.export.spec import ExportOptions, Range
    from gtsa_kit.models.encoder import Encoder

    runner = random_runner("vit_test", 0, "cpu")
    options = ExportOptions(height=Range(48, 48), width=Range(80, 80), batch=Range(3, 3))
    runner.manifest = build_manifest(Encoder("vit_test"), "pytorch", options, {"torch": "any"}, "random")
    return Model("fixed", runner, None)


# --- masks ----------------------------------------------------------------------------------------------------------


def test_masks_in_color_say_what_masks_of_indices_say(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(3):
        mask = write_scene(tmp_path, f"{index}", rng)
        mask[0, 0] = 3  # of no name
        colors = np.concatenate([COLORS, [[9, 9, 9]]]).astype(np.uint8)
        for kind in ("color", "palette"):
            (tmp_path / kind).mkdir(exist_ok=True)
        Image.fromarray(colors[mask]).save(tmp_path / "color" / f"{index}.png")
        image = Image.fromarray(mask, "P")
        image.putpalette(colors.tobytes())
        image.save(tmp_path / "palette" / f"{index}.png")
        Image.fromarray(mask).save(tmp_path / "masks" / f"{index}.png")
    names = {"".join(f"{level:02X}" for level in color): name for color, name in zip(COLORS, "rgb", strict=True)}
    (tmp_path / "names.json").write_text(json.dumps({f"#{color}": name for color, name in names.items()}))
    lines = [f"{name},{r},{g},{b}" for (r, g, b), name in zip(COLORS, "rgb", strict=True)]
    (tmp_path / "names.csv").write_text("\n".join(["name, r, g, b", *lines]))
    (tmp_path / "indices.json").write_text(json.dumps({"0": "r", "1": "g", "2": "b"}))
    found = {}
    for kind, table in (
        ("masks", "indices.json"), ("palette", "indices.json"), ("color", "names.json"), ("palette", "names.csv"),
    ):  # fmt: skip
        data = read_masked(tmp_path / "images", tmp_path / kind, read_options(tmp_path / table, []))
        assert data.classes == ("r", "g", "b")
        found[kind, table] = [data.labels(pair) for pair in data.pairs]
    wanted = found.pop(("masks", "indices.json"))
    assert wanted[0][0, 0] == VOID
    for got in found.values():
        np.testing.assert_array_equal(got, wanted)
    bare = read_masked(tmp_path / "images", tmp_path / "color", MaskOptions(ignore=("#090909",)))
    assert set(bare.classes) == {"#" + color.lower() for color in names}
    without = read_masked(tmp_path / "images", tmp_path / "color", read_options(tmp_path / "names.csv", ["g"]))
    assert without.classes == ("r", "b")


def test_what_does_not_fit_together_is_left_out_and_listed(models: list[Model], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("sub/a", "b", "small", "nomask", "damaged", "badmask"):
        write_scene(tmp_path, name, rng)
    Image.new("L", (10, 10)).save(tmp_path / "masks" / "small.png")
    (tmp_path / "masks" / "nomask.png").rename(tmp_path / "masks" / "alone.png")
    (tmp_path / "images" / "damaged.png").write_bytes(b"")
    (tmp_path / "masks" / "badmask.png").write_bytes(b"\x89PNG nothing")
    data = read_masked(tmp_path)
    reasons = {item.path: item.reason for item in data.skipped}
    assert reasons == {
        "small.png": "its mask is 10 x 10, the image 96 x 64",
        "nomask.png": "no mask of this name",
        "alone.png": "a mask without image",
        "damaged.png": "empty file",
        "badmask.png": "its mask: not an image, or damaged beyond recognition",
    }
    report = segment(models[:1], data, SegmentOptions(Framing(64), ("knn",), 1))
    assert len(report.settings["skipped"]) == 5


def test_wrong_sets_are_said(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"neither train/ and val/ .*--masks DIR"):
        read_masked(tmp_path)
    for index in range(2):
        write_scene(tmp_path, f"{index}", rng)
    with pytest.raises(ValueError, match="hold 1 class besides void"):
        read_masked(tmp_path, options=MaskOptions(ignore=("1", "2")))
    with pytest.raises(ValueError, match="--ignore #000000: the masks hold indices"):
        read_masked(tmp_path, options=MaskOptions(ignore=("#000000",)))
    with pytest.raises(ValueError, match="none of the codes in --colors"):
        read_masked(tmp_path, options=MaskOptions({77: "x", 78: "y"}))
    with pytest.raises(ValueError, match="more than 255 classes; are they images"):
        read_masked(tmp_path / "images", tmp_path / "images")
    Image.fromarray(COLORS[np.zeros((64, 96), int)]).save(tmp_path / "masks" / "1.png")
    with pytest.raises(ValueError, match=r"1\.png is in color and .*0\.png holds indices"):
        read_masked(tmp_path)
    (tmp_path / "masks" / "1.png").rename(tmp_path / "masks" / "other.png")
    with pytest.raises(ValueError, match="one image with a mask can't be split"):
        read_masked(tmp_path)
    (tmp_path / "masks" / "0.png").unlink()
    with pytest.raises(ValueError, match=r"no image in .* has a mask of its name"):
        read_masked(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", "[]"),
        ("a.json", "{"),
        ("a.json", '{"red": "x"}'),
        ("a.json", "{}"),
        ("a.json", '{"#000000": "x", "1": "y"}'),
        ("a.csv", "name,r,g\nx,1,2"),
        ("a.csv", "name,r,g,b\nx,1,2,256"),
        ("a.csv", "name,r,g,b\nx,1,2"),
    ],
)
def test_a_wrong_table_of_colors_is_said(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=r"a\.(json|csv)"):
        read_options(tmp_path / name, [])


def test_binary_masks_of_0_and_255_can_be_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(2):
        mask = write_scene(tmp_path, f"{index}", rng)
        Image.fromarray(((mask > 0) * 255).astype(np.uint8)).save(tmp_path / "masks" / f"{index}.png")
    with pytest.raises(ValueError, match="index 255 is void unless --colors names it"):
        read_masked(tmp_path)
    assert read_masked(tmp_path, options=MaskOptions({0: "ground", 255: "thing"})).classes == ("ground", "thing")


def test_segment_command(blocks: Path, gtsa_here: Callable[..., object], tmp_path: Path) -> None:
    arguments = ("--images", blocks, "--out", tmp_path, "--tiles", 32, "--device", "cpu", "--seeds", 1, "--ignore", 0)
    ran = gtsa_here("eval", "segment", "--random", "vit_test", *arguments, "--epochs", 1, "--json")
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout)
    assert said == json.loads((tmp_path / "segment.json").read_text())
    assert said["settings"]["classes"] == ["1", "2"]
    assert [line["model"] for line in said["summary"]] == ["random vit_test, linear", "random vit_test, knn"]
    assert (tmp_path / "segment.png").stat().st_size > 1000
    wrong = gtsa_here("eval", "segment", "--random", "vit_test", *arguments, "--probe", "forest")
    assert wrong.returncode == 2
    assert "probes are linear and knn" in wrong.stderr
