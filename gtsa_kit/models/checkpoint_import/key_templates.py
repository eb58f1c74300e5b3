"""Templates of the key names of ViTs in timm, transformers, torchvision, OpenMMLab's libraries and original code."""

from collections.abc import Mapping
from typing import Final


def _dinov3(block: str) -> tuple[str, ...]:
    """Return the templates of DINOv3 in transformers, whose files and live models differ in the name of a block."""
    return (
        "embeddings.cls_token",
        "embeddings.position_embeddings",  # there are none
        "embeddings.patch_embeddings.*",
        f"{block}.norm1.*",
        f"{block}.attention.q_proj.* {block}.attention.k_proj.* {block}.attention.v_proj.*",
        f"{block}.attention.o_proj.*",
        f"{block}.norm2.*",
        f"{block}.mlp.up_proj.*",
        f"{block}.mlp.down_proj.*",
        "norm.*",
    )


# The keys of every format are in the order of timm's. "#" stands for the number of a block, "*" for weight and bias.
# Three names for qkv are three tensors, which timm concatenates.
TEMPLATES: Final[Mapping[str, tuple[str, ...]]] = {
    "timm": (
        "cls_token",
        "pos_embed",
        "patch_embed.proj.*",
        "blocks.#.norm1.*",
        "blocks.#.attn.qkv.*",
        "blocks.#.attn.proj.*",
        "blocks.#.norm2.*",
        "blocks.#.mlp.fc1.*",
        "blocks.#.mlp.fc2.*",
        "norm.*",
    ),
    # Files on the Hugging Face hub, and all that transformers writes.
    "hf": (
        "embeddings.cls_token",
        "embeddings.position_embeddings",
        "embeddings.patch_embeddings.projection.*",
        "encoder.layer.#.layernorm_before.*",
        "encoder.layer.#.attention.attention.query.* "
        "encoder.layer.#.attention.attention.key.* "
        "encoder.layer.#.attention.attention.value.*",
        "encoder.layer.#.attention.output.dense.*",
        "encoder.layer.#.layernorm_after.*",
        "encoder.layer.#.intermediate.dense.*",
        "encoder.layer.#.output.dense.*",
        "layernorm.*",
    ),
    # `state_dict()` of transformers 5.
    "hf_live": (
        "embeddings.cls_token",
        "embeddings.position_embeddings",
        "embeddings.patch_embeddings.projection.*",
        "layers.#.layernorm_before.*",
        "layers.#.attention.q_proj.* layers.#.attention.k_proj.* layers.#.attention.v_proj.*",
        "layers.#.attention.o_proj.*",
        "layers.#.layernorm_after.*",
        "layers.#.mlp.fc1.*",
        "layers.#.mlp.fc2.*",
        "layernorm.*",
    ),
    "torchvision": (
        "class_token",
        "encoder.pos_embedding",
        "conv_proj.*",
        "encoder.layers.encoder_layer_#.ln_1.*",
        "encoder.layers.encoder_layer_#.self_attention.in_proj_*",
        "encoder.layers.encoder_layer_#.self_attention.out_proj.*",
        "encoder.layers.encoder_layer_#.ln_2.*",
        "encoder.layers.encoder_layer_#.mlp.0.*",
        "encoder.layers.encoder_layer_#.mlp.3.*",
        "encoder.ln.*",
    ),
    "mmseg": (
        "cls_token",
        "pos_embed",
        "patch_embed.projection.*",
        "layers.#.ln1.*",
        "layers.#.attn.attn.in_proj_*",
        "layers.#.attn.attn.out_proj.*",
        "layers.#.ln2.*",
        "layers.#.ffn.layers.0.0.*",
        "layers.#.ffn.layers.1.*",
        "ln1.*",
    ),
    "mmpretrain": (
        "cls_token",
        "pos_embed",
        "patch_embed.projection.*",
        "layers.#.ln1.*",
        "layers.#.attn.qkv.*",
        "layers.#.attn.proj.*",
        "layers.#.ln2.*",
        "layers.#.ffn.layers.0.0.*",
        "layers.#.ffn.layers.1.*",
        "ln1.*",
    ),
    # Original code of DINOv3 and EVA02 with SwiGLU: timm's names, but three layers in an MLP.
    "timm_swiglu": (
        "cls_token",
        "pos_embed",
        "patch_embed.proj.*",
        "blocks.#.norm1.*",
        "blocks.#.attn.qkv.*",
        "blocks.#.attn.proj.*",
        "blocks.#.norm2.*",
        "blocks.#.mlp.w1.* blocks.#.mlp.w2.*",
        "blocks.#.mlp.w3.*",
        "norm.*",
    ),
    "hf_dinov2": (
        "embeddings.cls_token",
        "embeddings.position_embeddings",
        "embeddings.patch_embeddings.projection.*",
        "encoder.layer.#.norm1.*",
        "encoder.layer.#.attention.attention.query.* "
        "encoder.layer.#.attention.attention.key.* "
        "encoder.layer.#.attention.attention.value.*",
        "encoder.layer.#.attention.output.dense.*",
        "encoder.layer.#.norm2.*",
        "encoder.layer.#.mlp.fc1.*",
        "encoder.layer.#.mlp.fc2.*",
        "layernorm.*",
    ),
    "hf_dinov2_live": (
        "embeddings.cls_token",
        "embeddings.position_embeddings",
        "embeddings.patch_embeddings.projection.*",
        "encoder.layer.#.norm1.*",
        "encoder.layer.#.attention.q_proj.* encoder.layer.#.attention.k_proj.* encoder.layer.#.attention.v_proj.*",
        "encoder.layer.#.attention.o_proj.*",
        "encoder.layer.#.norm2.*",
        "encoder.layer.#.mlp.fc1.*",
        "encoder.layer.#.mlp.fc2.*",
        "layernorm.*",
    ),
    "hf_dinov3": _dinov3("layer.#"),
    "hf_dinov3_live": _dinov3("model.layer.#"),
    # Vision towers of CLIP and SigLIP in transformers.
    "hf_clip": (
        "embeddings.class_embedding",
        "embeddings.position_embedding.weight",
        "embeddings.patch_embedding.*",
        "encoder.layers.#.layer_norm1.*",
        "encoder.layers.#.self_attn.q_proj.* encoder.layers.#.self_attn.k_proj.* encoder.layers.#.self_attn.v_proj.*",
        "encoder.layers.#.self_attn.out_proj.*",
        "encoder.layers.#.layer_norm2.*",
        "encoder.layers.#.mlp.fc1.*",
        "encoder.layers.#.mlp.fc2.*",
        "post_layernorm.*",
    ),
    # Vision towers of OpenAI's CLIP and open_clip.
    "clip": (
        "class_embedding",
        "positional_embedding",
        "conv1.*",
        "transformer.resblocks.#.ln_1.*",
        "transformer.resblocks.#.attn.in_proj_*",
        "transformer.resblocks.#.attn.out_proj.*",
        "transformer.resblocks.#.ln_2.*",
        "transformer.resblocks.#.mlp.c_fc.*",
        "transformer.resblocks.#.mlp.c_proj.*",
        "ln_post.*",
    ),
}

