"""Fields of the config.json of transformers, by model type; see `sidecar_fields`."""

from collections.abc import Mapping
from typing import Any, Final

from gtsa_kit.models.checkpoint_import.sidecar_fields import Fields

_SIZES: Final = ("hidden_size", "num_hidden_layers", "image_size", "patch_size", "num_channels")
_READ: Final = ("num_attention_heads", "layer_norm_eps", "hidden_act", *_SIZES)
_GENERATION: Final = (
    *("bad_words_ids", "begin_suppress_tokens", "bos_token_id", "decoder_start_token_id", "diversity_penalty"),
    *("do_sample", "early_stopping", "encoder_no_repeat_ngram_size", "eos_token_id", "forced_bos_token_id"),
    *("exponential_decay_length_penalty", "forced_eos_token_id", "length_penalty", "max_length", "min_length"),
    *("no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_return_sequences", "output_scores", "pad_token_id"),
    *("prefix", "remove_invalid_values", "repetition_penalty", "return_dict_in_generate", "sep_token_id", "top_k"),
    *("suppress_tokens", "temperature", "tf_legacy_loss", "tie_encoder_decoder", "tokenizer_class", "top_p"),
    *("typical_p", "task_specific_params", "cross_attention_hidden_size"),
)
_HARMLESS: Final[Mapping[str, tuple[str, ...]]] = {
    "training only": (
        *("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout", "dropout", "drop_path_rate"),
        *("initializer_range", "initializer_factor", "mask_ratio", "layerscale_value", "pos_embed_shift"),
        *("pos_embed_jitter", "pos_embed_rescale"),
    ),
    "of a head, which is skipped": (
        *("pooler_act", "pooler_output_size", "encoder_stride", "id2label", "label2id", "num_labels"),
        *("problem_type", "architectures", "norm_pix_loss", "decoder_hidden_size", "decoder_intermediate_size"),
        *("decoder_num_attention_heads", "decoder_num_hidden_layers", "finetuning_task", "classifier_dropout"),
        *("projection_dim", "vision_use_head"),
    ),
    "what is returned, and how it is computed": (
        *("output_hidden_states", "output_attentions", "return_dict", "torchscript", "chunk_size_feed_forward"),
        *("use_cache", "gradient_checkpointing", "dtype", "torch_dtype", "use_bfloat16", "tie_word_embeddings"),
        *("attn_implementation", "apply_layernorm", "reshape_hidden_states", "out_features", "out_indices"),
        *("stage_names", "return_class_token"),
    ),
    "origin of the file": ("transformers_version", "name_or_path", "license", "tags"),
    "of text, which an encoder of images has not": _GENERATION,
}
_NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {
    **dict.fromkeys(("is_encoder_decoder", "is_decoder", "add_cross_attention"), (False,)),
    "pruned_heads": ({},),
    "quantization_config": (),
    "auto_map": (),
}


def _fields(*read: str, drop: tuple[str, ...] = (), **neutral: tuple[Any, ...]) -> Fields:
    """Return the fields of a model type; a field in `drop` is refused, whatever the other types make of it."""
    harmless = {reason: tuple(name for name in names if name not in drop) for reason, names in _HARMLESS.items()}
    return Fields((*_READ, "model_type", *read), harmless, {**_NEUTRAL, **neutral})


_VIT: Final = _fields(
    *("qkv_bias", "intermediate_size"),
    drop=("layerscale_value",),
    use_swiglu_ffn=(False,),
    layerscale_value=(),
    num_register_tokens=(0,),
    mlp_ratio=(4, 4.0),
    use_mask_token=(False,),
)
DINOV3_BIASES: Final = {
    **dict.fromkeys(("query_bias", "value_bias", "proj_bias", "mlp_bias"), True),
    "key_bias": False,
}
"""Fields of DINOv3 that say whether a layer has a bias, with their defaults."""
TRANSFORMERS: Final[Mapping[str, Fields]] = {
    **dict.fromkeys(("vit", "vit_msn", "vit_mae", "deit"), _VIT),
    "dinov2": _fields("qkv_bias", "mlp_ratio", "use_swiglu_ffn", use_mask_token=(True, False)),
    "dinov2_with_registers": _fields("qkv_bias", "mlp_ratio", "use_swiglu_ffn", "num_register_tokens"),
    "dinov3_vit": _fields(
        *("intermediate_size", "rope_theta", "use_gated_mlp", "num_register_tokens", *DINOV3_BIASES),
    ),
    "clip_vision_model": _fields("intermediate_size"),
    "siglip_vision_model": _fields("intermediate_size"),
}
"""Fields of each model type that is taken."""
TOWERS: Final[Mapping[str, str]] = {"clip": "clip_vision_model", "siglip": "siglip_vision_model"}
"""Model types of the vision towers, by those of models of images and texts."""
TWO_TOWERS: Final = Fields(
    read=("model_type", "vision_config", "vision_config_dict"),
    harmless={
        **_HARMLESS,
        "of the text tower, which is skipped": ("text_config", "text_config_dict", "logit_scale_init_value"),
        "size of a head": ("hidden_size",),
    },
    neutral=_NEUTRAL,
)
"""Fields beside the towers."""
