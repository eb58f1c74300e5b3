"""Checkpoints of other frameworks, against the models that they come from: timm's and transformers' own forwards."""

import argparse
import json
import os
import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from gtsa_kit.models.architecture import ARCHITECTURES
from gtsa_kit.models.checkpoint_import import ImportedEncoder, open_weights
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.preprocessing import MEAN, STD
from gtsa_kit.models.weights import save_encoder

TINY = {"embed_dim": 64, "depth": 2, "num_heads": 2}
StateDict = dict[str, Tensor]


def vary(model: nn.Module, seed: int = 0) -> nn.Module:
    """Real variance everywhere: initial biases, norms and positions would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            scale_factor = 0.3 if parameter.ndim < 2 else 0.05
            parameter += scale_factor * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def tiny(seed: int = 0, **changes: Any) -> Any:
    return vary(timm.create_model("vit_tiny_patch16_224", **{"num_classes": 0, **TINY, **changes}), seed)


@pytest.fixture(scope="module")
def vit() -> Any:
    return tiny()


@pytest.fixture(scope="module")
def other() -> Any:
    return tiny(seed=1)


def prefixed(prefix: str, weights: StateDict) -> StateDict:
    return {prefix + name: tensor for name, tensor in weights.items()}


def saved(folder: Path, content: Any, name: str = "weights.pth") -> Path:
    torch.save(content, folder / name)
    return folder / name


def projector(name: str, widths: tuple[int, ...] = (64, 32)) -> StateDict:
    """An MLP with batch norms, as heads have them."""
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b, bias=False), nn.BatchNorm1d(b)]
    return prefixed(f"{name}.", nn.Sequential(*layers).state_dict())


TRAIN_PATCHES = ("gtsa-kit", "authors", "mmseg")
"""Tools whose code returns patch tokens; the others return the class token."""


@torch.no_grad()
def check_same(opened: ImportedEncoder, model: Any, size: int = 224, tolerance: float = 1e-5) -> None:
    """The encoder's tokens are those of a timm model."""
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    tokens_and_class = model.forward_features(images)
    tokens = tokens_and_class[:, 1:]
    features = opened.encoder(images)
    scale = float(tokens.abs().max())
    torch.testing.assert_close(features.feature_map.flatten(2).mT, tokens, rtol=0, atol=tolerance * max(1, scale))
    embedding = tokens.mean(1) if opened.origin in TRAIN_PATCHES else tokens_and_class[:, 0]
    torch.testing.assert_close(features.embedding, embedding, rtol=0, atol=tolerance * max(1, scale))


# --- timm, and containers in general ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.pth", "a.pt", "a.bin", "a.ckpt", "a.pth.tar", "weights"])
def test_timm_checkpoint_under_any_file_name(name: str, vit: Any, tmp_path: Path) -> None:
    opened = open_weights(saved(tmp_path, vit.state_dict(), name))
    check_same(opened, vit)
    assert (opened.origin, opened.skipped) == ("timm", ())
    embedding, positions = "embedding: the class token, as timm's own call", "positions resampled as by timm"
    assert opened.note == f"the only encoder; {embedding}; assumed: 2 heads, mean and std of ImageNet, {positions}"
    assert opened.encoder.architecture == ARCHITECTURES["vit_test"].with_embedding("cls")
    assert (opened.encoder.preprocessing.mean, opened.encoder.preprocessing.std) == (MEAN, STD)
    assert not opened.encoder.training


@pytest.mark.parametrize("name", ["a.safetensors", "a.bin"])
def test_safetensors_are_recognized_by_content(name: str, vit: Any, tmp_path: Path) -> None:
    safetensors.torch.save_file(vit.state_dict(), tmp_path / name)
    check_same(open_weights(tmp_path / name), vit)


