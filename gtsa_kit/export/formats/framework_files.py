"""Checkpoint files of other frameworks, written from the encoder's weights."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import safetensors.torch
import torch
from torch import Tensor

from gtsa_kit.files import atomic_write, write_json
from gtsa_kit.models.architecture import EMBEDDING_NAMES, pooling_arguments
from gtsa_kit.models.checkpoint_import.key_maps import from_timm, key_map
from gtsa_kit.models.checkpoint_import.metadata import HUB_FILES
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.preprocessing import INTERPOLATIONS, Preprocessing

Weights = dict[str, Tensor]
"""Weights of the encoder by timm's keys."""
HIDDEN_ACTS: Final = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "quick_gelu": "quick_gelu"}
"""Names of the activations in transformers."""


def native_size(encoder: Encoder) -> tuple[int, int]:
    """Return the (height, width) of images, in pixels, whose position embeddings need no resampling."""
    rows, columns = encoder.grid
    return encoder.architecture.patch * rows, encoder.architecture.patch * columns


def write_timm(encoder: Encoder, weights: Weights, folder: Path) -> None:
    """Write files for `timm.create_model("local-dir:FOLDER", pretrained=True)`, whose output is the embedding.

    timm's default output is the class token, which training by GTSA does not use: the arguments say what it is.
    """
    architecture, preprocessing = encoder.architecture, encoder.preprocessing
    pooling = "token" if architecture.embedding == "cls" else "avg"
    arguments = {**architecture.timm_kwargs, **pooling_arguments(architecture, pooling)}
    if architecture.embedding == "norm of mean":
        arguments |= {name: True for name in arguments if name.endswith("fc_norm")}
        weights = {
            name.replace("norm.", "fc_norm.") if name.startswith("norm.") else name: w for name, w in weights.items()
        }
    _write_safetensors(folder, weights)
    write_json(
        folder / "config.json",
        {
            "architecture": architecture.timm_model,
            "num_classes": 0,
            "num_features": architecture.width,
            "global_pool": pooling,
            "model_args": arguments,
            "pretrained_cfg": {
                "input_size": [architecture.channels, *native_size(encoder)],
                "fixed_input_size": True,
                "crop_pct": 1.0,
                "crop_mode": "squash",  # resize to the input size without cropping
                "interpolation": preprocessing.interpolation.split(",")[0],
                "mean": preprocessing.mean,
                "std": preprocessing.std,
                "num_classes": 0,
                # Without this name timm keeps the kernel as it is; older versions take each kernel for one of RGB.
                **({"first_conv": "patch_embed.proj"} if architecture.channels == 3 else {}),
                "classifier": "head",
            },
        },
    )


def write_hf(encoder: Encoder, weights: Weights, folder: Path) -> None:
    """Write files for `transformers.ViTModel.from_pretrained(FOLDER, add_pooling_layer=False)` of any version."""
    architecture = encoder.architecture
    _write_safetensors(folder, from_timm(weights, key_map("hf", architecture.depth)))
    write_json(
        folder / "config.json",
        {
            "architectures": ["ViTModel"],
            "model_type": "vit",
            "hidden_size": architecture.width,
            "num_hidden_layers": architecture.depth,
            "num_attention_heads": architecture.heads,
            "intermediate_size": 4 * architecture.width,
            "hidden_act": HIDDEN_ACTS[architecture.activation],
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "layer_norm_eps": architecture.norm_eps,
            "image_size": native_size(encoder)[0],
            "patch_size": architecture.patch,
            "num_channels": architecture.channels,
            "qkv_bias": True,
        },
    )
    _write_processor(encoder, folder / "preprocessor_config.json")


def write_mmseg(encoder: Encoder, weights: Weights, folder: Path) -> None:
    """Write a file for mmsegmentation's `VisionTransformer` with final_norm and patch_bias."""
    renamed = from_timm(weights, key_map("mmseg", encoder.architecture.depth))
    _write_pth(folder / "encoder_mmseg.pth", {"state_dict": renamed})


def write_mmdet(encoder: Encoder, weights: Weights, folder: Path) -> None:
    """Write a file for mmpretrain's `VisionTransformer`, which mmdetection uses."""
    renamed = from_timm(weights, key_map("mmpretrain", encoder.architecture.depth))
    _write_pth(folder / "encoder_mmdet.pth", {"state_dict": renamed})


