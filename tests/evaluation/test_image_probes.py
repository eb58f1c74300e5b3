"""k-NN and linear probes of images, against slow loops and scikit-learn."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.evaluation_data import CLASS_COLORS, write_color_classes, write_color_image
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, top_k_accuracy_score

from gtsa_kit.data.labeled import read_classification_dataset, stratified_split
from gtsa_kit.evaluation import logistic_regression
from gtsa_kit.evaluation.image_probes import (
    ProbeOptions,
    accuracies,
    knn,
    linear,
)
from gtsa_kit.evaluation.logistic_regression import LabeledVectors, fit_logistic_regression
from gtsa_kit.evaluation.models import Model, open_models
from gtsa_kit.evaluation.support.statistics import wilson_interval


@pytest.fixture(scope="session")
def color_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_color_classes(tmp_path_factory.mktemp("classes"))


@pytest.fixture(scope="session")
def two_models(tiny_run: Path) -> list[Model]:
    return open_models([tiny_run], ["vit_test"], device="cpu")


def test_accuracies_against_scikit_learn() -> None:
    rng = np.random.default_rng(2)
    scores, labels = rng.standard_normal((300, 9)), rng.integers(0, 9, 300)
    result = accuracies(scores, labels)
    assert result["top1"] == pytest.approx(100 * accuracy_score(labels, scores.argmax(1)))
    assert result["top5"] == pytest.approx(100 * top_k_accuracy_score(labels, scores, k=5))
    assert accuracies(scores[:, :5], labels % 5)["top5"] is None


def test_a_score_of_minus_infinity_is_never_correct() -> None:
    scores = np.full((1, 8), -np.inf)
    scores[0, 7] = 1.0
    assert accuracies(scores, np.array([0]))["top5"] == 0
    assert accuracies(np.zeros((1, 8)), np.array([0]))["top1"] == 100  # of equal scores the first class
    assert accuracies(np.zeros((1, 8)), np.array([1]))["top1"] == 0


@pytest.mark.parametrize(("few", "solver"), [(12, "newton-cholesky"), (11, "lbfgs")])
def test_logistic_regression_minimizes_its_loss(few: int, solver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference is gradient descent in float64 on four standardized features, for three classes."""
    monkeypatch.setattr(logistic_regression, "MAX_NEWTON_WEIGHTS", few)
    rng = np.random.default_rng(3)
    vectors = (rng.standard_normal((90, 4)) * [1, 5, 0.1, 2] + 3).astype(np.float32)
    labels = (vectors[:, 0] + 0.3 * vectors[:, 1] + rng.standard_normal(90) > 4.5).astype(int) + (vectors[:, 3] > 4)
    queries = vectors[:20] + 0.1
    scores, fit = fit_logistic_regression(LabeledVectors(vectors, labels), queries, 4, (0.5,), seed=0)
    mean, deviation = vectors.astype(np.float64).mean(0), vectors.astype(np.float64).std(0)
    x, target = (vectors - mean) / deviation, np.eye(3)[labels]
    weight, bias = np.zeros((4, 3)), np.zeros(3)
    for _ in range(20_000):
        logits = x @ weight + bias
        shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        weight -= 0.01 * (0.5 * x.T @ (shares - target) + weight)
        bias -= 0.01 * 0.5 * (shares - target).sum(0)
    expected = (queries - mean) / deviation @ weight + bias
    expected -= np.log(np.exp(expected).sum(1, keepdims=True))
    np.testing.assert_allclose(scores[:, :3], expected, atol=5e-3)
    assert np.isneginf(scores[:, 3]).all()  # no training image
    assert fit == {"c": 0.5, "solver": solver, "converged": True}


def test_c_is_chosen_on_training_images() -> None:
    """Noise in many dimensions needs strong regularization; the validation part is not used."""
    rng = np.random.default_rng(4)
    labels = np.arange(80) % 2
    vectors = rng.standard_normal((80, 60))
    vectors[:, 0] += 1.5 * labels
    grid = (1e-3, 1e2)
    val = stratified_split(labels, 0.2, 7)
    x = (vectors - vectors.mean(0)) / vectors.std(0)
    scores = [
        LogisticRegression(C=c, max_iter=1000).fit(x[~val], labels[~val]).score(x[val], labels[val]) for c in grid
    ]
    _, fit = fit_logistic_regression(LabeledVectors(vectors, labels), vectors[:3], 2, grid, seed=7)
    assert fit["c"] == grid[int(np.argmax(scores))]


