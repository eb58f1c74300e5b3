"""k-NN and linear probes against slow loops and scikit-learn, on features and on images."""

import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, top_k_accuracy_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import normalize

from gtsa_kit.data.labeled import read_labeled, stratified
from gtsa_kit.evaluation import image_probes
from gtsa_kit.evaluation.image_probes import Part, ProbeOptions, accuracies, knn, linear, logistic
from gtsa_kit.evaluation.models import Model, open_models
from gtsa_kit.evaluation.support.intervals import wilson
from gtsa_kit.evaluation.support.knn import KNNClassifier

COLORS = {"blau": (30, 60, 200), "gruen": (40, 180, 60), "rot": (210, 50, 40)}


def paint(path: Path, color: tuple[int, int, int], rng: np.random.Generator) -> None:
    """One color with grain: classes that any features tell apart."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.asarray(color) + rng.integers(-12, 13, (40, 48, 3))
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="session")
def colors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images in each of three classes, with names in unicode."""
    folder, rng = tmp_path_factory.mktemp("colors"), np.random.default_rng(0)
    for name, color in COLORS.items():
        for index in range(12):
            paint(folder / name / f"bild ä{index}.png", color, rng)
    return folder


@pytest.fixture(scope="session")
def two_models(tiny_run: Path) -> list[Model]:
    return open_models([tiny_run], ["vit_test"], device="cpu")


# --- votes and accuracies -------------------------------------------------------------------------------------------


def slow_votes(bank: np.ndarray, labels: np.ndarray, query: np.ndarray, k: int, temperature: float) -> np.ndarray:
    cosines = []
    for row in bank.astype(np.float64):
        dot = sum(float(a) * float(b) for a, b in zip(row, query, strict=True))
        cosines.append(dot / math.sqrt(sum(a * a for a in row)) / math.sqrt(sum(float(b) ** 2 for b in query)))
    votes = np.zeros(labels.shape[1])
    for index in sorted(range(len(bank)), key=lambda i: -cosines[i])[:k]:
        votes += math.exp(cosines[index] / temperature) * labels[index]
    return votes