def test_the_legacy_torch_format(vit: Any, tmp_path: Path) -> None:
    torch.save({"model": vit.state_dict()}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    check_same(open_weights(tmp_path / "old.pth"), vit)


CONTAINERS: dict[str, Callable[[StateDict], Any]] = {
    "state_dict": lambda w: {"state_dict": w, "epoch": 3},
    "model": lambda w: {"model": w, "lr": 0.1},
    "model_state_dict": lambda w: {"model_state_dict": w},
    "two deep": lambda w: {"model": {"encoder": w, "step": torch.tensor(3)}},
    "module": lambda w: prefixed("module.", w),
    "backbone": lambda w: {"state_dict": prefixed("module.backbone.", w)},
    "compiled": lambda w: {"model": prefixed("_orig_mod.module.", w)},
    "vit": lambda w: prefixed("vit.", w),
    "lightning": lambda w: {"state_dict": prefixed("model.encoder.", w)},
    "with optimizer": lambda w: {
        "state_dict": w,
        "optimizer": {"state": {i: {"exp_avg": v} for i, v in enumerate(w.values())}, "param_groups": [{"lr": 1.0}]},
    },
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_containers_and_prefixes(container: str, vit: Any, tmp_path: Path) -> None:
    opened = open_weights(saved(tmp_path, CONTAINERS[container](vit.state_dict())))
    check_same(opened, vit)
    assert opened.skipped == ()


def test_a_classifier_is_skipped_by_name(tmp_path: Path) -> None:
    model = tiny(num_classes=5)
    weights = {**model.state_dict(), "pre_logits.fc.weight": torch.zeros(2, 2)}
    opened = open_weights(saved(tmp_path, weights))
    check_same(opened, model)
    assert opened.skipped == ("head.bias", "head.weight", "pre_logits.fc.weight")
    assert "skipped 3 keys of heads" in opened.note


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    model = tiny().to(dtype)
    opened = open_weights(saved(tmp_path, model.state_dict()))
    assert {p.dtype for p in opened.encoder.parameters()} == {torch.float32}
    check_same(opened, model.float())


def test_a_larger_grid(tmp_path: Path) -> None:
    model = tiny(img_size=384)
    opened = open_weights(saved(tmp_path, model.state_dict()))
    check_same(opened, model, size=384)
    assert opened.encoder.preprocessing.size == 384
    assert opened.encoder.architecture.timm_kwargs["img_size"] == 384
    assert opened.encoder(torch.zeros(1, 3, 96, 160)).feature_map.shape == (1, 64, 6, 10)


def test_heads_can_be_given(tmp_path: Path) -> None:
    model = tiny(num_heads=8)
    path = saved(tmp_path, model.state_dict())
    opened = open_weights(path, heads=8)
    check_same(opened, model)
    assert opened.encoder.architecture.heads == 8
    assert "heads" not in opened.note
    with pytest.raises(AssertionError):
        check_same(open_weights(path), model)


def test_mean_and_std_can_be_given(vit: Any, tmp_path: Path) -> None:
    opened = open_weights(
        saved(tmp_path, vit.state_dict()), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), heads=2, positions="antialiased"
    )
    assert opened.encoder.preprocessing.mean == (0.1, 0.2, 0.3)
    assert opened.encoder.preprocessing.std == (0.4, 0.5, 0.6)
    assert opened.note == "the only encoder; embedding: the class token, as timm's own call"
    half = open_weights(tmp_path / "weights.pth", mean=(0.1, 0.2, 0.3))
    assert half.note.endswith("assumed: 2 heads, std of ImageNet, positions resampled as by timm")
    with pytest.raises(ValueError, match="divide those for 0 to 255 by 255"):
        open_weights(tmp_path / "weights.pth", mean=(123.7, 116.3, 103.5))


def test_folder_written_by_timm(tmp_path: Path) -> None:
    from timm.models import save_for_hf

    model = tiny(num_heads=4)
    save_for_hf(model, tmp_path, model_args={**TINY, "num_heads": 4}, safe_serialization=True)
    opened = open_weights(tmp_path)
    check_same(opened, model)
    assert (opened.origin, opened.note) == ("timm", "the only encoder; embedding: the class token, as timm's own call")
    assert opened.encoder.preprocessing.mean == (0.5, 0.5, 0.5)  # what timm's ViTs of that name were trained with
    assert opened.encoder.preprocessing.std == (0.5, 0.5, 0.5)


def test_older_config_of_timm(vit: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "x", "mean": [0.1] * 3, "std": [0.2] * 3}))
    opened = open_weights(saved(tmp_path, vit.state_dict(), "pytorch_model.bin").parent)
    assert (opened.encoder.preprocessing.mean, opened.encoder.preprocessing.std) == ((0.1,) * 3, (0.2,) * 3)


