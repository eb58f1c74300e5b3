"""Faults that the parity gate must detect."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from gtsa_kit.cli.support.parity_table import failure_message, parity_table
from gtsa_kit.export import Runner, load
from gtsa_kit.export.api import load_encoder
from gtsa_kit.export.comparison import compare_output, neighbor_agreement
from gtsa_kit.export.gate_errors import ParityError
from gtsa_kit.export.manifest import manifest_path, read_manifest, write_manifest
from gtsa_kit.export.overflow import explain_not_finite
from gtsa_kit.export.parity import check_parity
from gtsa_kit.export.parity_cases import ParityCase
from gtsa_kit.export.parity_images import ParityImages, load_parity_images
from gtsa_kit.export.parity_report import ParityReport
from gtsa_kit.export.pipeline import export_artifact
from gtsa_kit.export.source import open_source
from gtsa_kit.export.spec import ExportOptions, Range
from gtsa_kit.export.tolerances import TOLERANCES
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.outputs import Features
from gtsa_kit.models.preprocessing import Preprocessing
from gtsa_kit.models.weights import save_encoder

LAYERS = (0, 1)


class Faulty(Runner):
    """Runner of the encoder with one fault."""

    def __init__(
        self, runner: Runner, before: Callable[[np.ndarray], np.ndarray], after: Callable[[Features], Features]
    ) -> None:
        self.runner, self.before, self.after = runner, before, after
        self.manifest, self.provider = runner.manifest, "faulty"

    def _run(self, images: np.ndarray) -> list[np.ndarray]:
        features = self.after(self.runner(np.ascontiguousarray(self.before(images))))
        return [features.embedding, features.feature_map, *features.layers.values()]


def same(value):
    return value


def changed(**parts: Callable[[np.ndarray], np.ndarray]) -> Callable[[Features], Features]:
    return lambda f: f._replace(**{name: change(getattr(f, name)) for name, change in parts.items()})


FAULTS = {
    "transposed map": (same, changed(feature_map=lambda m: m.swapaxes(2, 3))),
    "map flipped": (same, changed(feature_map=lambda m: m[:, :, ::-1])),
    "embedding of the wrong image": (same, changed(embedding=lambda e: e[::-1])),
    "BGR": (lambda x: x[:, ::-1], same),
    "not a number": (same, changed(embedding=lambda e: e * np.float32("nan"))),
    "infinite": (same, changed(feature_map=lambda m: m * np.float32("inf"))),
    "one token off": (same, changed(feature_map=lambda m: np.roll(m, 1, axis=3))),
    "half precision inside": (lambda x: x.astype(np.float16).astype(np.float32), same),
    "one layer for the other": (same, changed(layers=lambda maps: {0: maps[1], 1: maps[0]})),
    "a layer without its norm": (same, changed(layers=lambda maps: {**maps, 0: maps[0] * 1.01})),
}


@pytest.fixture(scope="module")
def layered(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory, scenes: ParityImages) -> Path:
    path = tmp_path_factory.mktemp("layered") / "encoder.ts"
    export_artifact(open_source(tiny_run), "torchscript", path, ExportOptions(layers=LAYERS), scenes)
    return path


@pytest.mark.parametrize("fault", ["not a number", "infinite"])
def test_values_that_are_not_finite_are_named(
    fault: str, tiny_run: Path, layered: Path, scenes: ParityImages, capsys: pytest.CaptureFixture[str]
) -> None:
    report = check_parity(load_encoder(tiny_run), Faulty(load(layered, "cpu"), *FAULTS[fault]), scenes)
    failed = [d for d in report.differences if not d.passed]
    assert {d.problem for d in failed} == {"not finite"}
    assert {d.max_abs for d in failed} == {d.min_cosine for d in failed} == {None}
    assert (
        report.advice == "PyTorch computes finite values in fp32 on the same images, the runtime does not; try another"
    )
    Console(width=80).print(parity_table(report))
    printed = capsys.readouterr().out
    assert "not finite" in printed
    assert "e+30" not in printed
    assert ParityReport.model_validate_json(report.model_dump_json()) == report
    assert "is not finite: " in failure_message(layered, report)


def overflowing(tiny_run: Path, factor: float) -> Encoder:
    """Return an encoder with values of `factor` times the usual inside the MLP of block 1, and the usual output."""
    encoder = load_encoder(tiny_run)
    with torch.no_grad():
        mlp = encoder.vit.blocks[1].mlp
        mlp.fc1.weight[:4] *= factor
        mlp.fc2.weight[:, :4] /= factor
    return encoder


def test_the_block_that_overflows_is_named_with_a_precision_that_holds(tiny_run: Path, tmp_path: Path, scenes) -> None:
    save_encoder(tmp_path, overflowing(tiny_run, 1e6).vit.state_dict(), "vit_test", {})
    options = ExportOptions("fp16", Range(32, 32), Range(32, 32), Range(1, 1))
    report = export_artifact(open_source(tmp_path), "torchscript", tmp_path / "encoder.ts", options, scenes).parity
    assert not report.passed
    assert report.advice == "not finite from block 1 on; bf16 holds, try --precision bf16"
    message = failure_message(tmp_path / "encoder.ts", report)
    assert "encoder.ts is not finite from block 1 on (embedding at 1 x 32 x 32, on " in message
    with pytest.raises(ParityError, match="embedding: not finite from block 1 on; bf16 holds"):
        raise ParityError(tmp_path / "encoder.ts", report)


@pytest.mark.parametrize(
    ("part", "where"),
    [
        ("patch_embed.proj.bias", "the patch embedding"),
        ("blocks.0.mlp.fc2.bias", "block 0"),
        ("norm.bias", "the final norm"),
    ],
)
def test_damaged_weights_are_named(part: str, where: str, tiny_run: Path, scenes: ParityImages) -> None:
    encoder = load_encoder(tiny_run)
    with torch.no_grad():
        encoder.vit.get_parameter(part)[3] = float("nan")
    images = torch.zeros(1, 3, 32, 32)
    expected = f"the float32 encoder itself is not finite from {where} on; its weights are damaged"
    assert explain_not_finite(encoder, "fp16", images) == expected


def test_another_width_or_depth_is_one_sentence(layered: Path, scenes: ParityImages) -> None:
    runner = load(layered, "cpu")
    with pytest.raises(ValueError, match="the file has features of width 64, the encoder of 192; name the run"):
        check_parity(Encoder("vit_mini"), runner, scenes)
    runner.manifest = runner.manifest.model_copy(update={"outputs": runner.manifest.outputs[:2]})
    with pytest.raises(ValueError, match="the file has 4 outputs, its manifest names 2"):
        check_parity(Encoder("vit_test"), runner, scenes)


def test_the_true_encoder_passes(tiny_run: Path, layered: Path, scenes: ParityImages) -> None:
    report = check_parity(load_encoder(tiny_run), Faulty(load(layered, "cpu"), same, same), scenes)
    assert report.passed
    assert report.worst.max_abs < 1e-5


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_detected(fault: str, tiny_run: Path, layered: Path, scenes: ParityImages) -> None:
    report = check_parity(load_encoder(tiny_run), Faulty(load(layered, "cpu"), *FAULTS[fault]), scenes)
    assert not report.passed
    assert not report.worst.passed
    assert report.worst.image in scenes.names


@pytest.mark.parametrize(
    "layer",
    ["blocks.0.attn.qkv.weight", "blocks.1.mlp.fc2.weight", "norm.weight", "pos_embed", "patch_embed.proj.weight"],
)
def test_one_percent_in_one_layer_is_detected(layer: str, tiny_run: Path, tmp_path: Path, scenes: ParityImages) -> None:
    weights = load_encoder(tiny_run).vit.state_dict()
    save_encoder(tmp_path, {**weights, layer: weights[layer] * 1.01}, "vit_test", {})
    assert not check_parity(load_encoder(tiny_run), load(tmp_path, "cpu"), scenes).passed


@pytest.mark.parametrize(
    "wrong",
    [
        {"mean": list(Preprocessing().std), "std": list(Preprocessing().mean)},
        {"mean": list(Preprocessing().mean[::-1])},
        {"std": [0.5, 0.5, 0.5]},
        {"interpolation": "bilinear, antialiased"},
    ],
)
def test_a_manifest_with_wrong_preprocessing_is_detected(
    wrong: dict, tiny_run: Path, layered: Path, scenes: ParityImages
) -> None:
    runner = load(layered, "cpu")
    runner.manifest = runner.manifest.model_copy(update={"preprocessing": runner.manifest.preprocessing | wrong})
    assert not check_parity(load_encoder(tiny_run), runner, scenes).passed


def test_a_wrong_interpolation_is_detected_in_every_precision(tiny_run: Path, scenes: ParityImages) -> None:
    for precision in TOLERANCES:
        runner = load(tiny_run, "cpu")
        facts = runner.manifest.preprocessing | {"interpolation": "bilinear, antialiased"}
        runner.manifest = runner.manifest.model_copy(update={"preprocessing": facts, "precision": precision})
        report = check_parity(load_encoder(tiny_run), runner, scenes)
        assert not report.passed
        assert report.preprocessing == "interpolation bilinear, antialiased for bicubic, antialiased"


def test_an_unknown_interpolation_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"lanczos.* is not supported"):
        Preprocessing(interpolation="lanczos")


def test_neighbor_agreement_against_scikit_like_loops() -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((40, 8))
    b = a + 0.4 * rng.standard_normal((40, 8))

    def nearest(rows: np.ndarray, i: int) -> int:
        cosines = [
            -2 if i == j else rows[i] @ rows[j] / np.linalg.norm(rows[i]) / np.linalg.norm(rows[j]) for j in range(40)
        ]
        return int(np.argmax(cosines))

    slow = np.mean([nearest(a, i) == nearest(b, i) for i in range(40)])
    assert 0 < slow < 1
    assert neighbor_agreement(a, b) == pytest.approx(slow)
    assert neighbor_agreement(a[:2], b[:2]) is None


def test_compare_output() -> None:
    rng = np.random.default_rng(0)
    expected = rng.standard_normal((2, 5, 3, 4)).astype(np.float32)
    actual = expected.copy()
    actual[1, :, 2, 3] *= -1
    d = compare_output("feature_map", expected, actual, ParityCase(2, 48, 64), TOLERANCES["fp32"], ["first", "second"])
    assert d.min_cosine == pytest.approx(-1)
    assert d.mean_cosine == pytest.approx(1 - 2 / 24)
    assert d.max_abs == pytest.approx(2 * np.abs(expected[1, :, 2, 3]).max())
    assert d.mean_abs == pytest.approx(np.abs(expected - actual).mean())
    assert d.image == "second"


def test_gate_prefers_images_and_skips_unreadable_ones(images: Path, tmp_path: Path) -> None:
    for path in list(images.iterdir())[:3]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "unreadable.jpg").write_bytes(b"")
    assert len(load_parity_images(tmp_path).images) == 3
    assert len(load_parity_images(images).images) == 7
    assert "matplotlib" in load_parity_images(None).origin


def scale_one_layer(encoder: Encoder) -> Encoder:
    """Return a copy of an encoder with the weights of one layer scaled by 1.01."""
    scaled = Encoder("vit_test").eval()
    scaled.vit.load_state_dict(encoder.vit.state_dict())
    with torch.no_grad():
        scaled.vit.blocks[0].mlp.fc1.weight *= 1.01
    return scaled


def test_a_failing_gate_exits_1_keeps_the_file_and_names_the_worst(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from gtsa_kit.cli.export import export
    from gtsa_kit.export import pipeline

    def faulty_exporter(encoder: Encoder, options: ExportOptions, path: Path, _: object) -> dict[str, str]:
        return pipeline.export_torchscript(scale_one_layer(encoder), options, path)

    monkeypatch.setitem(pipeline.EXPORTERS, "torchscript", faulty_exporter)
    with pytest.raises(SystemExit) as stopped:
        export(tiny_run, format_name="torchscript", out=tmp_path / "bad.ts")
    assert stopped.value.code == 1
    message = capsys.readouterr().err
    for word in ("differs from the encoder", "cosine", "worst on crop at", " at "):
        assert word in message
    assert not read_manifest(tmp_path / "bad.ts").parity.passed


def test_an_error_in_the_gate_leaves_no_file_and_keeps_an_earlier_one(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gtsa_kit.export import pipeline

    def fail(*_: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(pipeline, "check_parity", fail)
    monkeypatch.setitem(pipeline.EXPORTERS, "torchscript", lambda *args: args[2].write_text("new") and {})
    monkeypatch.setattr(pipeline, "load", lambda *_: None)
    for earlier in (None, "old"):
        if earlier:
            (tmp_path / "a.ts").write_text(earlier)
        with pytest.raises(RuntimeError, match="no memory"):
            pipeline.export_artifact(open_source(tiny_run), "torchscript", tmp_path / "a.ts")
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == ({"a.ts": earlier} if earlier else {})


def test_verify_detects_a_file_that_was_changed_since(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], scenes: ParityImages
) -> None:
    """Replace the file beside a manifest whose report passed."""
    from gtsa_kit.cli.verify import verify

    path = tmp_path / "encoder.ts"
    export_artifact(open_source(tiny_run), "torchscript", path, images=scenes)
    verify(path, against=tiny_run)
    assert "passed the parity gate, compared with" in " ".join(capsys.readouterr().err.split())
    manifest = read_manifest(path)
    scaled = tmp_path / "other"
    scaled.mkdir()
    save_encoder(scaled, scale_one_layer(load_encoder(tiny_run)).vit.state_dict(), "vit_test", {})
    export_artifact(open_source(scaled), "torchscript", path, images=scenes)
    write_manifest(path, manifest)
    with pytest.raises(SystemExit) as stopped:
        verify(path, against=tiny_run)
    assert stopped.value.code == 1
    assert manifest_path(path).exists()