@pytest.mark.parametrize("block", [2**25, 100])
def test_votes_against_a_slow_loop(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr("gtsa_kit.evaluation.support.knn.BLOCK", block)  # whole, and three queries at a time
    rng = np.random.default_rng(0)
    bank, queries = rng.standard_normal((30, 6)).astype(np.float32), rng.standard_normal((11, 6)).astype(np.float32)
    labels = rng.dirichlet(np.ones(4), 30).astype(np.float32)
    ks = (1, 7, 100)
    found = KNNClassifier(bank, labels).vote(queries, ks, 0.07)
    for votes, k in zip(found, ks, strict=True):
        for own, query in zip(votes, queries, strict=True):
            slow = slow_votes(bank, labels, query, k, 0.07)
            np.testing.assert_allclose(own / own.sum(), slow / slow.sum(), rtol=1e-4, atol=1e-9)


def test_winners_against_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    bank, queries = rng.standard_normal((200, 8)), rng.standard_normal((80, 8))
    labels = rng.integers(0, 5, 200)
    oracle = KNeighborsClassifier(15, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
    wanted = oracle.fit(bank, labels).predict(queries)
    found = KNNClassifier(bank, np.eye(5, dtype=np.float32)[labels]).vote(queries, (15,), 0.07)[0].argmax(1)
    np.testing.assert_array_equal(found, wanted)
    assert len(normalize(bank)) == 200


def test_accuracies_against_scikit_learn() -> None:
    rng = np.random.default_rng(2)
    scores, labels = rng.standard_normal((300, 9)), rng.integers(0, 9, 300)
    found = accuracies(scores, labels)
    assert found["top1"] == pytest.approx(100 * accuracy_score(labels, scores.argmax(1)))
    assert found["top5"] == pytest.approx(100 * top_k_accuracy_score(labels, scores, k=5))
    assert accuracies(scores[:, :5], labels % 5)["top5"] is None


def test_what_is_never_chosen_is_no_hit() -> None:
    scores = np.full((1, 8), -np.inf)
    scores[0, 7] = 1.0
    assert accuracies(scores, np.array([0]))["top5"] == 0
    assert accuracies(np.zeros((1, 8)), np.array([0]))["top1"] == 100  # of equals the first
    assert accuracies(np.zeros((1, 8)), np.array([1]))["top1"] == 0


@pytest.mark.parametrize(("few", "solver"), [(12, "newton-cholesky"), (11, "lbfgs")])
def test_logistic_is_the_minimum_of_its_loss(few: int, solver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64, by plain gradient descent, on standardized features; four of them, for three classes."""
    monkeypatch.setattr(image_probes, "FEW_WEIGHTS", few)
    rng = np.random.default_rng(3)
    vectors = (rng.standard_normal((90, 4)) * [1, 5, 0.1, 2] + 3).astype(np.float32)
    labels = (vectors[:, 0] + 0.3 * vectors[:, 1] + rng.standard_normal(90) > 4.5).astype(int) + (vectors[:, 3] > 4)
    queries = vectors[:20] + 0.1
    scores, about = logistic(Part(vectors, labels), queries, 4, (0.5,), seed=0)
    mean, deviation = vectors.astype(np.float64).mean(0), vectors.astype(np.float64).std(0)
    x, target = (vectors - mean) / deviation, np.eye(3)[labels]
    weight, bias = np.zeros((4, 3)), np.zeros(3)
    for _ in range(20_000):
        logits = x @ weight + bias
        shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        weight -= 0.01 * (0.5 * x.T @ (shares - target) + weight)
        bias -= 0.01 * 0.5 * (shares - target).sum(0)
    wanted = (queries - mean) / deviation @ weight + bias
    wanted -= np.log(np.exp(wanted).sum(1, keepdims=True))
    np.testing.assert_allclose(scores[:, :3], wanted, atol=5e-3)
    assert np.isneginf(scores[:, 3]).all()  # no training image
    assert about == {"strength": 0.5, "solver": solver, "converged": True}


def test_the_strength_is_chosen_on_training_images() -> None:
    """Noise in many dimensions wants a strong regularisation; the validation part is never asked."""
    rng = np.random.default_rng(4)
    labels = np.arange(80) % 2
    vectors = rng.standard_normal((80, 60))
    vectors[:, 0] += 1.5 * labels
    grid = (1e-3, 1e2)
    held = stratified(labels, 0.2, 7)
    x = (vectors - vectors.mean(0)) / vectors.std(0)
    scores = [
        LogisticRegression(C=c, max_iter=1000).fit(x[~held], labels[~held]).score(x[held], labels[held]) for c in grid
    ]
    _, about = logistic(Part(vectors, labels), vectors[:3], 2, grid, seed=7)
    assert about["strength"] == grid[int(np.argmax(scores))]


# --- images ----------------------------------------------------------------------------------------------------


def test_colors_are_told_apart_by_both_probes_and_models(colors: Path, two_models: list[Model]) -> None:
    data, options = read_labeled(colors), ProbeOptions(seeds=2, size=32)
    assert data.classes == tuple(COLORS)
    for report in (knn(two_models, data, options, ks=(1, 5)), linear(two_models, data, options)):
        assert {row["top1"] for row in report.rows} == {100.0}
        assert all(row["val"] == 6 and row["train"] == 30 and row["top5"] is None for row in report.rows)
        assert {row["seed"] for row in report.rows} == {0, 1}
        low, high = wilson(6, 6)
        assert report.rows[0]["top1_low"] == 100 * low
        assert high == 1
    assert len(knn(two_models, data, options, ks=(1, 5)).summary()) == 4


def test_random_labels_give_chance(colors: Path, two_models: list[Model]) -> None:
    data = read_labeled(colors)
    labels = np.random.default_rng(0).permutation(data.labels)
    data = type(data)(data.paths, labels, data.classes, data.validation)
    for probe in (knn, linear):
        rows = probe(two_models[:1], data, ProbeOptions(seeds=6, val_share=0.4, size=32)).rows
        low, high = wilson(round(sum(row["top1"] * row["val"] / 100 for row in rows)), sum(row["val"] for row in rows))
        assert low - 0.1 < 1 / 3 < high + 0.1  # the splits share images: wider than one run of as many


def test_seeds_reproduce(colors: Path, two_models: list[Model]) -> None:
    data, options = read_labeled(colors), ProbeOptions(seeds=2, size=32)
    assert linear(two_models[:1], data, options).to_dict() == linear(two_models[:1], data, options).to_dict()


def test_csv_and_folders_say_the_same(colors: Path, two_models: list[Model], tmp_path: Path) -> None:
    rng, lines = np.random.default_rng(0), []
    for path in colors.rglob("*.png"):
        lines.append(f'"../{colors.name}/{path.relative_to(colors)}",{path.parent.name}')
    rng.shuffle(lines)
    listing = colors.parent / "lists" / "alle.csv"
    listing.parent.mkdir()
    listing.write_text("\ufeffpath,label\r\n" + "\r\n".join(lines) + "\r\n", encoding="utf-8")
    folder, table = read_labeled(colors), read_labeled(listing)
    assert [p.resolve() for p in table.paths] == [p.resolve() for p in folder.paths]
    np.testing.assert_array_equal(table.labels, folder.labels)
    options = ProbeOptions(seeds=1, size=32)
    assert knn(two_models[:1], table, options).rows == knn(two_models[:1], folder, options).rows


def test_a_given_split_is_kept_by_folders_and_csv(colors: Path, two_models: list[Model], tmp_path: Path) -> None:
    rng, lines = np.random.default_rng(0), ["path,label,split"]
    for name, color in COLORS.items():
        for index in range(4):
            split = "val" if index == 3 else "train"
            paint(tmp_path / "set" / split / name / f"{index}.png", color, rng)
            lines.append(f"set/{split}/{name}/{index}.png,{name},{split}")
    paint(tmp_path / "set" / "val" / "neu" / "0.png", (0, 0, 0), rng)  # nothing to learn it from
    paint(tmp_path / "set" / "stray.png", (0, 0, 0), rng)
    (tmp_path / "list.csv").write_text("\n".join([*lines, "", "set/val/neu/0.png,neu,val"]), encoding="utf-8")
    for source, extra in ((tmp_path / "set", {"stray.png": "in neither train/ nor val/"}), (tmp_path / "list.csv", {})):
        data = read_labeled(source)
        assert data.validation is not None
        assert data.classes == tuple(COLORS)
        assert data.validation.sum() == 3
        reasons = {Path(item.path).name: item.reason for item in data.skipped}
        assert reasons == {"0.png": "none of its class is in train"} | extra
        report = knn(two_models[:1], data, ProbeOptions(seeds=4, size=32))
        assert len(report.rows) == 1  # nothing is drawn
        assert report.rows[0]["val"] == 3


def test_broken_and_lonely_images_are_left_out_and_listed(two_models: list[Model], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("rot", "blau"):
        for index in range(5):
            paint(tmp_path / name / f"{index}.png", COLORS[name], rng)
    paint(tmp_path / "allein" / "0.png", (1, 2, 3), rng)
    paint(tmp_path / "beside.png", (1, 2, 3), rng)
    (tmp_path / "rot" / "9.jpg").write_bytes(b"no image")
    report = linear(two_models, read_labeled(tmp_path), ProbeOptions(seeds=1, size=32))
    reasons = {Path(item["path"]).name: item["reason"] for item in report.settings["skipped"]}
    assert reasons.keys() == {"0.png", "beside.png", "9.jpg"}
    assert reasons["0.png"] == "the only one of its class"
    assert reasons["beside.png"] == "in no folder of a class"
    assert report.settings["images"] == 10
    assert report.settings["classes"] == ["blau", "rot"]


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no UTF-8 are Linux's alone")
def test_names_that_are_no_utf8_are_reported(two_models: list[Model], tmp_path: Path) -> None:
    rng, odd = np.random.default_rng(0), os.fsdecode(b"caf\xe9")
    for name in (odd, "rot"):
        for index in range(3):
            paint(tmp_path / name / f"{index}.png", COLORS["rot"], rng)
    (tmp_path / odd / "9.png").write_bytes(b"")
    report = knn(two_models[:1], read_labeled(tmp_path), ProbeOptions(seeds=1, size=32))
    said = json.loads(report.write(tmp_path / "out").read_text(encoding="utf-8"))["settings"]
    assert said["classes"] == ["caf\\xe9", "rot"]
    assert said["skipped"][0]["path"].endswith("caf\\xe9/9.png")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,label\na.png,x\n", "line 1: the columns path and label"),
        ("path;label\na.png;x\n", "line 1: the columns path and label .*by commas"),
        ("", "line 1: .*got nothing"),
        ("path,label\na.png,x\nb.png\n", "line 3: 1 cells, not 2"),
        ("path,label\na.png,x\n,y\n", "line 3: a path and a label"),
        ("path,label\na.png,\n", "line 2: a path and a label"),
        ("path,label,split\na.png,x,train\nb.png,y,test\n", "line 3: split is train or val, got 'test'"),
        ("path,label\na.png,x\na.png,y\n", "line 3: a.png stands in line 2 too"),
        ("path,label,split\na.png,x,train\na.png,x,val\n", "line 3: a.png stands in line 2 too"),
        ("path,label\n", "no image with a class"),
        ("path,label\na.png,x\nb.png,x\n", "has 1 usable class, and it takes two"),
        ('path,label\n"a.png,x\n', "not a readable CSV"),
        ("path,label\na\0.png,x\n", "line 2"),
    ],
)
def test_a_wrong_csv_is_said_by_line(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_labeled(tmp_path / "list.csv")


def test_other_wrong_sources_are_said(colors: Path, two_models: list[Model], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        read_labeled(tmp_path / "gone")
    with pytest.raises(ValueError, match="no image with a class; put each"):
        read_labeled(colors / "rot")
    (tmp_path / "latin.csv").write_bytes("path,label\nä,x".encode("latin-1"))
    with pytest.raises(ValueError, match="in UTF-8"):
        read_labeled(tmp_path / "latin.csv")
    (tmp_path / "missing.csv").write_text("path,label\na,x\nb,x\nc,y\nd,y\n")
    with pytest.raises(ValueError, match=r"none of the 4 images can be read, first .*a: no such file"):
        knn(two_models, read_labeled(tmp_path / "missing.csv"))


@pytest.mark.parametrize("size", [2, 3, 10, 97])
def test_a_stratified_part_has_its_share_of_each_class(size: int) -> None:
    labels = np.repeat([3, 1, 8], [size, 1, 4 * size])
    drawn = stratified(labels, 0.3, 0)
    assert drawn[labels == 1].sum() == 0
    for label, count in ((3, size), (8, 4 * size)):
        assert abs(drawn[labels == label].sum() - 0.3 * count) <= 0.7
        assert 1 <= drawn[labels == label].sum() < count
    assert (stratified(labels, 0.3, 0) == drawn).all()
    assert size < 10 or (stratified(labels, 0.3, 1) != drawn).any()


# --- the commands ---------------------------------------------------------------------------------------------------


def test_knn_command(colors: Path, tiny_run: Path, gtsa_here: Callable[..., object], tmp_path: Path) -> None:
    arguments = ("--images", colors, "--out", tmp_path / "out", "--size", 32, "--device", "cpu", "--seeds", 2)
    ran = gtsa_here("eval", "knn", tiny_run, "--random", "vit_test", *arguments, "--json")
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout)
    assert said == json.loads((tmp_path / "out" / "knn.json").read_text())
    assert [line["model"] for line in said["summary"]][1] == "random vit_test"
    assert said["settings"]["seeds"] == 2
    assert (tmp_path / "out" / "knn.png").stat().st_size > 1000


def test_linear_command(colors: Path, gtsa_here: Callable[..., object], tmp_path: Path) -> None:
    arguments = ("--images", colors, "--out", tmp_path, "--size", 32, "--device", "cpu", "--seeds", 1)
    ran = gtsa_here("eval", "linear", "--random", "vit_test", *arguments)
    assert ran.returncode == 0, ran.stderr
    assert "top-1 %" in ran.stderr
    assert "wrote" in ran.stderr
    assert not ran.stdout
    assert gtsa_here("eval", "linear", *arguments).returncode == 2


def test_a_missing_extra_is_said(
    colors: Path, gtsa_here: Callable[..., object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    ran = gtsa_here("eval", "linear", "--random", "vit_test", "--images", colors, "--out", tmp_path)
    assert ran.returncode == 2
    assert "hint: pip install 'gtsa-kit[eval]'" in ran.stderr
