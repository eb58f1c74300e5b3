"""Our encoder as a checkpoint of another framework, read back from the disk and compared with the encoder."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from gtsa_kit import __version__
from gtsa_kit.config import PATCH
from gtsa_kit.export.comparison import compare_output
from gtsa_kit.export.formats.reference_models import READERS
from gtsa_kit.export.manifest import ParityReport, Record
from gtsa_kit.export.parity_images import ParityImages
from gtsa_kit.export.spec import EMBEDDING, FEATURE_MAP, FRAMEWORKS, TOLERANCES, ParityCase
from gtsa_kit.files import atomic_write, write_json
from gtsa_kit.models.checkpoint_import.key_maps import from_timm, key_map
from gtsa_kit.models.checkpoint_import.metadata import EXPORT_FILE, HUB_FILES
from gtsa_kit.models.encoder import INTERPOLATIONS, Encoder, Features
from gtsa_kit.models.weights import describe_encoder

SCHEMA: Final = 1
BATCH: Final = 2
"""Images of the comparison."""

BARE: Final = ", without class token and final norm, which detectron2's ViT lacks, and brought to unit scale"

Weights = dict[str, Tensor]


class FrameworkReport(Record):
    """What `gtsa.json` says of the files beside it."""

    schema_version: int = SCHEMA
    gtsa_kit: str = __version__
    format: str
    files: tuple[str, ...]
    architecture: dict[str, Any]
    preprocessing: dict[str, Any]
    parity: ParityReport


def export_framework(
    encoder: Encoder, form: str, folder: Path, images: ParityImages, force: bool = False
) -> FrameworkReport:
    """Write the files of one framework into a folder, run them from there, and say in `gtsa.json` how they compare.

    Nothing is deleted when the comparison fails: the report says so.

    Args:
        encoder: In float32.
        form: One of `FRAMEWORKS`.
        folder: Made if it is missing.
        images: Images to compare on, at the size that the position embeddings are stored for.
        force: Replace files that are there.

    Raises:
        ValueError: An unknown format, or a file that is there already.
    """
    if form not in FRAMEWORKS:
        raise ValueError(f"unknown framework {form!r}; choose one of {', '.join(FRAMEWORKS)}")
    if folder.is_file():
        raise ValueError(f"{folder} is a file; choose a folder")
    write, files = WRITERS[form]
    there = [name for name in (*files, EXPORT_FILE) if (folder / name).exists()]
    if there and not force:
        raise ValueError(f"{folder / there[0]} exists; add --force to replace it, or choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / EXPORT_FILE).unlink(missing_ok=True)  # it would describe the files before
    encoder = encoder.to("cpu").float().eval()
    write(encoder, {name: tensor.contiguous() for name, tensor in encoder.vit.state_dict().items()}, folder)
    facts = describe_encoder(encoder.architecture, encoder.preprocessing)
    report = FrameworkReport(
        format=form,
        files=files,
        architecture=facts["architecture"],
        preprocessing=facts["preprocessing"],
        parity=_check(encoder, form, folder, images),
    )
    write_json(folder / EXPORT_FILE, report.model_dump(mode="json"))
    return report


def _check(encoder: Encoder, form: str, folder: Path, images: ParityImages) -> ParityReport:
    """Compare what is on the disk with the encoder, or with that part of it which the framework has."""
    size, tolerance, bare = native_size(encoder), TOLERANCES["fp32"], form == "detectron2"
    case = ParityCase(BATCH, size, size)
    samples, names = list(islice(cycle(images.images), BATCH)), list(islice(cycle(images.names), BATCH))
    batch = torch.from_numpy(np.stack([encoder.preprocessing(image, (size, size)) for image in samples]))
    runtime, network = READERS[form](folder, encoder.architecture)
    with torch.inference_mode():
        expected = without_class_token(encoder, batch) if bare else encoder(batch)
        found = network(batch)
    # Tolerances are for features of unit scale, which the final norm sees to.
    scale = expected.feature_map.square().mean().sqrt() if bare else 1
    pairs = {EMBEDDING: (expected.embedding, found.mean((2, 3))), FEATURE_MAP: (expected.feature_map, found)}
    differences = tuple(
        compare_output(output, (wanted / scale).numpy(), (got / scale).numpy(), case, tolerance, names)
        for output, (wanted, got) in pairs.items()
    )
    return ParityReport(
        reference="gtsa-kit encoder, float32, PyTorch" + (BARE if bare else ""),
        runtime=runtime,
        images=images.origin,
        tolerance=asdict(tolerance),
        passed=all(difference.passed for difference in differences),
        differences=differences,
    )


def native_size(encoder: Encoder) -> int:
    """Side of the square images that the position embeddings are stored for: no framework resamples them there."""
    return PATCH * math.isqrt(encoder.vit.pos_embed.shape[1] - 1)


def without_class_token(encoder: Encoder, images: Tensor) -> Features:
    """What detectron2's ViT computes with these weights, (B, 3, H, W) at `native_size`."""
    vit = encoder.vit
    patches = vit.patch_embed.proj(images)
    x = patches.flatten(2).transpose(1, 2) + vit.pos_embed[:, 1:]
    for block in vit.blocks:
        x = block(x)
    return Features(x.mean(dim=1), x.transpose(1, 2).reshape(patches.shape))


