"""Weights by the names of original code, equal to formulas of that code, which are written out here."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from helpers.families import vary
from torch import Tensor

from gtsa_kit.models.checkpoint_import import ImportedEncoder, open_weights
from gtsa_kit.models.rotary import rotate

Weights = dict[str, Tensor]
WIDTH, DEPTH, HEADS, HIDDEN = 64, 2, 2, 256
GRIDS = [(4, 4), (6, 6), (3, 7)]
"""Grids of patches: that of the positions, another square, and none."""


def random_weights(patch: int, **shapes: tuple[int, ...]) -> Weights:
    """Weights of a plain ViT by timm's names, and others of these shapes."""
    generator = torch.Generator().manual_seed(0)
    linear = {"attn.qkv": (3 * WIDTH, WIDTH), "attn.proj": (WIDTH, WIDTH), "mlp.fc1": (HIDDEN, WIDTH)}
    linear |= {"mlp.fc2": (WIDTH, HIDDEN), "norm1": (WIDTH,), "norm2": (WIDTH,)}
    all_shapes: dict[str, tuple[int, ...]] = {"cls_token": (1, 1, WIDTH), "pos_embed": (1, 17, WIDTH)}
    all_shapes |= {"patch_embed.proj.weight": (WIDTH, 3, patch, patch), "patch_embed.proj.bias": (WIDTH,)}
    all_shapes |= {"norm.weight": (WIDTH,), "norm.bias": (WIDTH,)}
    for block in range(DEPTH):
        for name, shape in linear.items():
            all_shapes |= {f"blocks.{block}.{name}.weight": shape, f"blocks.{block}.{name}.bias": shape[:1]}
        all_shapes |= {f"blocks.{block}.{name}": shape for name, shape in shapes.items() if name[0].islower()}
    all_shapes |= {name.lower(): shape for name, shape in shapes.items() if not name[0].islower()}
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in all_shapes.items()}
    scales = {name: 0.3 if tensor.ndim < 2 else math.sqrt(1 / tensor[0].numel()) for name, tensor in tensors.items()}
    weights = {name: tensor * (0.5 if tensor.ndim == 3 else scales[name]) for name, tensor in tensors.items()}
    return {
        name: tensor + 1 if "norm" in name and name.endswith("weight") else tensor for name, tensor in weights.items()
    }


def positions_of_dino(table: Tensor, rows: int, columns: int, offset: float, antialias: bool) -> Tensor:
    """Positions (N, D) of the patches by `interpolate_pos_encoding` of DINO and DINOv2."""
    side = math.isqrt(len(table))
    if rows == columns == side:
        return table
    image = table.T.reshape(1, -1, side, side)
    kwargs: dict[str, Any] = {"size": (rows, columns)}
    if offset:
        kwargs = {"scale_factor": ((rows + offset) / side, (columns + offset) / side)}
    resized = F.interpolate(image, mode="bicubic", antialias=antialias, **kwargs)
    assert resized.shape[-2:] == (rows, columns)
    return resized.flatten(2)[0].T