def test_config_beside_another_file_is_ignored(vit: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[]")
    check_same(open_weights(saved(tmp_path, vit.state_dict())), vit)


def test_timm_checkpoint_with_a_moving_average(vit: Any, other: Any, tmp_path: Path) -> None:
    path = saved(tmp_path, {"state_dict": vit.state_dict(), "state_dict_ema": other.state_dict(), "arch": "vit"})
    check_same(open_weights(path), other)
    opened = open_weights(path, branch="student")
    check_same(opened, vit)
    assert opened.origin == "timm"


# --- gtsa-kit ---------------------------------------------------------------------------------------------------------


def test_gtsa_kit_run(vit: Any, tmp_path: Path) -> None:
    path = save_encoder(tmp_path, vit.state_dict(), "vit_test", {})
    for source in (tmp_path, path):
        opened = open_weights(source)
        check_same(opened, vit)
        assert (opened.origin, opened.skipped, opened.note) == ("gtsa-kit", (), "the only encoder")
        assert opened.file == path
        assert opened.encoder.architecture == ARCHITECTURES["vit_test"]
    path.with_suffix(".json").unlink()
    for lone in (tmp_path, path):
        opened = open_weights(lone)
        assert opened.origin == "timm"
        assert opened.encoder.architecture.embedding == "mean"  # not the class token, as other files with timm's names
        assert "mean of the patch tokens, as gtsa-kit trains it" in opened.note
        assert "mean and std" in opened.note.partition("assumed: ")[2]
        assert "all else that its encoder.json would say; copy that file too" in opened.note
    renamed = path.rename(tmp_path / "vit.safetensors")
    assert open_weights(renamed).encoder.architecture.embedding == "cls"


def test_encoder_json_sets_architecture_and_preprocessing(vit: Any, tmp_path: Path) -> None:
    path = save_encoder(tmp_path, tiny(num_heads=4).state_dict(), "vit_test", {}).with_suffix(".json")
    about = json.loads(path.read_text())
    about["architecture"] |= {"heads": 4, "norm_eps": 1e-3}
    about["preprocessing"] |= {"mean": [0.1, 0.2, 0.3], "size": 96}
    path.write_text(json.dumps(about))
    encoder = open_weights(tmp_path).encoder
    assert (encoder.architecture.heads, encoder.architecture.norm_eps) == (4, 1e-3)
    assert encoder.vit.norm.eps == 1e-3
    assert (encoder.preprocessing.mean, encoder.preprocessing.size) == ((0.1, 0.2, 0.3), 96)
    path.write_text(json.dumps(about | {"schema": 99}))
    with pytest.raises(ValueError, match=r"encoder\.json is invalid: schema"):
        open_weights(tmp_path)


def test_a_checkpoint_of_a_run(tmp_path: Path) -> None:
    from gtsa_kit.config import ModelConfig, RunConfig
    from gtsa_kit.methods import make_method

    model = make_method(RunConfig(model=ModelConfig(arch="vit_test")))
    vary(model.teacher.encoder.vit)
    path = saved(tmp_path, {"step": 3, "schedule": {"steps": 1}, "model": model.state_dict()}, "step_00000003.ckpt")
    opened = open_weights(path)
    images = torch.randn(1, 3, 96, 96)
    assert torch.equal(opened.encoder(images).feature_map, model.teacher.encoder.eval()(images).feature_map)
    assert opened.origin == "gtsa-kit"
    assert opened.note.startswith("teacher (model.teacher.encoder.vit); skipped")
    assert "assumed" not in opened.note


def run_with_checkpoint(folder: Path) -> Any:
    """Write the checkpoint of step 3 of a run, in which student and teacher differ; return its model."""
    from gtsa_kit.config import ModelConfig, RunConfig
    from gtsa_kit.methods import make_method

    model = make_method(RunConfig(model=ModelConfig(arch="vit_test")))
    vary(model.teacher.encoder.vit)
    (folder / "checkpoints").mkdir()
    torch.save({"step": 3, "model": model.state_dict()}, folder / "checkpoints" / "step_00000003.ckpt")
    return model.eval()


@pytest.mark.parametrize("branch", [None, "teacher", "student"])
def test_an_unfinished_run_opens_its_last_checkpoint(branch: Any, tmp_path: Path) -> None:
    model = run_with_checkpoint(tmp_path)
    opened = open_weights(tmp_path, branch)
    images = torch.randn(1, 3, 96, 96)
    expected = model.get_submodule(branch or "teacher").encoder(images).feature_map
    assert torch.equal(opened.encoder(images).feature_map, expected)
    assert f"unfinished run: this is the {branch or 'teacher'} of the last checkpoint, of step 3" in opened.run_note


def test_the_student_of_a_finished_run_comes_from_its_last_checkpoint(tmp_path: Path) -> None:
    model = run_with_checkpoint(tmp_path)
    teacher = model.teacher.encoder.vit.state_dict()
    save_encoder(tmp_path, teacher, "vit_test", {"steps": 3})
    images = torch.randn(1, 3, 96, 96)
    for branch, note in ((None, ""), ("teacher", ""), ("student", "the student of the last checkpoint, of step 3")):
        opened = open_weights(tmp_path, branch)  # type: ignore[arg-type]
        expected = model.get_submodule(branch or "teacher").encoder(images).feature_map
        assert torch.equal(opened.encoder(images).feature_map, expected), branch
        assert opened.run_note == note
    with pytest.raises(ValueError, match="holds the teacher's encoder; its student is in the checkpoints"):
        open_weights(tmp_path / "encoder.safetensors", "student")
    save_encoder(tmp_path, teacher, "vit_test", {"steps": 2})
    assert "was continued, its last checkpoint is of step 3" in open_weights(tmp_path).run_note


def test_a_run_without_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ValueError, match="holds no checkpoint; continue it with: gtsa train --resume"):
        open_weights(tmp_path)
    save_encoder(tmp_path, timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict(), "vit_tiny", {})
    with pytest.raises(ValueError, match="only a checkpoint holds the student"):
        open_weights(tmp_path, "student")