def write_timm(encoder: Encoder, weights: Weights, folder: Path) -> None:
    """For `timm.create_model("local-dir:FOLDER", pretrained=True, num_classes=0)`."""
    about, images = encoder.architecture, encoder.preprocessing
    _write_safetensors(folder, weights)
    write_json(
        folder / "config.json",
        {
            "architecture": about.timm_model,
            "num_classes": 0,
            "num_features": about.width,
            "model_args": dict(about.timm_kwargs),
            "pretrained_cfg": {
                "input_size": [3, native_size(encoder), native_size(encoder)],
                "fixed_input_size": True,
                "crop_pct": 1.0,
                "crop_mode": "squash",  # stretched, nothing cut off
                "interpolation": images.interpolation.split(",")[0],
                "mean": images.mean,
                "std": images.std,
                "num_classes": 0,
                "first_conv": "patch_embed.proj",
                "classifier": "head",
            },
        },
    )


def write_hf(encoder: Encoder, weights: Weights, folder: Path) -> None:
    """For `transformers.ViTModel.from_pretrained(FOLDER, add_pooling_layer=False)`, of any version."""
    about = encoder.architecture
    _write_safetensors(folder, from_timm(weights, key_map("hf", about.depth)))
    write_json(
        folder / "config.json",
        {
            "architectures": ["ViTModel"],
            "model_type": "vit",
            "hidden_size": about.width,
            "num_hidden_layers": about.depth,
            "num_attention_heads": about.heads,
            "intermediate_size": 4 * about.width,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "layer_norm_eps": about.norm_eps,
            "image_size": native_size(encoder),
            "patch_size": PATCH,
            "num_channels": 3,
            "qkv_bias": True,
        },
    )
    _write_processor(encoder, folder / "preprocessor_config.json")


def write_mmseg(encoder: Encoder, weights: Weights, folder: Path) -> None:
    """For mmsegmentation's `VisionTransformer` with final_norm and patch_bias."""
    renamed = from_timm(weights, key_map("mmseg", encoder.architecture.depth))
    _write_pth(folder / "encoder_mmseg.pth", {"state_dict": renamed})


def write_mmdet(encoder: Encoder, weights: Weights, folder: Path) -> None:
    """For mmpretrain's `VisionTransformer`, through which mmdetection has ViTs."""
    renamed = from_timm(weights, key_map("mmpretrain", encoder.architecture.depth))
    _write_pth(folder / "encoder_mmdet.pth", {"state_dict": renamed})


def write_detectron2(_: Encoder, weights: Weights, folder: Path) -> None:
    """For the `ViT` inside detectron2's `SimpleFeaturePyramid`: it has no class token and no final norm."""
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
"""What writes a framework's files, and their names, the weights first."""


def _write_processor(encoder: Encoder, path: Path) -> None:
    images = encoder.preprocessing
    write_json(
        path,
        {
            "image_processor_type": "ViTImageProcessor",
            "do_resize": True,
            "size": {"height": images.size, "width": images.size},
            "resample": int(INTERPOLATIONS[images.interpolation]),
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": images.mean,
            "image_std": images.std,
        },
    )


def _write_safetensors(folder: Path, weights: Weights) -> None:
    with atomic_write(folder / HUB_FILES[0]) as file:
        file.write(safetensors.torch.save(weights, metadata={"format": "pt"}))


def _write_pth(path: Path, content: dict[str, Weights]) -> None:
    with atomic_write(path) as file:
        torch.save(content, file)