def run_blocks(w: Weights, x: Tensor, eps: float, rope: tuple[Tensor, Tensor] | None = None, prefix: int = 1) -> Tensor:
    """Run the blocks and the final norm of a ViT with timm's names, in the plainest way."""
    norm = lambda name, x: F.layer_norm(x, (WIDTH,), w[f"{name}.weight"], w[f"{name}.bias"], eps)  # noqa: E731
    for block in range(DEPTH):
        p = f"blocks.{block}"
        qkv = F.linear(norm(f"{p}.norm1", x), w[f"{p}.attn.qkv.weight"], w.get(f"{p}.attn.qkv.bias"))
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
        if rope:
            q, k = (torch.cat([t[:, :, :prefix], rotate(t[:, :, prefix:], *rope, True)], dim=2) for t in (q, k))
        attended = ((q @ k.mT) / math.sqrt(WIDTH / HEADS)).softmax(-1) @ v
        y = F.linear(attended.transpose(1, 2).flatten(2), w[f"{p}.attn.proj.weight"], w[f"{p}.attn.proj.bias"])
        x = x + y * w.get(f"{p}.ls1.gamma", torch.ones(1))
        y = norm(f"{p}.norm2", x)
        if f"{p}.mlp.w3.weight" in w:
            packed = f"{p}.mlp.w12.weight" in w
            gates = (
                F.linear(y, w[f"{p}.mlp.w12.weight"], w[f"{p}.mlp.w12.bias"]).chunk(2, dim=-1)
                if packed
                else [F.linear(y, w[f"{p}.mlp.{n}.weight"], w[f"{p}.mlp.{n}.bias"]) for n in ("w1", "w2")]
            )
            y = F.linear(F.silu(gates[0]) * gates[1], w[f"{p}.mlp.w3.weight"], w[f"{p}.mlp.w3.bias"])
        else:
            y = F.gelu(F.linear(y, w[f"{p}.mlp.fc1.weight"], w[f"{p}.mlp.fc1.bias"]))
            y = F.linear(y, w[f"{p}.mlp.fc2.weight"], w[f"{p}.mlp.fc2.bias"])
        x = x + y * w.get(f"{p}.ls2.gamma", torch.ones(1))
    return norm("norm", x)


def embed(w: Weights, images: Tensor) -> Tensor:
    weight = w["patch_embed.proj.weight"]
    patches = F.conv2d(images, weight, w["patch_embed.proj.bias"], stride=weight.shape[-1])
    return patches.flatten(2).mT


def run_dino(w: Weights, images: Tensor, offset: float = 0.1, antialias: bool = False) -> Tensor:
    """Patch tokens of DINO, and of DINOv2, whose registers have no positions."""
    patch = w["patch_embed.proj.weight"].shape[-1]
    grid = images.shape[-2] // patch, images.shape[-1] // patch
    positions = positions_of_dino(w["pos_embed"][0, 1:], *grid, offset, antialias)
    tokens = embed(w, images) + positions
    first = [w["cls_token"] + w["pos_embed"][:, :1], *([w["register_tokens"]] if "register_tokens" in w else [])]
    x = torch.cat([*(token.expand(len(images), -1, -1) for token in first), tokens], dim=1)
    return run_blocks(w, x, 1e-6)[:, -tokens.shape[1] :]


@torch.no_grad()
def check_equal(opened: ImportedEncoder, expected: Any, grids: list[tuple[int, int]] = GRIDS) -> None:
    """Compare maps with a function from images to patch tokens."""
    patch = opened.encoder.architecture.patch
    for rows, columns in grids:
        images = torch.randn(2, 3, rows * patch, columns * patch, generator=torch.Generator().manual_seed(rows))
        actual = opened.encoder(images).feature_map.flatten(2).mT
        torch.testing.assert_close(actual, expected(images), rtol=0, atol=1e-5)


def save(content: Any, folder: Path, name: str = "a.pth") -> Path:
    torch.save(content, folder / name)
    return folder / name


def prefixed(prefix: str, weights: Weights) -> Weights:
    return {prefix + name: tensor for name, tensor in weights.items()}


# --- DINO ----------------------------------------------------------------------------------------------------------


def test_teacher_and_student_of_dino(tmp_path: Path) -> None:
    w = random_weights(8)
    heads = {"module.head.last_layer.weight_g": torch.zeros(3)}
    other = {name: tensor + 1 for name, tensor in w.items()}
    path = save(
        {"teacher": prefixed("backbone.", w) | heads, "student": prefixed("module.backbone.", other), "epoch": 3},
        tmp_path,
    )
    opened = open_weights(path, heads=HEADS)
    check_equal(opened, lambda images: run_dino(w, images))
    assert "positions resampled as by DINO" in opened.note
    assert "heads" not in opened.note.partition("assumed")[2]


def test_a_bare_file_of_dino_needs_the_option(tmp_path: Path) -> None:
    """Names alone do not tell DINO from timm."""
    w = random_weights(8)
    path = save(w, tmp_path)
    assert "positions resampled as by timm" in open_weights(path, heads=HEADS).note
    opened = open_weights(path, heads=HEADS, positions="offset")
    check_equal(opened, lambda images: run_dino(w, images))
    assert "positions" not in opened.note