# --- DINO, MoCo v3, the authors ---------------------------------------------------------------------------------------


def dino(teacher: StateDict, student: StateDict) -> dict[str, Any]:
    """Build a checkpoint of main_dino.py: heads, options, and numpy scalars in the optimizer."""
    head = prefixed("head.", {"mlp.0.weight": torch.zeros(8, 64), "last_layer.weight_v": torch.zeros(9, 8)})
    return {
        "student": prefixed("module.", {**prefixed("backbone.", student), **head}),
        "teacher": {**prefixed("backbone.", teacher), **head},
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": np.float64(0.1)}]},
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_small", lr=0.1, path=["a"]),
        "dino_loss": {"center": torch.zeros(1, 9)},
        "fp16_scaler": {"scale": 1.0},
    }


def test_dino(vit: Any, other: Any, tmp_path: Path) -> None:
    path = saved(tmp_path, dino(vit.state_dict(), other.state_dict()))
    opened = open_weights(path)
    check_same(opened, vit)
    assert opened.origin == "dino"
    assert "teacher.head.mlp.0.weight" in opened.skipped
    assert "student.module.backbone.cls_token" in opened.skipped
    assert opened.skipped == tuple(sorted(opened.skipped))
    count = len(vit.state_dict())
    assert len(opened.skipped) == count + 4
    left = f"skipped 2 keys of heads and {count + 2} keys of the other branch"
    left += "; embedding: the class token, as DINO's own code"
    positions = "positions resampled as by DINO"
    assert opened.note == f"teacher (teacher.backbone); {left}; assumed: 2 heads, mean and std of ImageNet, {positions}"
    check_same(open_weights(path, branch="student"), other)


