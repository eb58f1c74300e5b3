"""Task models: heads against slow versions, any grid, files."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F

from gtsa_kit.models.architecture import ARCHITECTURES
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.pyramid import StridedPyramid, TopDown
from gtsa_kit.models.run_folder import is_task_run
from gtsa_kit.models.task_model import TaskModel, load_task_model, save_task_model
from gtsa_kit.models.task_spec import Label, TaskSpec, head_layers

LABELS = (Label(0, "sky", (70, 130, 180)), Label(3, "road", (128, 64, 128)), Label(7, "car", (0, 0, 142)))
LAYERS = head_layers(ARCHITECTURES["vit_test"], "segment", "fpn")
SPECS = {
    "linear": TaskSpec("segment", LABELS, "linear"),
    "linear, two maps": TaskSpec("segment", LABELS, "linear", layers=(0, 1)),
    "fpn flat": TaskSpec("segment", LABELS, "fpn", layers=LAYERS),
    "fpn strided": TaskSpec("segment", LABELS, "fpn", layers=LAYERS, pyramid="strided", final_norm=False),
    "classify": TaskSpec("classify", LABELS, "linear"),
}


def make_model(spec: TaskSpec) -> TaskModel:
    torch.manual_seed(0)
    model = TaskModel(Encoder("vit_test"), spec).eval()
    for name, buffer in model.head.named_buffers():  # statistics that change what a batch norm computes
        if name.endswith(("running_mean", "running_var")):
            buffer.copy_(torch.rand_like(buffer) + 0.5)
    return model


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("size", [(16, 16), (16, 80), (48, 16), (112, 80)])
def test_logits_have_the_size_of_the_input_for_every_grid(spec: TaskSpec, size: tuple[int, int]) -> None:
    logits = make_model(spec)(torch.randn(2, 3, *size))
    assert logits.shape == ((2, 3) if spec.task == "classify" else (2, 3, *size))
    assert logits.isfinite().all()


def timm_model(encoder: Encoder) -> Any:
    """timm's own model with the weights of an encoder."""
    architecture = encoder.architecture
    model = timm.create_model(architecture.timm_model, num_classes=0, **architecture.timm_kwargs).eval()
    model.load_state_dict(encoder.vit.state_dict())
    return model


def test_linear_head_is_a_matrix_product_of_the_normed_patch_tokens() -> None:
    model = make_model(SPECS["linear"])
    images = torch.randn(2, 3, 48, 32)
    tokens = timm_model(model.encoder).forward_features(_square(images))[:, 1:]  # at timm's own size
    weight, bias = model.head.classifier.weight[:, :, 0, 0], model.head.classifier.bias
    expected = tokens @ weight.T + bias
    actual = model.head(*model.features(_square(images)))
    torch.testing.assert_close(actual.flatten(2).transpose(1, 2), expected, atol=1e-5, rtol=0)


def _square(images: torch.Tensor) -> torch.Tensor:
    return F.interpolate(images, size=(224, 224))


def test_heads_take_maps_before_the_final_norm_on_request() -> None:
    spec = TaskSpec("segment", LABELS, "linear", layers=(0, 1), final_norm=False)
    model = make_model(spec)
    images = torch.randn(1, 3, 224, 224)
    expected = timm_model(model.encoder).forward_intermediates(
        images, norm=False, intermediates_only=True, indices=[0, 1]
    )
    for ours, timms in zip(model.features(images), expected, strict=True):
        torch.testing.assert_close(ours, timms, atol=1e-5, rtol=0)


def test_top_down_path_equals_that_of_torchvision() -> None:
    from torchvision.ops import FeaturePyramidNetwork

    torch.manual_seed(0)
    ours, theirs = TopDown(8, 16), FeaturePyramidNetwork([8] * 4, 16)
    for i in range(4):
        theirs.inner_blocks[i][0].load_state_dict(ours.lateral[i].state_dict())
        theirs.layer_blocks[i][0].load_state_dict(ours.output[i].state_dict())
    maps = [torch.randn(2, 8, *size) for size in [(12, 20), (6, 10), (3, 5), (2, 3)]]
    expected = theirs({str(i): x for i, x in enumerate(maps)})
    for actual, other in zip(ours(maps), expected.values(), strict=True):
        torch.testing.assert_close(actual, other)