# --- DINOv2 --------------------------------------------------------------------------------------------------------

SCALES = {"ls1.gamma": (WIDTH,), "ls2.gamma": (WIDTH,)}


def dinov2(registers: int = 0, swiglu: bool = False) -> Weights:
    shapes: dict[str, tuple[int, ...]] = {**SCALES, "MASK_TOKEN": (1, WIDTH)}
    shapes |= {"REGISTER_TOKENS": (1, registers, WIDTH)} if registers else {}
    shapes |= {"mlp.w12.weight": (2 * 88, WIDTH), "mlp.w12.bias": (2 * 88,)} if swiglu else {}
    shapes |= {"mlp.w3.weight": (WIDTH, 88), "mlp.w3.bias": (WIDTH,)} if swiglu else {}
    weights = random_weights(14, **shapes)
    return {name: tensor for name, tensor in weights.items() if not (swiglu and ".fc" in name)}


@pytest.mark.parametrize("swiglu", [False, True])
@pytest.mark.parametrize("registers", [0, 4])
def test_dinov2(registers: int, swiglu: bool, tmp_path: Path) -> None:
    w = dinov2(registers, swiglu)
    opened = open_weights(save(w, tmp_path), heads=HEADS)
    check_equal(opened, lambda images: run_dino(w, images, 0.0 if registers else 0.1, antialias=bool(registers)))
    assert opened.skipped == ("mask_token",)
    assert "positions resampled as by DINOv2" in opened.note


def test_blocks_in_chunks_of_dinov2(tmp_path: Path) -> None:
    w = dinov2()
    chunked = {name.replace("blocks.1.", "blocks.1.1.").replace("blocks.0.", "blocks.0.0."): t for name, t in w.items()}
    path = save({"teacher": prefixed("backbone.", chunked) | {"dino_head.mlp.0.weight": torch.zeros(3)}}, tmp_path)
    check_equal(open_weights(path, heads=HEADS), lambda images: run_dino(w, images))


# --- DINOv3 --------------------------------------------------------------------------------------------------------