def test_dino_with_one_branch(vit: Any, tmp_path: Path) -> None:
    whole = dino(vit.state_dict(), vit.state_dict())
    path = saved(tmp_path, {"teacher": whole["teacher"]})
    check_same(open_weights(path), vit)
    check_same(open_weights(path, branch="teacher"), vit)
    with pytest.raises(ValueError, match="holds teacher only, no student; omit --branch"):
        open_weights(path, branch="student")
    bare = saved(tmp_path, vit.state_dict())
    with pytest.raises(ValueError, match="holds one encoder only, no teacher"):
        open_weights(bare, branch="teacher")


def small(heads: int, seed: int) -> Any:
    return vary(timm.create_model("vit_small_patch16_224", num_classes=0, num_heads=heads), seed)


def test_moco_v3_has_twelve_heads(tmp_path: Path) -> None:
    base, momentum = small(12, 0), small(12, 1)
    head = projector("head", (384, 64, 64, 16))
    state = prefixed("module.base_encoder.", {**base.state_dict(), **head})
    state |= prefixed("module.momentum_encoder.", {**momentum.state_dict(), **head})
    state |= prefixed("module.", projector("predictor", (16, 64, 16)))
    path = saved(tmp_path, {"epoch": 300, "arch": "vit_small", "state_dict": state, "scaler": {}}, "vit-s.pth.tar")
    opened = open_weights(path)
    check_same(opened, base)
    assert opened.origin == "mocov3"
    assert opened.encoder.architecture.heads == 12
    assert opened.encoder.architecture.timm_kwargs == {"num_heads": 12}
    assert opened.note.startswith("student (state_dict.module.base_encoder); skipped")
    assert "12 heads" in opened.note
    assert "state_dict.module.predictor.1.running_mean" in opened.skipped
    assert "state_dict.module.base_encoder.head.1.running_var" in opened.skipped
    check_same(open_weights(path, branch="teacher"), momentum)


@pytest.mark.parametrize("wrapped", [True, False])
def test_authors_checkpoint(wrapped: bool, tmp_path: Path) -> None:
    base, momentum = small(6, 0), small(6, 1)
    state = {**prefixed("base_encoder.", base.state_dict()), **prefixed("momentum_encoder.", momentum.state_dict())}
    for head in ("base_projector", "base_predictor", "momentum_projector", "rot_predictor"):
        state |= projector(head)
    state = prefixed("module.", state) if wrapped else state
    path = saved(tmp_path, {"model": state, "args": argparse.Namespace(arch="vit_small")} if wrapped else state)
    opened = open_weights(path)
    check_same(opened, momentum)
    assert opened.origin == "authors"
    assert opened.encoder.architecture == ARCHITECTURES["vit_small"]
    assert opened.note.startswith("teacher (")
    assert any("rot_predictor" in name for name in opened.skipped)
    check_same(open_weights(path, branch="student"), base)


def test_authors_checkpoint_with_one_branch(vit: Any, tmp_path: Path) -> None:
    path = saved(tmp_path, {"model": prefixed("base_encoder.", vit.state_dict())})
    opened = open_weights(path)
    check_same(opened, vit)
    assert opened.origin == "authors"
    assert opened.note.startswith("student (model.base_encoder)")
    with pytest.raises(ValueError, match="holds student only, no teacher"):
        open_weights(path, branch="teacher")


def test_more_encoders_than_branches(vit: Any, tmp_path: Path) -> None:
    path = saved(tmp_path, {name: vit.state_dict() for name in ("one", "two")})
    with pytest.raises(
        ValueError, match=r"holds 2 encoders \(one, two\), and none of them is named as the teacher; save"
    ):
        open_weights(path)


# --- transformers -----------------------------------------------------------------------------------------------------


def hub_model(kind: str = "ViTModel", **changes: Any) -> Any:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
    torch.manual_seed(0)
    return vary(getattr(transformers, kind)(transformers.ViTConfig(**sizes, **changes)))


