"""Weights in several files, checkpoints of Lightning, and the sizes of ViTs that names and shapes tell."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch

from gtsa_kit.models.checkpoint_import import open_weights
from gtsa_kit.models.checkpoint_import.architectures import find_architecture
from gtsa_kit.models.checkpoint_import.layouts import Layout
from gtsa_kit.models.checkpoint_import.shard_index import sha256_of_weights
from gtsa_kit.models.checkpoint_import.sidecar_files import CheckpointMetadata
from gtsa_kit.models.encoder import Encoder

SMALL = {"embed_dim": 64, "depth": 2, "num_heads": 2, "img_size": 64, "num_classes": 0}


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    state: dict[str, torch.Tensor] = timm.create_model("vit_tiny_patch16_224", **SMALL).state_dict()
    return state


KINDS = {"model.safetensors": "model-{}-of-00002.safetensors", "pytorch_model.bin": "pytorch_model-{}-of-00002.bin"}


def write_shards(folder: Path, weights: dict[str, torch.Tensor], kind: str) -> Path:
    """Write two shards and their index."""
    names = sorted(weights)
    weight_map = {}
    for number, part in enumerate((names[:9], names[9:]), start=1):
        file = KINDS[kind].format(f"{number:05}")
        tensors = {name: weights[name].contiguous() for name in part}
        save: Any = safetensors.torch.save_file if kind == "model.safetensors" else torch.save
        save(tensors, folder / file)
        weight_map |= dict.fromkeys(part, file)
    index = folder / f"{kind}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return index


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by_index", [False, True])
def test_shards(kind: str, by_index: bool, weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    index = write_shards(tmp_path, weights, kind)
    opened = open_weights(index if by_index else tmp_path)
    actual = opened.encoder.vit.state_dict()
    assert all(torch.equal(actual[name], tensor) for name, tensor in weights.items())
    assert opened.file == index


def test_shards_that_transformers_writes(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is the oracle")
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = transformers.Dinov2Model(transformers.Dinov2Config(**sizes, image_size=56)).eval()
    model.save_pretrained(tmp_path, max_shard_size="200KB")
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 1
    images = torch.randn(1, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    opened = open_weights(tmp_path)
    with torch.no_grad():
        expected = model(images).last_hidden_state[:, 1:]
        torch.testing.assert_close(opened.encoder(images).feature_map.flatten(2).mT, expected, rtol=0, atol=1e-5)
    assert opened.encoder.architecture.heads == 4


FIRST, SECOND, THIRD = (f"model-0000{number}-of-00002.safetensors" for number in (1, 2, 3))


def damage(folder: Path, index: Path, fault: str) -> Path:
    content = json.loads(index.read_text())
    if fault == "missing":
        (folder / SECOND).unlink()
    if fault == "surplus":
        (folder / THIRD).write_bytes((folder / FIRST).read_bytes())
    if fault == "swapped":
        (folder / SECOND).write_bytes((folder / FIRST).read_bytes())
    if fault == "a key more":
        content["weight_map"].pop("cls_token")
    if fault == "a path":
        content["weight_map"]["cls_token"] = "../model-00001-of-00002.safetensors"
    if fault == "no map":
        content = {"metadata": {}}
    index.write_text(json.dumps(content))
    return folder / FIRST if fault == "one of them" else folder


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing", f"names {SECOND}, which is missing; copy it"),
        ("surplus", f"does not name {THIRD}, which is beside it"),
        ("swapped", f"{SECOND} lacks .*, which model.safetensors.index.json says it holds"),
        (
            "a key more",
            f"{FIRST} holds cls_token, which model.safetensors.index.json does not name|{SECOND} holds cls_token",
        ),
        ("a path", "names the file '../model-00001-of-00002.safetensors'"),
        ("no map", "weight_map"),
        ("one of them", "is one shard of several; name model.safetensors.index.json or the folder"),
    ],
)
def test_faults_of_shards_are_named(fault: str, message: str, weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = damage(tmp_path, write_shards(tmp_path, weights, "model.safetensors"), fault)
    with pytest.raises(ValueError, match=message):
        open_weights(path)


def test_the_digest_of_shards_covers_all_of_them(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    index = write_shards(tmp_path, weights, "model.safetensors")
    before = sha256_of_weights(index)
    assert before == sha256_of_weights(index)
    write_shards(tmp_path, {name: tensor + 1 for name, tensor in weights.items()}, "model.safetensors")
    assert sha256_of_weights(index) != before


@pytest.mark.parametrize("prefix", ["model.", "model.backbone.", "student_backbone.vit.", "_orig_mod.net."])
def test_checkpoints_of_lightning(prefix: str, weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    content = {
        "epoch": 3,
        "global_step": 12,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {prefix + name: tensor for name, tensor in weights.items()} | {"head.weight": torch.zeros(3, 64)},
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 4}}}},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}],
        "lr_schedulers": [],
        "hyper_parameters": {"lr": 0.1, "name": "vit"},
    }
    torch.save(content, tmp_path / "last.ckpt")
    actual = open_weights(tmp_path / "last.ckpt").encoder.vit.state_dict()
    assert all(torch.equal(actual[name], tensor) for name, tensor in weights.items())
    torch.save(content | {"hyper_parameters": {"model": torch.nn.Linear(2, 2)}}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"pickle that imports torch\.nn\.modules\.linear\.Linear"):
        open_weights(tmp_path / "last.ckpt")


def test_a_torchscript_program_is_refused_as_code(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "ViT-B-32.pt")
    with pytest.raises(ValueError, match="is a TorchScript program, which is code"):
        open_weights(tmp_path / "ViT-B-32.pt")


@pytest.mark.parametrize(
    ("name", "heads", "patch", "side"),
    [
        ("vit_tiny", 3, 16, 384),
        ("vit_small", 6, 8, 224),
        ("vit_small", 6, 32, 224),
        ("vit_base", 12, 14, 518),
        ("vit_large", 16, 14, 336),
        ("vit_large", 16, 32, 384),
    ],
)
def test_sizes_of_vits(name: str, heads: int, patch: int, side: int) -> None:
    with torch.device("meta"):
        arguments = {"patch_size": patch, "img_size": side, "num_classes": 0}
        expected = timm.create_model(f"{name}_patch16_224", **arguments)
        architecture = find_architecture(Layout(expected.state_dict()), CheckpointMetadata(), "timm", Path("a.pth"))
        encoder = Encoder(architecture)
    assert (architecture.heads, architecture.patch, encoder.grid) == (heads, patch, (side // patch,) * 2)
    assert encoder.vit.blocks[0].attn.num_heads == expected.blocks[0].attn.num_heads
    shapes = {key: tensor.shape for key, tensor in expected.state_dict().items()}
    assert shapes == {key: tensor.shape for key, tensor in encoder.vit.state_dict().items()}