def dinov3(swiglu: bool = False, rounded: bool = False, key_bias: bool = False) -> Weights:
    shapes: dict[str, tuple[int, ...]] = {**SCALES, "MASK_TOKEN": (1, WIDTH), "STORAGE_TOKENS": (1, 4, WIDTH)}
    for name in ("w1", "w2", "w3") if swiglu else ():
        shapes |= {f"mlp.{name}.weight": (WIDTH, 96) if name == "w3" else (96, WIDTH)}
        shapes |= {f"mlp.{name}.bias": (WIDTH if name == "w3" else 96,)}
    w = random_weights(16, **shapes)
    w = {name: t for name, t in w.items() if name != "pos_embed" and not (swiglu and ".fc" in name)}
    periods = 100 ** (torch.arange(WIDTH // HEADS // 4) / (WIDTH // HEADS // 4))
    w["rope_embed.periods"] = periods.bfloat16() if rounded else periods
    for block in range(0 if key_bias else DEPTH):
        mask = torch.ones(3 * WIDTH)
        mask[WIDTH : 2 * WIDTH] = 0
        w[f"blocks.{block}.attn.qkv.bias_mask"] = mask
        w[f"blocks.{block}.attn.qkv.bias"][WIDTH : 2 * WIDTH] = math.nan
    return w


def run_dinov3(w: Weights, images: Tensor) -> Tensor:
    w = dict(w)
    for name in [name for name in w if name.endswith("bias_mask")]:
        bias = name.removesuffix("_mask")
        w[bias] = torch.where(w[name] == 0, 0.0, w[bias])
    rows, columns = images.shape[-2] // 16, images.shape[-1] // 16
    centers = torch.cartesian_prod((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns) * 2 - 1
    angles = (2 * math.pi * centers[:, :, None] / w["rope_embed.periods"].float()).flatten(1).tile(2)
    tokens = embed(w, images)
    first = [w[name].expand(len(images), -1, -1) for name in ("cls_token", "storage_tokens")]
    x = run_blocks(w, torch.cat([*first, tokens], dim=1), 1e-5, (angles.sin(), angles.cos()), prefix=5)
    return x[:, 5:]


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("swiglu", [False, True])
def test_dinov3(swiglu: bool, rounded: bool, tmp_path: Path) -> None:
    w = dinov3(swiglu, rounded)
    opened = open_weights(save(w, tmp_path))
    check_equal(opened, lambda images: run_dinov3(w, images))
    assert opened.encoder.architecture.heads == HEADS  # from the number of periods
    assert bool(opened.encoder.architecture.rotary_periods) == rounded
    restored = type(opened.encoder.architecture).from_dict(
        json.loads(json.dumps(opened.encoder.architecture.to_dict()))
    )
    assert restored == opened.encoder.architecture


def test_biases_of_keys_of_dinov3_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"biases of keys \(blocks.0.attn.qkv.bias\)"):
        open_weights(save(dinov3(key_bias=True), tmp_path))


def test_periods_of_dinov3_must_fit_the_heads(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="8 periods of rotary positions, which do not fit heads of 16"):
        open_weights(save(dinov3(), tmp_path), heads=4)


# --- MAE, DeiT, EVA02 ------------------------------------------------------------------------------------------------


SMALL = {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS, "num_classes": 0, "dynamic_img_size": True}


def timm_tokens(model: Any) -> Any:
    return lambda images: model.fc_norm(model.forward_features(images))[:, model.num_prefix_tokens :]


def test_mae(tmp_path: Path) -> None:
    """Positions are fixed sines and cosines; the decoder is skipped."""
    model = vary(timm.create_model("vit_base_patch16_224", img_size=64, **SMALL))
    with torch.no_grad():
        frequencies = 10000 ** -(torch.arange(WIDTH // 4) / (WIDTH // 4))
        angles = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0))[:, :, None] * frequencies
        table = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)
        model.pos_embed.copy_(torch.cat([torch.zeros(1, WIDTH), table])[None])
    decoder = {"mask_token": torch.zeros(1, 1, 32), "decoder_pos_embed": torch.zeros(1, 17, 32)}
    decoder |= {"decoder_blocks.0.norm1.weight": torch.zeros(32), "decoder_pred.bias": torch.zeros(768)}
    opened = open_weights(save({"model": model.state_dict() | decoder}, tmp_path), heads=HEADS)
    check_equal(opened, timm_tokens(model))
    assert len(opened.skipped) == len(decoder)


def test_deit3(tmp_path: Path) -> None:
    """The original names LayerScale `gamma_1`; its class token has no position."""
    model = vary(timm.create_model("deit3_small_patch16_224", img_size=64, **SMALL))
    renamed = {
        name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): t
        for name, t in model.state_dict().items()
    }
    opened = open_weights(save({"model": renamed | {"head.weight": torch.zeros(3)}}, tmp_path), heads=HEADS)
    check_equal(opened, timm_tokens(model))


def test_a_distilled_deit(tmp_path: Path) -> None:
    """The token of distillation has a position, unlike registers."""
    model = vary(timm.create_model("deit_small_distilled_patch16_224", img_size=64, **SMALL))
    opened = open_weights(save({"model": model.state_dict()}, tmp_path), heads=HEADS)
    check_equal(opened, timm_tokens(model))


def eva02() -> tuple[Any, Weights]:
    model = vary(timm.create_model("eva02_small_patch14_224", img_size=56, **SMALL))
    w: Weights = {}
    for name, tensor in model.state_dict().items():
        if ".mlp.fc1." in name:
            gate, value = tensor.chunk(2)
            w |= {name.replace("fc1", "w1"): gate, name.replace("fc1", "w2"): value}
        else:
            w[name.replace("mlp.fc2", "mlp.w3")] = tensor
    quarter = WIDTH // HEADS // 4
    frequencies = 1 / 10000 ** (torch.arange(quarter) / quarter)
    positions = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0)) / 4 * 16
    angles = (positions[:, :, None] * frequencies).repeat_interleave(2, dim=-1).flatten(1)
    for prefix in ("", *(f"blocks.{block}.attn." for block in range(DEPTH))):
        w |= {f"{prefix}rope.freqs_cos": angles.cos(), f"{prefix}rope.freqs_sin": angles.sin()}
    return model, w