@torch.no_grad()
def check_same_hub(opened: ImportedEncoder, model: Any, size: int = 224) -> None:
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    tokens = getattr(model, "vit", model)(images).last_hidden_state[:, 1:]
    actual = opened.encoder(images).feature_map.flatten(2).mT
    torch.testing.assert_close(actual, tokens, rtol=0, atol=1e-5 * max(1, float(tokens.abs().max())))


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("ViTModel", {}),
        ("ViTModel", {"layer_norm_eps": 0.1, "qkv_bias": False}),
        ("ViTModel", {"image_size": 384}),
        ("ViTForImageClassification", {}),
        ("ViTForMaskedImageModeling", {}),
    ],
)
def test_folder_written_by_transformers(kind: str, changes: dict[str, Any], tmp_path: Path) -> None:
    model = hub_model(kind, **changes)
    model.save_pretrained(tmp_path)
    opened = open_weights(tmp_path)
    check_same_hub(opened, model, changes.get("image_size", 224))
    assert opened.origin == "hf"
    assert opened.encoder.architecture.heads == 4
    assert opened.encoder.vit.norm.eps == changes.get("layer_norm_eps", 1e-12)
    assert opened.encoder.preprocessing.mean == (0.5, 0.5, 0.5)
    assert opened.note.endswith("assumed: mean and std 0.5")
    skipped = {name.split(".")[0 if kind == "ViTModel" else -2] for name in opened.skipped}
    assert (
        skipped
        == {
            "ViTModel": {"pooler"},
            "ViTForImageClassification": {"classifier"},
            "ViTForMaskedImageModeling": {"embeddings", "0"},  # the mask token, and the decoder
        }[kind]
    )


@pytest.mark.parametrize("container", ["bare", "state_dict"])
def test_state_dict_of_transformers(container: str, tmp_path: Path) -> None:
    model = hub_model("ViTForImageClassification", layer_norm_eps=1e-12)
    weights = model.state_dict()
    assert "vit.layers.0.attention.q_proj.weight" in weights or "vit.encoder.layer.0.output.dense.bias" in weights
    path = saved(tmp_path, weights if container == "bare" else {"state_dict": prefixed("module.", weights)})
    check_same_hub(open_weights(path, heads=4), model)
    opened = open_weights(path)
    assert opened.origin == "hf"
    assert opened.note.endswith("assumed: 2 heads, LayerNorm eps 1e-12, mean and std 0.5")


def test_preprocessor_config_is_read(tmp_path: Path) -> None:
    hub_model().save_pretrained(tmp_path)
    config = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "do_resize": True}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    opened = open_weights(tmp_path / "model.safetensors")
    assert (opened.encoder.preprocessing.mean, opened.encoder.preprocessing.std) == (MEAN, STD)
    assert "assumed" not in opened.note
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5]}))
    with pytest.raises(ValueError, match=r"preprocessor_config\.json is invalid: image_mean"):
        open_weights(tmp_path)


def test_another_activation_is_rejected(tmp_path: Path) -> None:
    hub_model(hidden_act="relu").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="hidden_act is 'relu'; gtsa-kit's encoders compute gelu, "):
        open_weights(tmp_path)


def test_a_damaged_config(vit: Any, tmp_path: Path) -> None:
    saved(tmp_path, vit.state_dict(), "pytorch_model.bin")
    for text in ("", "{", "[1]", '{"a": 1'):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=r"config\.json is not a readable JSON object"):
            open_weights(tmp_path)


# --- rejected checkpoints ---------------------------------------------------------------------------------------------


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.target}",)


class Harmless:
    pass


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_code_is_rejected_and_does_not_run(zipped: bool, vit: Any, tmp_path: Path) -> None:
    target, path = tmp_path / "ran", tmp_path / "evil.pth"
    content = {"model": vit.state_dict(), "x": Evil(target)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"imports (posix|nt)\.system, and pickles can run code; ") as refused:
        open_weights(path)
    assert not target.exists()
    assert "weights_only" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_unknown_class_is_named(vit: Any, tmp_path: Path) -> None:
    path = saved(tmp_path, {"model": vit.state_dict(), "x": Harmless()})
    with pytest.raises(ValueError, match=r"imports \S*test_checkpoint_import\.Harmless, and"):
        open_weights(path)