def write_detectron2(_: Encoder, weights: Weights, folder: Path) -> None:
    """Write a file for the `ViT` inside detectron2's `SimpleFeaturePyramid`, without class token and final norm."""
    kept = {f"backbone.net.{name}": w for name, w in weights.items() if name.split(".")[0] not in ("cls_token", "norm")}
    _write_pth(folder / "encoder_detectron2.pth", {"model": kept})


Writer = Callable[[Encoder, Weights, Path], None]
WRITERS: Final[Mapping[str, tuple[Writer, tuple[str, ...]]]] = {
    "timm": (write_timm, (HUB_FILES[0], "config.json")),
    "hf": (write_hf, (HUB_FILES[0], "config.json", "preprocessor_config.json")),
    "mmseg": (write_mmseg, ("encoder_mmseg.pth",)),
    "mmdet": (write_mmdet, ("encoder_mmdet.pth",)),
    "detectron2": (write_detectron2, ("encoder_detectron2.pth",)),
}
"""Function that writes a framework's files, and the names of the files (weights first), by framework."""


MAPS_ALONE: Final = ("mmseg", "mmdet", "detectron2")
"""Frameworks whose networks return maps, and no vector for an image."""


def embedding_call(framework: str, embedding: str) -> str:
    """Return a sentence on the call that gives the embedding; the parity gate computes it in the same way.

    Args:
        framework: One of `FRAMEWORKS`.
        embedding: Kind of embedding of the encoder, one of `models.architecture.EMBEDDINGS`.
    """
    if framework == "timm":
        return 'timm.create_model("local-dir:FOLDER", pretrained=True)(images) is the embedding'
    if framework == "hf" and embedding == "cls":
        return "the embedding is ViTModel(...)(images).last_hidden_state[:, 0], the class token before any pooler"
    if framework == "hf":
        return (
            "the embedding is ViTModel(...)(images).last_hidden_state[:, 1:].mean(1); ViTModel has no output of its "
            "own for it: its class token and pooler are not trained"
        )
    if framework == "detectron2":
        return "detectron2's ViT has no final norm, so it has no call that gives the embedding"
    if embedding == "mean":
        return "the embedding is the mean of the last map over its positions; the class token is not trained"
    return f"the network returns maps alone, so no call gives the embedding, {EMBEDDING_NAMES[embedding]}"


CHANNEL_ARGUMENTS: Final = {
    "timm": "config.json has in_chans={}",
    "hf": "config.json has num_channels={}",
    "mmseg": "build the network with in_channels={}",
    "mmdet": "build the network with in_channels={}",
    "detectron2": "build the network with in_chans={}",
}
"""Places where the number of channels is stated, by framework."""


def channels_note(framework: str, preprocessing: Preprocessing) -> str:
    """Return a sentence on the number of channels and their normalization; "" for 8-bit RGB.

    Args:
        framework: One of `FRAMEWORKS`.
        preprocessing: Preprocessing of the encoder.
    """
    if preprocessing.is_rgb:
        return ""
    samples = "samples / 255" if preprocessing.scale != 1 else "samples in the units of the files"
    clipped = ", clipped to low and high before" if preprocessing.samples.clip else ""
    return (
        f"{CHANNEL_ARGUMENTS[framework].format(len(preprocessing.mean))}; images are {samples} minus mean, over std of "
        f"gtsa.json{clipped}"
    )


def _write_processor(encoder: Encoder, path: Path) -> None:
    preprocessing = encoder.preprocessing
    write_json(
        path,
        {
            "image_processor_type": "ViTImageProcessor",
            "do_resize": True,
            "size": {"height": preprocessing.size, "width": preprocessing.size},
            "resample": int(INTERPOLATIONS[preprocessing.interpolation]),
            "do_rescale": preprocessing.scale != 1,
            "rescale_factor": 1 / preprocessing.scale,
            "do_normalize": True,
            "image_mean": preprocessing.mean,
            "image_std": preprocessing.std,
        },
    )


def _write_safetensors(folder: Path, weights: Weights) -> None:
    with atomic_write(folder / HUB_FILES[0]) as file:
        file.write(safetensors.torch.save(weights, metadata={"format": "pt"}))


def _write_pth(path: Path, content: dict[str, Weights]) -> None:
    with atomic_write(path) as file:
        torch.save(content, file)