def test_flat_fpn_equals_a_slow_version_in_float64() -> None:
    model = make_model(SPECS["fpn flat"]).double()
    head = model.head
    maps = [torch.randn(1, 64, 3, 2, dtype=torch.float64) for _ in range(4)]
    lateral = [conv(x) for conv, x in zip(head.top_down.lateral, maps, strict=True)]
    total = 0
    for i in range(4):
        joined = sum(lateral[i:])
        total = total + head.scales[i].blocks[0](head.top_down.output[i](joined))
    torch.testing.assert_close(head(*maps), head.classifier(total))


def test_strided_fpn_doubles_each_level_to_the_finest() -> None:
    model = make_model(SPECS["fpn strided"])
    head = model.head
    maps = [torch.randn(1, 64, 4, 6) for _ in range(4)]
    levels = head.top_down(head.pyramid(maps))
    total = head.scales[0].blocks[0](levels[0])
    for i in (1, 2, 3):
        x = levels[i]
        for block in head.scales[i].blocks:
            x = F.interpolate(block(x), scale_factor=2, mode="bilinear", align_corners=False)
        assert len(head.scales[i].blocks) == i
        total = total + x
    torch.testing.assert_close(head(*maps), head.classifier(total))


@pytest.mark.parametrize(("h", "w"), [(1, 1), (1, 6), (5, 3), (4, 4)])
def test_strided_pyramid_has_four_strides(h: int, w: int) -> None:
    maps = [torch.randn(1, 8, h, w)] * 4
    shapes = [tuple(level.shape[-2:]) for level in StridedPyramid(8).eval()(maps)]
    assert shapes == [(4 * h, 4 * w), (2 * h, 2 * w), (h, w), (-(-h // 2), -(-w // 2))]


def test_default_layers_are_those_of_the_paper() -> None:
    assert head_layers(ARCHITECTURES["vit_small"], "segment", "fpn") == (2, 5, 8, 11)
    assert head_layers(ARCHITECTURES["vit_large"], "segment", "fpn") == (5, 11, 17, 23)
    assert head_layers(ARCHITECTURES["vit_small"], "segment", "linear") == ()


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_saved_models_are_equal_after_loading(spec: TaskSpec, tmp_path: Path) -> None:
    model = make_model(spec)
    save_task_model(tmp_path, model, {"steps": 3})
    loaded = load_task_model(tmp_path)
    assert loaded.spec == spec
    assert not loaded.training
    images = torch.randn(1, 3, 32, 48)
    assert torch.equal(loaded(images), model(images))
    assert json.loads((tmp_path / "model.json").read_text())["training"] == {"steps": 3}


def test_damaged_files_are_named(tmp_path: Path) -> None:
    assert not is_task_run(tmp_path)
    with pytest.raises(ValueError, match="gtsa finetune"):
        load_task_model(tmp_path)
    file = save_task_model(tmp_path, make_model(SPECS["linear"]), {})
    weights = safetensors.torch.load_file(file)
    safetensors.torch.save_file({k: v for k, v in weights.items() if k != "head.classifier.bias"}, file)
    with pytest.raises(ValueError, match=r"does not fit its \.json"):
        load_task_model(tmp_path)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="damaged"):
        load_task_model(tmp_path)
    content = json.loads((tmp_path / "model.json").read_text())
    del content["task"]["head"]
    (tmp_path / "model.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="damaged"):
        load_task_model(tmp_path)


def test_heads_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="heads: fpn, linear"):
        TaskSpec("segment", LABELS, "unet")
    with pytest.raises(ValueError, match="maps of 4 blocks"):
        TaskSpec("segment", LABELS, "fpn", layers=(1,))
    with pytest.raises(ValueError, match="takes the embedding"):
        TaskSpec("classify", LABELS, "linear", layers=(1,))
    with pytest.raises(ValueError, match="layers must lie between 0 and 1"):
        TaskModel(Encoder("vit_test"), TaskSpec("segment", LABELS, "linear", layers=(11,)))
