"""Encoders inside checkpoints of other trainers: branches, heads and buffers around them, under many names."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor

from gtsa_kit.models.checkpoint_import import open_weights

StateDict = dict[str, Tensor]


def weights_of(seed: int) -> StateDict:
    torch.manual_seed(seed)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, embed_dim=64, depth=2, num_heads=2)
    return {name: tensor + 0.01 * torch.randn(tensor.shape) for name, tensor in model.state_dict().items()}


STUDENT, TEACHER = weights_of(0), weights_of(1)
EXTRA = torch.zeros(3)


def prefixed(prefix: str, weights: StateDict) -> StateDict:
    return {prefix + name: tensor for name, tensor in weights.items()}


def named(*names: str) -> StateDict:
    return dict.fromkeys(names, EXTRA)


def is_same(path: Path, weights: StateDict, **options: Any) -> bool:
    actual = open_weights(path, **options).encoder.vit.state_dict()
    return all(torch.equal(actual[name], tensor) for name, tensor in weights.items())


PAIRS = [
    ("student_backbone.", "teacher_backbone."),
    ("backbone.", "momentum_backbone."),
    ("backbone.", "backbone_momentum."),
    ("encoder.", "target_encoder."),
    ("online_network.", "target_network."),
    ("context_encoder.", "target_encoder."),
    ("model.", "ema."),
    ("model.", "ema_model.module."),
    ("model.", "averaged_model."),
    ("encoder_q.", "encoder_k."),
    ("module.student.backbone.", "module.teacher.backbone."),
]


@pytest.mark.parametrize(("student", "teacher"), PAIRS)
@pytest.mark.parametrize("entries", [False, True], ids=["one state dict", "two"])
def test_branches_are_named_in_many_ways(student: str, teacher: str, entries: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    if entries:
        torch.save({student.strip(".").replace(".", "_"): STUDENT, teacher.strip(".").replace(".", "_"): TEACHER}, path)
    else:
        heads = named("projection_head.0.weight", "momentum_projector.0.weight", "criterion.center")
        torch.save({"state_dict": prefixed(student, STUDENT) | prefixed(teacher, TEACHER) | heads}, path)
    assert is_same(path, TEACHER)
    assert is_same(path, TEACHER, branch="teacher")
    assert is_same(path, STUDENT, branch="student")
    assert open_weights(path, branch="student").note.startswith("student (")


@pytest.mark.parametrize(
    "names",
    [
        ("fc.weight", "fc.bias"),
        ("linear.weight",),
        ("projection_head.layers.0.weight",),
        ("dino_head.mlp.0.weight", "ibot_head.mlp.0.weight"),
        ("neck.conv.weight",),
        ("train_acc.tp", "val_metrics.confmat", "loss.weight"),
        ("queue", "queue_ptr", "temperature"),
        ("blocks.0.norm1.weight",),
    ],
)
def test_whatever_lies_outside_of_the_prefix_is_left_and_listed(names: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": prefixed("backbone.", STUDENT) | named(*names)}, path)
    opened = open_weights(path)
    assert opened.skipped == tuple(sorted(f"state_dict.{name}" for name in names))
    assert "skipped" in opened.note
    assert is_same(path, STUDENT)


@pytest.mark.parametrize(
    "name", ["blocks.0.ls3.gamma", "blocks.0.attn.rel_pos", "register_token", "rope.freqs", "fc_norm.weight"]
)
@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_what_lies_inside_the_prefix_and_is_unknown_is_refused(name: str, prefix: str, tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    torch.save(prefixed(prefix, STUDENT | named(name)), path)
    with pytest.raises(ValueError, match=rf"unknown key \({prefix}{name}\)"):
        open_weights(path)


def test_the_decoder_of_an_mae_is_left(tmp_path: Path) -> None:
    blocks = {f"decoder_{name}": tensor for name, tensor in TEACHER.items() if name.split(".")[0] in ("blocks", "norm")}
    others = named("decoder_pos_embed", "decoder_embed.weight", "decoder_pred.bias", "mask_token")
    path = tmp_path / "a.pth"
    torch.save({"model": STUDENT | blocks | others, "optimizer": {"state": {0: {"exp_avg": EXTRA}}}}, path)
    assert is_same(path, STUDENT)
    assert len(open_weights(path).skipped) == len(blocks) + len(others)


@pytest.mark.parametrize("depth", [1, 3, 6])
def test_mappings_may_be_nested(depth: int, tmp_path: Path) -> None:
    content: dict[str, Any] = STUDENT
    for level in range(depth):
        content = {f"level{level}": content, "epoch": 3}
    content["itself"] = content
    torch.save(content, tmp_path / "a.pth")
    assert is_same(tmp_path / "a.pth", STUDENT)


def test_encoders_that_no_name_distinguishes_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    torch.save({"ema_model": STUDENT, "teacher": TEACHER}, path)
    with pytest.raises(ValueError, match=r"2 encoders \(ema_model, teacher\), and 2 of them may be the teacher; save"):
        open_weights(path)
    with pytest.raises(ValueError, match="none of them is named as the student; save"):
        open_weights(path, branch="student")


@torch.no_grad()
def test_torchvision(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(224, 16, 2, 2, 64, 256, num_classes=5).eval()
    for parameter in model.parameters():
        parameter += 0.1 * torch.randn(parameter.shape)
    torch.save(model.state_dict(), tmp_path / "vit.pth")
    images = torch.randn(1, 3, 224, 224)
    tokens = torch.cat([model.class_token.expand(1, -1, -1), model._process_input(images)], dim=1)
    expected = model.encoder(tokens)[:, 1:]
    opened = open_weights(tmp_path / "vit.pth")
    torch.testing.assert_close(opened.encoder(images).feature_map.flatten(2).mT, expected, rtol=0, atol=2e-5)
    assert opened.origin == "torchvision"
    assert opened.skipped == ("heads.head.bias", "heads.head.weight")