_TIMM: Final = (
    *((name, name) for name in ("reg_token", "norm_pre.*", "blocks.#.ls1.gamma", "blocks.#.ls2.gamma")),
    *((f"blocks.#.attn.{name}",) * 2 for name in ("q_norm.*", "k_norm.*", "q_bias", "v_bias", "norm.*")),
    *((f"blocks.#.{name}",) * 2 for name in ("gamma_1", "gamma_2", "mlp.fc1_g.*", "mlp.fc1_x.*", "mlp.norm.*")),
    ("norm.*", "fc_norm.*"),  # the norm of the mean, in models that average
    # Names of original code.
    *(("reg_token", name) for name in ("register_tokens", "storage_tokens", "dist_token")),
    *((name, name) for name in ("rope_embed.periods", "rope.freqs_cos", "rope.freqs_sin")),
    *((f"blocks.#.attn.{name}",) * 2 for name in ("qkv.bias_mask", "rope.freqs_cos", "rope.freqs_sin")),
    ("blocks.#.mlp.fc1.*", "blocks.#.mlp.w12.*"),
    ("blocks.#.mlp.fc2.*", "blocks.#.mlp.w3.*"),
)
_HF: Final = (("reg_token", "embeddings.distillation_token"),)
_HF_DINOV2: Final = (
    ("reg_token", "embeddings.register_tokens"),
    ("blocks.#.ls1.gamma", "encoder.layer.#.layer_scale1.lambda1"),
    ("blocks.#.ls2.gamma", "encoder.layer.#.layer_scale2.lambda1"),
    ("blocks.#.mlp.fc1.*", "encoder.layer.#.mlp.weights_in.*"),
    ("blocks.#.mlp.fc2.*", "encoder.layer.#.mlp.weights_out.*"),
    ("blocks.#.mlp.fc1.*", "encoder.layer.#.mlp.gate_proj.* encoder.layer.#.mlp.up_proj.*"),
    ("blocks.#.mlp.fc2.*", "encoder.layer.#.mlp.down_proj.*"),
)


def _optional_dinov3(block: str) -> tuple[tuple[str, str], ...]:
    """Return the optional keys of DINOv3 in transformers."""
    return (
        ("reg_token", "embeddings.register_tokens"),
        ("blocks.#.gamma_1", f"{block}.layer_scale1.lambda1"),
        ("blocks.#.gamma_2", f"{block}.layer_scale2.lambda1"),
        ("blocks.#.mlp.fc1_g.*", f"{block}.mlp.gate_proj.*"),
        *((f"blocks.#.attn.{name}_bias", f"{block}.attention.{name}_proj.bias") for name in "qkv"),
    )


OPTIONAL: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "timm": _TIMM,
    "timm_swiglu": _TIMM,
    "hf": _HF,
    "hf_live": _HF,
    "hf_dinov2": _HF_DINOV2,
    "hf_dinov2_live": _HF_DINOV2,
    "hf_dinov3": _optional_dinov3("layer.#"),
    "hf_dinov3_live": _optional_dinov3("model.layer.#"),
    "hf_clip": (("norm_pre.*", "pre_layrnorm.*"),),
    "clip": (("norm_pre.*", "ln_pre.*"),),
}
"""Keys that only some ViTs have, in pairs of timm's key and that of the format; several may stand for one of timm's.

The first of several names for one key that the file holds is taken.
"""
SOME_LACK: Final = (
    *("cls_token", "pos_embed", "patch_embed.proj.bias", "norm.weight", "norm.bias"),
    *("attn.qkv.bias", "attn.proj.bias", "mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.bias"),
)
"""Endings of timm's keys in `key_map` that some ViTs lack."""