def test_both_probes_of_both_models_separate_colors(color_classes: Path, two_models: list[Model]) -> None:
    data, options = read_classification_dataset(color_classes), ProbeOptions(seeds=2, size=32)
    assert data.classes == tuple(CLASS_COLORS)
    for report in (knn(two_models, data, options, ks=(1, 5)), linear(two_models, data, options)):
        assert {row["top1"] for row in report.rows} == {100.0}
        assert all(row["val"] == 6 and row["train"] == 30 and row["top5"] is None for row in report.rows)
        assert {row["seed"] for row in report.rows} == {0, 1}
        low, high = wilson_interval(6, 6)
        assert report.rows[0]["top1_low"] == 100 * low
        assert high == 1
    assert len(knn(two_models, data, options, ks=(1, 5)).summary()) == 5  # with chance


def test_chance_is_that_of_the_most_frequent_class(two_models: list[Model], tmp_path: Path) -> None:
    """Classes of 3, 6 and 9 images with a given split; scikit-learn's dummy classifier is the reference."""
    rng = np.random.default_rng(0)
    labels = [name for number, name in enumerate("abc", 1) for _ in range(3 * number)]
    lines = ["path,label,split"]
    for index, label in enumerate(labels):
        write_color_image(tmp_path / f"{index}.png", (99, 99, 99), rng)
        lines.append(f"{index}.png,{label},{'val' if index % 3 == 0 else 'train'}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    data = read_classification_dataset(tmp_path / "labels.csv")
    val = data.labels[data.validation]
    dummy = DummyClassifier(strategy="most_frequent").fit(np.zeros((len(val), 1)), val)
    for report in (knn(two_models, data, ProbeOptions(size=32)), linear(two_models, data, ProbeOptions(1, size=32))):
        assert report.chance == {"top1": pytest.approx(100 * dummy.score(np.zeros((len(val), 1)), val))}
        assert report.summary()[-1]["model"] == "(chance)"


def test_random_labels_give_chance(color_classes: Path, two_models: list[Model]) -> None:
    data = read_classification_dataset(color_classes)
    labels = np.random.default_rng(0).permutation(data.labels)
    data = type(data)(data.paths, labels, data.classes, data.validation)
    for probe in (knn, linear):
        rows = probe(two_models[:1], data, ProbeOptions(seeds=6, val_share=0.4, size=32)).rows
        low, high = wilson_interval(
            round(sum(row["top1"] * row["val"] / 100 for row in rows)), sum(row["val"] for row in rows)
        )
        assert low - 0.1 < 1 / 3 < high + 0.1  # the splits share images: wider than one run of as many


def test_seeds_reproduce(color_classes: Path, two_models: list[Model]) -> None:
    data, options = read_classification_dataset(color_classes), ProbeOptions(seeds=2, size=32)
    assert linear(two_models[:1], data, options).to_dict() == linear(two_models[:1], data, options).to_dict()


def test_a_csv_and_folders_give_the_same_dataset(color_classes: Path, two_models: list[Model], tmp_path: Path) -> None:
    rng, lines = np.random.default_rng(0), []
    for path in color_classes.rglob("*.png"):
        lines.append(f'"../{color_classes.name}/{path.relative_to(color_classes)}",{path.parent.name}')
    rng.shuffle(lines)
    listing = color_classes.parent / "lists" / "alle.csv"
    listing.parent.mkdir()
    listing.write_text("\ufeffpath,label\r\n" + "\r\n".join(lines) + "\r\n", encoding="utf-8")
    folder, table = read_classification_dataset(color_classes), read_classification_dataset(listing)
    assert [p.resolve() for p in table.paths] == [p.resolve() for p in folder.paths]
    np.testing.assert_array_equal(table.labels, folder.labels)
    options = ProbeOptions(seeds=1, size=32)
    assert knn(two_models[:1], table, options).rows == knn(two_models[:1], folder, options).rows


def test_folders_and_csv_keep_a_given_split(color_classes: Path, two_models: list[Model], tmp_path: Path) -> None:
    rng, lines = np.random.default_rng(0), ["path,label,split"]
    for name, color in CLASS_COLORS.items():
        for index in range(4):
            split = "val" if index == 3 else "train"
            write_color_image(tmp_path / "set" / split / name / f"{index}.png", color, rng)
            lines.append(f"set/{split}/{name}/{index}.png,{name},{split}")
    write_color_image(tmp_path / "set" / "val" / "neu" / "0.png", (0, 0, 0), rng)  # a class without training images
    write_color_image(tmp_path / "set" / "stray.png", (0, 0, 0), rng)
    (tmp_path / "list.csv").write_text("\n".join([*lines, "", "set/val/neu/0.png,neu,val"]), encoding="utf-8")
    for source, extra in ((tmp_path / "set", {"stray.png": "in neither train/ nor val/"}), (tmp_path / "list.csv", {})):
        data = read_classification_dataset(source)
        assert data.validation is not None
        assert data.classes == tuple(CLASS_COLORS)
        assert data.validation.sum() == 3
        reasons = {Path(item.path).name: item.reason for item in data.skipped}
        assert reasons == {"0.png": "none of its class is in train"} | extra
        report = knn(two_models[:1], data, ProbeOptions(seeds=4, size=32))
        assert len(report.rows) == 1  # nothing is random
        assert report.rows[0]["val"] == 3


def test_unreadable_and_single_images_are_skipped_and_listed(two_models: list[Model], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("rot", "blau"):
        for index in range(5):
            write_color_image(tmp_path / name / f"{index}.png", CLASS_COLORS[name], rng)
    write_color_image(tmp_path / "allein" / "0.png", (1, 2, 3), rng)
    write_color_image(tmp_path / "beside.png", (1, 2, 3), rng)
    (tmp_path / "rot" / "9.jpg").write_bytes(b"no image")
    report = linear(two_models, read_classification_dataset(tmp_path), ProbeOptions(seeds=1, size=32))
    reasons = {Path(item["path"]).name: item["reason"] for item in report.settings["skipped"]}
    assert reasons.keys() == {"0.png", "beside.png", "9.jpg"}
    assert reasons["0.png"] == "the only one of its class"
    assert reasons["beside.png"] == "in no folder of a class"
    assert report.settings["images"] == 10
    assert report.settings["classes"] == ["blau", "rot"]


@pytest.mark.parametrize("probe", [knn, linear])
def test_classes_that_lost_their_images_do_not_count(probe: Callable, two_models: list[Model], tmp_path: Path) -> None:
    """Classes a and b remain, so that the result is that of a dataset with these two alone."""
    rng = np.random.default_rng(0)
    for name in "abcd":
        for index in range(4):
            write_color_image(tmp_path / "all" / name / f"{index}.png", tuple(CLASS_COLORS.values())[index % 3], rng)
            if name < "c":
                copy = tmp_path / "two" / name / f"{index}.png"
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes((tmp_path / "all" / name / f"{index}.png").read_bytes())
    unreadable = [*(tmp_path / "all" / "c").iterdir(), *sorted((tmp_path / "all" / "d").iterdir())[1:]]
    for path in unreadable:
        path.write_bytes(b"")
    options = ProbeOptions(seeds=2, size=32)
    report = probe(two_models[:1], read_classification_dataset(tmp_path / "all"), options)
    alone = probe(two_models[:1], read_classification_dataset(tmp_path / "two"), options)
    assert (report.rows, report.chance, report.title) == (alone.rows, alone.chance, alone.title)
    assert report.settings["classes"] == ["a", "b"]
    reasons = {Path(item["path"]).parent.name: item["reason"] for item in report.settings["skipped"]}
    assert reasons == {"c": "empty file", "d": "its class has fewer than two readable images"}
    for path in (tmp_path / "all" / "b").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"^1 class with readable images .* 12 files are skipped, first "):
        probe(two_models[:1], read_classification_dataset(tmp_path / "all"), options)


def test_a_split_class_without_readable_training_images_is_skipped(two_models: list[Model], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in "abc":
            for index in range(2):
                write_color_image(tmp_path / split / name / f"{index}.png", (9, 9, 9), rng)
    for path in [*(tmp_path / "train" / "a").iterdir(), *(tmp_path / "val" / "b").iterdir()]:
        path.write_bytes(b"")
    report = knn(two_models[:1], read_classification_dataset(tmp_path), ProbeOptions(size=32))
    assert report.settings["classes"] == ["b", "c"]
    assert [item["reason"] for item in report.settings["skipped"][-2:]] == [
        "its class has no readable image in train"
    ] * 2
    assert report.rows[0]["val"] == 2
    assert report.notes == (
        "no validation image of b",
        "k = 20 is more than the 4 training images, so all of them vote",
    )
    assert report.to_dict()["notes"] == list(report.notes)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has names that are not UTF-8")
def test_names_that_are_not_utf8_are_reported(two_models: list[Model], tmp_path: Path) -> None:
    rng, odd = np.random.default_rng(0), os.fsdecode(b"caf\xe9")
    for name in (odd, "rot"):
        for index in range(3):
            write_color_image(tmp_path / name / f"{index}.png", CLASS_COLORS["rot"], rng)
    (tmp_path / odd / "9.png").write_bytes(b"")
    report = knn(two_models[:1], read_classification_dataset(tmp_path), ProbeOptions(seeds=1, size=32))
    settings = json.loads(report.write(tmp_path / "out").read_text(encoding="utf-8"))["settings"]
    assert settings["classes"] == ["caf\\xe9", "rot"]
    assert settings["skipped"][0]["path"].endswith("caf\\xe9/9.png")


def test_images_that_are_missing(tmp_path: Path) -> None:
    (tmp_path / "missing.csv").write_text("path,label\na,x\nb,x\nc,y\nd,y\n")
    with pytest.raises(ValueError, match=r"4 of 4 files .* first a: no such file; paths count from"):
        read_classification_dataset(tmp_path / "missing.csv")