def test_eva02_by_its_own_names(tmp_path: Path) -> None:
    model, w = eva02()
    opened = open_weights(save({"module": w | {"mask_token": torch.zeros(1, 1, WIDTH)}}, tmp_path), heads=HEADS)
    check_equal(opened, timm_tokens(model))


def test_other_rotary_positions_than_those_of_eva02_are_refused(tmp_path: Path) -> None:
    _, w = eva02()
    w["blocks.1.attn.rope.freqs_sin"] = w["blocks.1.attn.rope.freqs_sin"].flip(0)
    with pytest.raises(ValueError, match=r"rotary positions \(blocks.1.attn.rope.freqs_sin\) that differ"):
        open_weights(save(w, tmp_path), heads=HEADS)


# --- CLIP, torchvision -----------------------------------------------------------------------------------------------


def openai_clip(model: Any) -> Weights:
    """Weights of timm's model by OpenAI's names."""
    names = {
        "patch_embed.proj": "conv1",
        "blocks": "transformer.resblocks",
        "norm_pre": "ln_pre",
        "norm1": "ln_1",
        "norm2": "ln_2",
        "attn.qkv.": "attn.in_proj_",
        "attn.proj": "attn.out_proj",
        "fc1": "c_fc",
        "fc2": "c_proj",
    }
    w: Weights = {}
    for name, tensor in model.state_dict().items():
        renamed = name.replace("norm.", "ln_post.") if name.startswith("norm.") else name
        for ours, theirs in names.items():
            renamed = renamed.replace(ours, theirs)
        w[renamed] = tensor
    w["class_embedding"], w["positional_embedding"] = w.pop("cls_token")[0, 0], w.pop("pos_embed")[0]
    return w


@pytest.mark.parametrize("whole", [True, False])
def test_clip_by_the_names_of_openai(whole: bool, tmp_path: Path) -> None:
    """open_clip resamples positions as timm does."""
    model = vary(timm.create_model("vit_base_patch32_clip_quickgelu_224", img_size=128, **SMALL))
    w = openai_clip(model) | {"proj": torch.zeros(WIDTH, 8)}
    if whole:
        text = {f"transformer.resblocks.{b}.ln_1.weight": torch.ones(8) for b in range(2)}
        w = prefixed("visual.", w) | text | {"logit_scale": torch.zeros(()), "positional_embedding": torch.zeros(9, 8)}
    opened = open_weights(save(w, tmp_path), heads=HEADS)
    check_equal(opened, timm_tokens(model))
    assert opened.origin == "clip"
    for fact in (
        "activation quick_gelu",
        "LayerNorm eps 1e-05",
        "positions resampled as by open_clip",
        "OpenAI's CLIP",
    ):
        assert fact in opened.note
    assert ("visual.proj" if whole else "proj") in opened.skipped


