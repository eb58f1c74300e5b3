"""Fields of files beside weights: those that are read, that change no feature, and that must be neutral.

A field in none of the tables is an error: it may change what the model computes.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

DELETE_HINT: Final = "delete it from the file if it does not change what the model computes"


@dataclass(frozen=True)
class Fields:
    """Fields of one JSON object."""

    read: Collection[str]
    """Fields whose values are used, or compared with the weights."""
    harmless: Mapping[str, Collection[str]]
    """Fields that change no feature of ours, by reason."""
    neutral: Mapping[str, tuple[Any, ...]]
    """Values of fields that the encoder computes; any other value is an error. None is neutral for every field."""

    def check(self, content: Mapping[str, Any], path: Path, section: str = "") -> None:
        """Raise `ValueError` for a field with a value that is neither used nor neutral.

        Args:
            content: The JSON object.
            path: Its file, for errors.
            section: Key of the object in the file, for errors.
        """
        harmless = {name for names in self.harmless.values() for name in names}
        for name, value in content.items():
            full = f"{section}.{name}" if section else name
            if value is None or name.startswith("_") or name in harmless or name in self.read:
                continue
            if name not in self.neutral:
                raise ValueError(
                    f"{path} has the field {full} ({value!r}), which gtsa-kit does not know; {DELETE_HINT}"
                )
            if value not in self.neutral[name]:
                allowed = " or ".join(map(repr, self.neutral[name])) or "missing"
                raise ValueError(
                    f"{path} says {full} is {value!r}, which gtsa-kit's encoder does not compute; it must be {allowed}"
                )


POOLING_ARGUMENTS: Final = (
    *("global_pool", "fc_norm", "use_fc_norm", "pool_include_prefix", "attn_pool_num_heads", "attn_pool_mlp_ratio"),
)
"""Arguments of timm's ViTs that determine the vector which they return."""
PROCESSOR: Final = Fields(
    read=(
        *("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std", "resample", "offset"),
        *("image_processor_type", "feature_extractor_type"),
    ),
    harmless={
        "images are stretched to the requested size": (
            *("do_resize", "size", "do_center_crop", "crop_size", "crop_pct", "default_to_square", "size_divisor"),
            *("do_thumbnail", "do_align_long_axis", "image_seq_length"),
        ),
        "images are RGB": ("do_convert_rgb",),
        "labels": ("do_reduce_labels", "reduce_labels"),
        "format of what is returned": (
            *("data_format", "input_data_format", "return_tensors", "device", "disable_grouping", "processor_class"),
            "model_input_names",
        ),
    },
    neutral={
        "do_convert_grayscale": (False,),
        "do_grayscale": (False,),
        "do_flip_channel_order": (False,),
        "do_pad": (False,),
        "pad_size": (),
        "rescale_offset": (False,),
        "include_top": (False,),
        "auto_map": (),
    },
)

TIMM_ARGS: Final = Fields(
    read=(
        *("num_heads", "qkv_bias", "act_layer", "norm_layer", "embed_dim", "depth", "patch_size", "img_size"),
        *("in_chans", "mlp_ratio", "class_token", "reg_tokens", "no_embed_class", "pre_norm", "init_values"),
        *("qk_norm", "scale_attn_norm", "scale_mlp_norm", "proj_bias", "qkv_fused", "swiglu_mlp", "swiglu_align_to"),
        *("scale_mlp", "scale_attn_inner", "num_reg_tokens", "use_abs_pos_emb", "use_rot_pos_emb", "rope_type"),
        *("rope_grid_offset", "rope_grid_indexing", "rope_temperature", "rope_rotate_half", "ref_feat_shape"),
        *("use_pre_transformer_norm", "attn_type", *POOLING_ARGUMENTS),
    ),
    harmless={
        "training only": (
            *("drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate"),
            *("weight_init", "fix_init", "head_init_scale", "rope_shift_coords", "rope_jitter_coords"),
            "rope_rescale_coords",
        ),
        "of the head, which is skipped": ("num_classes",),
        "the encoder takes every size": ("dynamic_img_size", "dynamic_img_pad", "strict_img_size"),
        "how it is computed": ("scriptable", "exportable", "no_jit"),
    },
    neutral={
        "pos_embed": ("learn",),
        "final_norm": (True,),
        "use_post_norm": (False,),
        "use_post_transformer_norm": (True,),
        "attn_only_layer_scale": (False,),
        "num_kv_heads": (),
        "embed_layer": (),
        "embed_norm_layer": (),
        "block_fn": (),
        "mlp_layer": (),
        "attn_layer": (),
        "rope_mrope_section": (),
    },
)
_TIMM_PRETRAINED_READ: Final = ("mean", "std", "interpolation", "global_pool")
_TIMM_PRETRAINED_HARMLESS: Final = {
    "images are stretched to the requested size": (
        *("input_size", "test_input_size", "min_input_size", "fixed_input_size", "crop_pct", "test_crop_pct"),
        "crop_mode",
    ),
    "of the head, which is skipped": (
        *("num_classes", "num_features", "label_offset", "label_names", "label_descriptions"),
        *("labels", "pool_size", "test_pool_size", "classifier"),
    ),
    "origin of the weights": (
        *("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "tag", "custom_load", "first_conv"),
        *("license", "description", "origin_url", "paper_name", "paper_ids", "notes", "architecture"),
    ),
}
TIMM_PRETRAINED: Final = Fields(_TIMM_PRETRAINED_READ, _TIMM_PRETRAINED_HARMLESS, {})
TIMM: Final = Fields((*_TIMM_PRETRAINED_READ, "model_args", "pretrained_cfg"), _TIMM_PRETRAINED_HARMLESS, {})
"""config.json of timm; older files have the keys of `pretrained_cfg` at the top level."""
