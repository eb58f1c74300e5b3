"""GTSA's student, teacher and heads: outputs, gradients, moving average, layers."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gtsa_kit.config import LossConfig, ModelConfig, RunConfig
from gtsa_kit.data.augment import Views
from gtsa_kit.methods import make_method
from gtsa_kit.methods.gtsa import GTSA
from gtsa_kit.methods.gtsa_heads import ConvBlock, Predictor, Projector, RotationPredictor
from gtsa_kit.methods.gtsa_losses import GTSALosses, gtsa_loss
from gtsa_kit.models.encoder import Encoder, normalize
from gtsa_kit.models.preprocessing import Preprocessing

SIGNS = torch.tensor([-1, -1, 1, 1])
TINY = ModelConfig(arch="vit_test", projector_dim=24)


def make_views(n_global: int = 2, n_local: int = 3, batch: int = 2) -> Views:
    """Return noise views: 3 x 3 patches in a global view, 2 x 2 in a local one."""
    g = torch.Generator().manual_seed(0)

    def noise(views: int, side: int) -> Tensor:
        return torch.randint(256, (batch, views, 3, side, side), generator=g, dtype=torch.uint8)

    views = n_global + n_local
    rotations = torch.randint(4, (batch, views), generator=g)
    # Every box contains (50, 50), so all overlap.
    boxes = torch.tensor([50.0, 50, 50, 50]) + torch.randint(10, 50, (batch, views, 4), generator=g) * SIGNS
    return Views(noise(n_global, 48), noise(n_local, 32), boxes, rotations)


def make_model(**changes: Any) -> GTSA:
    torch.manual_seed(0)
    return make_method(RunConfig(model=TINY.model_copy(update=changes)))


def losses_of(model: GTSA, views: Views) -> GTSALosses:
    return gtsa_loss(*model(views)[:4], views.boxes, views.rotations, LossConfig(), alpha=0.5)


# --- the forward pass -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_local", [3, 0])
def test_output_shapes(n_local: int) -> None:
    outputs = make_model()(make_views(2, n_local))
    assert outputs.global_maps.shape == (2, 2, 24, 3, 3)
    assert outputs.local_maps.shape[:3] == (2, n_local, 24)
    assert outputs.local_maps.shape[3:] == ((2, 2) if n_local else (3, 3))
    assert outputs.rotation_logits.shape == (2, 2 + n_local, 4)
    assert outputs.targets.shape == (2, 2, 24, 3, 3)
    assert outputs.tokens.shape == (2, 2, 64, 3, 3)
    assert (outputs.projected, outputs.image_logits, outputs.image_targets) == (None, None, None)
    assert all(tensor.dtype == torch.float32 for tensor in outputs[:-3])


@pytest.mark.parametrize("final_norm", [True, False])
@torch.no_grad()
def test_outputs_belong_to_their_views(final_norm: bool) -> None:
    # The reference runs one view at a time: no reshaping that could mix images with views.
    model = make_model(norm_before_heads=final_norm).eval()
    for parameter in model.parameters():  # the norm is not the identity, and the teacher differs from the student
        parameter.add_(torch.randn_like(parameter) * 0.05)
    views = make_views(2, 3)
    outputs = model(views)
    student, teacher = model.student, model.teacher
    for b in range(2):
        for v in range(5):
            pixels = views.global_images[b, v] if v < 2 else views.local_images[b, v - 2]
            features = student.encoder(normalize(pixels[None], Preprocessing()), final_norm=final_norm)
            maps = student.predictor(student.projector(features.feature_map))[0]
            ours = outputs.global_maps[b, v] if v < 2 else outputs.local_maps[b, v - 2]
            torch.testing.assert_close(ours, maps, rtol=0, atol=1e-5)
            logits = student.rotation_predictor(features.embedding)[0]
            torch.testing.assert_close(outputs.rotation_logits[b, v], logits, rtol=0, atol=1e-5)
            if v < 2:
                target = teacher.projector(
                    teacher.encoder(normalize(pixels[None], Preprocessing()), final_norm=final_norm).feature_map
                )
                torch.testing.assert_close(outputs.targets[b, v], target[0], rtol=0, atol=1e-5)
                torch.testing.assert_close(outputs.tokens[b, v], features.feature_map[0], rtol=0, atol=1e-5)


def test_norm_before_heads_is_a_setting() -> None:
    views = make_views()
    with_norm, without = make_model().eval()(views), make_model(norm_before_heads=False).eval()(views)
    # With the norm (its weights are 1 at first) tokens have variance 1; without it those of an untrained ViT do not.
    torch.testing.assert_close(with_norm.tokens.var(2, unbiased=False), torch.ones(2, 2, 3, 3), rtol=0, atol=1e-3)
    assert not torch.allclose(without.tokens.var(2, unbiased=False), torch.ones(2, 2, 3, 3), rtol=0, atol=1e-1)


# --- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_local", [3, 0])
@pytest.mark.parametrize("final_norm", [True, False])
def test_gradients_reach_every_trained_parameter(final_norm: bool, n_local: int) -> None:
    model = make_model(norm_before_heads=final_norm, drop_path=0.0)
    losses_of(model, make_views(2, n_local)).total.backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, parameter in model.named_parameters():
        if name in trained:
            assert parameter.grad is not None, name
            assert float(parameter.grad.norm()) > 1e-6, name
        else:
            assert parameter.grad is None, name
    # Without the norm before the heads no loss depends on it. It must be frozen then, or DDP waits for its gradient.
    frozen = set() if final_norm else {"student.encoder.vit.norm.weight", "student.encoder.vit.norm.bias"}
    assert trained == {name for name, _ in model.named_parameters() if name.startswith("student.")} - frozen


@pytest.mark.parametrize(
    ("term", "heads"),
    [
        ("region", {"projector", "predictor"}),
        ("correspondence", {"projector", "predictor"}),
        ("rotation", {"rotation_predictor"}),
    ],
)
def test_each_loss_trains_the_encoder_and_its_heads(term: str, heads: set[str]) -> None:
    model = make_model(drop_path=0.0)
    getattr(losses_of(model, make_views()), term).backward()
    trained = {name for name, p in model.student.named_parameters() if p.grad is not None and p.grad.norm() > 1e-6}
    assert {name.split(".")[0] for name in trained} == {"encoder"} | heads
    assert "encoder.vit.patch_embed.proj.weight" in trained


def test_teacher_gets_no_gradient() -> None:
    model = make_model()
    outputs = model(make_views())
    assert not outputs.targets.requires_grad
    assert not outputs.tokens.requires_grad
    losses_of(model, make_views()).total.backward()
    for name, parameter in model.teacher.named_parameters():
        assert parameter.grad is None, name
        assert not parameter.requires_grad, name


def test_teacher_starts_as_the_student() -> None:
    model = make_model()
    student = model.student.state_dict()
    teacher = model.teacher.state_dict()
    assert {name.split(".")[0] for name in teacher} == {"encoder", "projector"}
    assert set(teacher) == {name for name in student if name.split(".")[0] in {"encoder", "projector"}}
    for name, tensor in teacher.items():
        assert torch.equal(tensor, student[name]), name
        assert tensor.data_ptr() != student[name].data_ptr(), name


def test_only_the_student_has_drop_path() -> None:
    model = make_model(drop_path=0.9)

    def count(part: nn.Module) -> int:
        return sum("DropPath" in type(module).__name__ for module in part.modules())

    assert count(model.student) > 0
    assert count(model.teacher) == 0
    views = make_views(batch=4)
    model.train()
    first, second = model(views), model(views)
    assert torch.equal(first.targets, second.targets)
    assert not torch.equal(first.global_maps, second.global_maps)


# --- moving average ---------------------------------------------------------------------------------------------------


def test_teacher_is_the_moving_average_of_the_student() -> None:
    model = make_model()
    expected = {name: p.detach().double().clone() for name, p in model.teacher.named_parameters()}
    for momentum in (0.9, 0.0, 0.996, 0.5, 0.25, 1.0, 0.999):
        with torch.no_grad():
            for parameter in model.student.parameters():
                parameter.add_(torch.randn_like(parameter))
        student = {name: p.detach().double().clone() for name, p in model.student.named_parameters()}
        expected = {name: momentum * old + (1 - momentum) * student[name] for name, old in expected.items()}
        model.update_teacher(momentum)
        for name, parameter in model.teacher.named_parameters():
            # Seven updates of numbers of size 5, each rounded by 6e-8 relative.
            torch.testing.assert_close(parameter.double(), expected[name], rtol=0, atol=3e-6, msg=name)
        for name, parameter in model.student.named_parameters():
            assert torch.equal(parameter.double(), student[name]), name


def test_moving_average_of_a_constant_student() -> None:
    # With a constant student, the remaining share of the initial weights is the product of the momenta.
    model = make_model()
    start = model.teacher.projector[2].weight.detach().double().clone()
    with torch.no_grad():
        model.student.projector[2].weight.fill_(2.0)
    momenta = [0.996, 0.997, 0.9985, 0.9999]
    for momentum in momenta:
        model.update_teacher(momentum)
    remaining = math.prod(momenta)
    expected = remaining * start + (1 - remaining) * 2.0
    torch.testing.assert_close(model.teacher.projector[2].weight.double(), expected, rtol=0, atol=1e-6)


def test_momentum_one_keeps_the_teacher_bit_for_bit() -> None:
    model = make_model()
    with torch.no_grad():
        for parameter in model.student.parameters():
            parameter.add_(1)
    before = {name: p.clone() for name, p in model.teacher.named_parameters()}
    model.update_teacher(1.0)
    assert all(torch.equal(p, before[name]) for name, p in model.teacher.named_parameters())


def test_teacher_has_no_buffers() -> None:
    # The update covers parameters only; buffers, such as running statistics, would need one as well.
    assert not list(make_model().named_buffers())


# --- the heads, layer by layer ----------------------------------------------------------------------------------------


def layer_types(head: nn.Module) -> list[str]:
    return [type(module).__name__ for module in head.children()]


def parameters_of(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def conv_parameters(inputs: int, outputs: int, kernel: int) -> int:
    return inputs * outputs * kernel * kernel + outputs


def assert_conv(conv: Any, inputs: int, outputs: int, kernel: int) -> None:
    assert isinstance(conv, nn.Conv2d)
    assert (conv.in_channels, conv.out_channels, conv.kernel_size) == (inputs, outputs, (kernel, kernel))
    assert (conv.stride, conv.padding, conv.groups) == ((1, 1), (kernel // 2, kernel // 2), 1)
    assert conv.bias is not None


def test_projector_has_the_papers_layers() -> None:
    head = Projector(384, 768)
    assert layer_types(head) == ["ConvBlock", "ConvBlock", "Conv2d"]
    for block in (head[0], head[1]):
        assert block.residual
        assert_conv(block.conv, 384, 384, 3)
    assert_conv(head[2], 384, 768, 1)
    # The norms are not affine, so only convolutions have parameters.
    assert parameters_of(head) == 2 * conv_parameters(384, 384, 3) + conv_parameters(384, 768, 1)
    assert head(torch.zeros(1, 384, 3, 5)).shape == (1, 768, 3, 5)


def test_predictor_has_the_papers_layers() -> None:
    head = Predictor(768)
    assert layer_types(head) == ["ConvBlock", "Conv2d"]
    assert not head[0].residual
    assert_conv(head[0].conv, 768, 768, 3)
    assert_conv(head[1], 768, 768, 1)
    assert parameters_of(head) == conv_parameters(768, 768, 3) + conv_parameters(768, 768, 1)


def test_rotation_predictor_has_the_papers_layers() -> None:
    head = RotationPredictor(384)
    expected = ["Linear", "LayerNorm", "GELU", "Linear", "LayerNorm", "GELU", "Linear", "LayerNorm", "Linear"]
    assert layer_types(head) == expected
    widths = [(m.in_features, m.out_features) for m in head if isinstance(m, nn.Linear)]
    assert widths == [(384, 768), (768, 768), (768, 128), (128, 4)]
    assert [m.normalized_shape for m in head if isinstance(m, nn.LayerNorm)] == [(768,), (768,), (128,)]
    linear = sum(conv_parameters(inputs, outputs, 1) for inputs, outputs in widths)
    assert parameters_of(head) == linear + 2 * (768 + 768 + 128)
    assert head(torch.zeros(5, 384)).shape == (5, 4)


@pytest.mark.parametrize("residual", [True, False])
@torch.no_grad()
def test_conv_block_equals_its_formula(residual: bool) -> None:
    torch.manual_seed(0)
    block = ConvBlock(6, residual)
    x = torch.randn(2, 6, 4, 5)
    weight, bias = block.conv.weight.double(), block.conv.bias.double()
    padded = torch.zeros(2, 6, 6, 7, dtype=torch.float64)
    padded[:, :, 1:-1, 1:-1] = x.double()
    expected = torch.empty(2, 6, 4, 5, dtype=torch.float64)
    for i in range(4):
        for j in range(5):
            window = padded[:, :, i : i + 3, j : j + 3]  # (B, C, 3, 3)
            y = torch.einsum("bcij,ocij->bo", window, weight) + bias
            y = (y - y.mean(1, keepdim=True)) / (y.var(1, unbiased=False, keepdim=True) + 1e-6).sqrt()
            expected[:, :, i, j] = y * (1 + torch.erf(y / math.sqrt(2))) / 2
    expected += x.double() if residual else 0
    torch.testing.assert_close(block(x).double(), expected, rtol=0, atol=1e-5)


def test_student_of_the_paper() -> None:
    with torch.device("meta"):
        student = make_method(RunConfig()).student
    assert layer_types(student) == ["Encoder", "Projector", "Predictor", "RotationPredictor"]
    vit = student.encoder.vit
    assert (vit.pos_embed.shape[-1], len(vit.blocks), vit.blocks[0].attn.num_heads) == (384, 12, 6)
    assert vit.blocks[0].mlp.fc1.out_features == 4 * 384
    assert vit.blocks[0].attn.qkv.bias is not None
    assert (vit.norm.eps, vit.blocks[0].norm1.eps) == (1e-6, 1e-6)
    assert student.predictor[1].out_channels == 768
    # ViT-S/16 without a classifier: 12 blocks, patches, class token, 197 positions, final norm.
    block = 4 * 384 + 384 * 1152 + 1152 + 384 * 384 + 384 + 384 * 1536 + 1536 + 1536 * 384 + 384
    assert parameters_of(vit) == 12 * block + 3 * 256 * 384 + 384 + 384 + 197 * 384 + 2 * 384 == 21_665_664


def test_vit_base_by_its_shapes() -> None:
    with torch.device("meta"):
        model = make_method(RunConfig(model=ModelConfig(arch="vit_base")))
        features = Encoder("vit_base", layers=(11,))(torch.empty(2, 3, 32, 64))
    assert features.feature_map.shape == features.layers[11].shape == (2, 768, 2, 4)
    assert features.embedding.shape == (2, 768)
    outputs = model.student(torch.empty(2, 3, 32, 64, device="meta"), True)
    assert (outputs.maps.shape, outputs.rotation_logits.shape) == ((2, 768, 2, 4), (2, 4))
    assert model.teacher(torch.empty(2, 3, 32, 64, device="meta"), True)[0].shape == (2, 768, 2, 4)