def test_a_pickled_module_is_rejected(vit: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"imports timm\.\S+, and pickles can run code; ask its owner to save"):
        open_weights(saved(tmp_path, vit))


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    rng = random.Random(0)
    for name in ("x.pth", "x.safetensors"):
        path = tmp_path / name
        path.write_bytes(b"")
        with pytest.raises(ValueError, match=f"{name} is empty; copy it again"):
            open_weights(path)
        for content in (b"hello", b"\x00" * 100, rng.randbytes(1000), b"PK\x03\x04", b"\x80\x02", b"<html></html>"):
            path.write_bytes(content)
            with pytest.raises(ValueError, match=rf"x\.{path.suffix[1:]} is (damaged|not a readable)"):
                open_weights(path)
    with pytest.raises(ValueError, match="does not exist"):
        open_weights(tmp_path / "nothing.pth")
    with pytest.raises(
        ValueError,
        match=r"no encoder\.safetensors, model\.safetensors or pytorch_model\.bin, nor an index of their shards; name",
    ):
        open_weights(tmp_path)


@pytest.mark.parametrize("container", ["zip", "legacy", "safetensors"])
def test_damaged_files_raise_value_errors(container: str, vit: Any, tmp_path: Path) -> None:
    path = tmp_path / ("x.safetensors" if container == "safetensors" else "x.pth")
    weights = {name: tensor for name, tensor in vit.state_dict().items() if tensor.numel() < 5000}
    if container == "safetensors":
        safetensors.torch.save_file(weights, path)
    else:
        content = {"model": weights, "args": argparse.Namespace(a=1), "lr": np.float64(1)}
        torch.save(content, path, _use_new_zipfile_serialization=container == "zip")
    good, rng = path.read_bytes(), random.Random(0)
    for _ in range(150):
        bad = bytearray(good[: rng.randrange(len(good))] if rng.random() < 0.3 else good)
        for _ in range(rng.choice([0, 1, 30])):
            # Mostly where the structure is, not in the numbers.
            bad[rng.choice([rng.randrange(min(len(bad), 3000)), -1 - rng.randrange(min(len(bad), 3000))])] = (
                rng.randrange(256)
            )
        path.write_bytes(bad)
        with pytest.raises(ValueError, match=r"x\."):  # the weights are not all there even if nothing is damaged
            open_weights(path)


def modified(vit: Any, change: Callable[[StateDict], None]) -> StateDict:
    weights = dict(vit.state_dict())
    change(weights)
    return weights


def rename(weights: StateDict, old: str, new: str) -> None:
    for name in [name for name in weights if name.startswith(old)]:
        weights[name.replace(old, new, 1)] = weights.pop(name)