@pytest.mark.parametrize(("size", "patch"), [(64, 16), (96, 32), (56, 14)])
def test_torchvision(size: int, patch: int, tmp_path: Path) -> None:
    """torchvision's ViT takes images of one size."""
    model = vary(torchvision.models.VisionTransformer(size, patch, DEPTH, HEADS, WIDTH, HIDDEN, num_classes=3))

    def expected(images: Tensor) -> Any:
        tokens = torch.cat([model.class_token.expand(len(images), -1, -1), model._process_input(images)], dim=1)
        return model.encoder(tokens)[:, 1:]

    opened = open_weights(save(model.state_dict(), tmp_path), heads=HEADS)
    check_equal(opened, expected, [(size // patch, size // patch)])


def open_clip_folder(folder: Path, name: str, vision: dict[str, Any], **model: Any) -> Any:
    tower = vary(timm.create_model(name, img_size=128, **SMALL))
    torch.save(prefixed("visual.", openai_clip(tower)), folder / "open_clip_pytorch_model.bin")
    vision = {
        "width": WIDTH,
        "layers": DEPTH,
        "head_width": WIDTH // HEADS,
        "patch_size": 32,
        "image_size": 128,
        **vision,
    }
    preprocess = {
        "mean": [0.4, 0.5, 0.6],
        "std": [0.3, 0.2, 0.1],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    config = {
        "model_cfg": {"embed_dim": 8, "vision_cfg": vision, "text_cfg": {}, **model},
        "preprocess_cfg": preprocess,
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return tower


@pytest.mark.parametrize(("name", "quick"), [("clip_quickgelu_224", True), ("clip_224", False)])
def test_the_config_of_open_clip_tells_the_activation(name: str, quick: bool, tmp_path: Path) -> None:
    tower = open_clip_folder(tmp_path, f"vit_base_patch32_{name}", {}, **({"quick_gelu": True} if quick else {}))
    opened = open_weights(tmp_path)
    check_equal(opened, timm_tokens(tower))
    assert opened.encoder.preprocessing.mean == (0.4, 0.5, 0.6)
    assert "assumed: positions resampled as by open_clip" in opened.note


@pytest.mark.parametrize(
    "change", [{"ls_init_value": 0.1}, {"no_ln_pre": True}, {"width": 128}, {"layers": 3}, {"x": 1}]
)
def test_other_towers_of_open_clip_are_refused_by_name(change: dict[str, Any], tmp_path: Path) -> None:
    open_clip_folder(tmp_path, "vit_base_patch32_clip_224", change)
    with pytest.raises(ValueError, match=next(iter(change))):
        open_weights(tmp_path)


def open_clip_pooled(tower: Any, pool: str, norm_after: bool) -> Callable[[Tensor], Tensor]:
    """Return `VisionTransformer._global_pool` of open_clip, with its norm before or after it, on a tower of timm."""

    def pooled(images: Tensor) -> Tensor:
        norm, tower.norm = tower.norm, torch.nn.Identity()
        tokens = tower.forward_features(images)
        tower.norm = norm
        tokens = tokens if norm_after else norm(tokens)
        vector = tokens[:, 0] if pool == "tok" else tokens[:, 1:].mean(dim=1)
        return norm(vector) if norm_after else vector

    return pooled


@pytest.mark.parametrize("norm_after", [False, True])
@pytest.mark.parametrize("pool", ["tok", "avg"])
def test_the_config_of_open_clip_tells_the_embedding(pool: str, norm_after: bool, tmp_path: Path) -> None:
    vision = {"pool_type": pool, "final_ln_after_pool": norm_after}
    tower = open_clip_folder(tmp_path, "vit_base_patch32_clip_224", vision)
    opened = open_weights(tmp_path)
    images = torch.rand(2, 3, 128, 128)
    with torch.no_grad():
        expected = open_clip_pooled(tower, pool, norm_after)(images)
        torch.testing.assert_close(opened.encoder(images).embedding, expected, atol=1e-5, rtol=0)
    assert "as open_clip_config.json says" in opened.note


@pytest.mark.parametrize(
    ("vision", "fact"),
    [
        ({"pool_type": "none"}, "mean of the patch tokens, since open_clip's lack of pooling is not computed"),
        ({"timm_model_name": "x", "timm_pool": "token"}, "class token, as open_clip_config.json says"),
        ({"timm_model_name": "x"}, "mean of the patch tokens, as open_clip_config.json says"),
        ({"timm_model_name": "x", "timm_pool": "map"}, "class token, as the code of"),  # the weights have no pooling
        ({"pool_type": "tok", "attentional_pool": True}, "class token, as the code of"),
    ],
)
def test_open_clips_other_poolings_are_named(vision: dict[str, Any], fact: str, tmp_path: Path) -> None:
    open_clip_folder(tmp_path, "vit_base_patch32_clip_224", vision)
    assert fact in open_weights(tmp_path).note


@pytest.mark.parametrize("change", [{"pool_type": "median"}, {"timm_pool": "median"}, {"final_ln_after_pool": "late"}])
def test_an_unknown_pooling_of_open_clip_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    open_clip_folder(tmp_path, "vit_base_patch32_clip_224", change)
    with pytest.raises(ValueError, match=next(iter(change))):
        open_weights(tmp_path)