MISMATCHES: dict[str, tuple[Callable[[StateDict], Any], str]] = {
    "missing": (
        lambda w: w.pop("blocks.1.mlp.fc2.bias"),
        r"lacks 1 of the encoder's keys \(blocks\.1\.mlp\.fc2\.bias\); docs/checkpoints\.md lists",
    ),
    "missing patches": (
        lambda w: w.pop("patch_embed.proj.weight"),
        r"lacks 1 of the encoder's keys \(patch_embed\.proj\.weight\)",
    ),
    "missing first qkv": (lambda w: w.pop("blocks.0.attn.qkv.weight"), r"lacks .* \(blocks\.0\.attn\.qkv\.weight\)"),
    "a missing block": (lambda w: rename(w, "blocks.1.", "other.1."), r"12 unknown keys \(other\.1"),
    "extra": (
        lambda w: w.update({"blocks.0.ls1.gamma": torch.ones(64)}),
        r"lacks 3 of the encoder's keys \(blocks\.0\.ls2\.gamma, blocks\.1\.ls1\.gamma, blocks\.1\.ls2\.gamma\); docs",
    ),
    "many extra": (
        lambda w: w.update({f"extra.{i:02}": torch.ones(1) for i in range(30)}),
        r"holds 30 unknown keys \(extra\.00, .*, extra\.09 and 20 more\)",
    ),
    "both": (
        lambda w: rename(w, "norm.", "ln_post."),
        r"lacks 2 of the encoder's keys \(norm\.bias, norm\.weight\) and holds 2 unknown keys \(ln_post\.bias",
    ),
    "no class token": (
        lambda w: w.pop("cls_token"),
        r"position embeddings of \(1, 197, 64\); they must be \(1, 0 \+ rows",
    ),
    "registers": (
        lambda w: w.update(reg_token=torch.zeros(1, 4, 64)),
        r"they must be \(1, 5 \+ rows x columns, width\)",
    ),
    "patch": (
        lambda w: w.update({"patch_embed.proj.weight": torch.zeros(64, 3, 14, 16)}),
        r"patch kernel of \(64, 3, 14, 16\); gtsa-kit's encoders take 3 colors in square patches",
    ),
    "gray": (lambda w: w.update({"patch_embed.proj.weight": torch.zeros(64, 1, 16, 16)}), "3 colors"),
    "grid": (lambda w: w.update(pos_embed=torch.zeros(1, 1 + 14 * 15, 64)), r"position embeddings of \(1, 211, 64\); "),
    "no positions": (lambda w: w.update(pos_embed=torch.tensor(1.0)), r"position embeddings of \(\); "),
    "MLP": (
        lambda w: w.update({"blocks.0.mlp.fc1.weight": torch.zeros(128, 64)}),
        r"does not have the shapes of vit_test: blocks\.0\.mlp\.fc1\.weight \(128, 64\), not \(256, 64\)",
    ),
    "a hole": (lambda w: rename(w, "blocks.0.", "blocks.7."), "no supported ViT"),
}


@pytest.mark.parametrize("mismatch", MISMATCHES)
def test_mismatched_keys_and_shapes_are_named(mismatch: str, vit: Any, tmp_path: Path) -> None:
    change, message = MISMATCHES[mismatch]
    path = saved(tmp_path, modified(vit, change), "odd.pth")
    with pytest.raises(ValueError, match=rf"odd\.pth.*{message}") as refused:
        open_weights(path)
    assert "\n" not in str(refused.value)


def test_wrong_numbers_of_heads_are_refused(vit: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"5 heads do not divide the width of .*, 64; "):
        open_weights(saved(tmp_path, vit.state_dict()), heads=5)


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224"])
def test_other_networks_are_rejected(name: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        weights = timm.create_model(name, num_classes=0).state_dict()
    zeros = {key: torch.zeros(1) for key in weights}
    safetensors.torch.save_file(zeros, tmp_path / "net.safetensors")
    with pytest.raises(
        ValueError, match=r"net\.safetensors holds no supported ViT: its \d+ keys begin with .*; supported"
    ):
        open_weights(tmp_path / "net.safetensors")


@pytest.mark.parametrize("content", [torch.zeros(3), [1, 2], {}, {"epoch": 1}, {"a": {"b": [torch.ones(1)]}}])
def test_files_without_named_tensors(content: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no supported ViT: it contains no named tensors"):
        open_weights(saved(tmp_path, content))


def test_numpy_objects_are_ignored(vit: Any, tmp_path: Path) -> None:
    content = {"model": vit.state_dict(), "a": np.arange(6.0).reshape(2, 3), "b": np.float32(1), "c": np.bool_(True)}
    path = saved(tmp_path, content)
    check_same(open_weights(path), vit)
    torch.save(content, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"numpy._core.", b"numpy.core."))  # as numpy 1 wrote it
    check_same(open_weights(path), vit)


def test_the_base_model(tmp_path: Path) -> None:
    weights = Encoder("vit_base").vit.state_dict()
    opened = open_weights(saved(tmp_path, {"state_dict": {k: v.half() for k, v in weights.items()}}))
    assert opened.encoder.architecture == ARCHITECTURES["vit_base"].with_embedding("cls")
