"""Latency of detectors on the CPU: exported graphs beside torchvision's own layers and a detector of like size.

Run: .venv/bin/python benchmarks/detect_latency.py [--arch vit_small] [--size 480x640] [--proposals 300] [--batch 1,8]
     [--rounds 3] [--peer] [--engine] [--json FILE]

All weights are random. The last layers are scaled so that every image has about a hundred detections, as many as the
static graph always computes. Variants take turns in each round, and the fastest rounds are compared, which other
processes disturb least; on a busy machine the CPU seconds of one thread (OMP_NUM_THREADS=1) say more. The peer is
D-FINE of the size N, built by transformers (latency alone).
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from gtsa_kit.export.build_manifest import build_manifest
from gtsa_kit.export.detection_comparison import DetectionArrays, match_errors
from gtsa_kit.export.formats.onnx import export_onnx
from gtsa_kit.export.formats.openvino import export_openvino
from gtsa_kit.export.runtime.onnx_runner import OnnxRunner
from gtsa_kit.export.runtime.openvino_runner import OpenVinoRunner
from gtsa_kit.export.runtime.runner import Runner
from gtsa_kit.export.spec import BOXES, SUFFIX, ExportOptions
from gtsa_kit.export.task_graph import options_for
from gtsa_kit.models.architecture import ARCHITECTURES
from gtsa_kit.models.detector_spec import DetectorSpec
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.task_model import TaskModel
from gtsa_kit.models.task_spec import Label, TaskSpec, head_layers

Run = Callable[[np.ndarray], object]
Numbers = dict[str, float | int | str]
console = Console(highlight=False)


def random_detector(arch: str, classes: int, detector: DetectorSpec, size: tuple[int, int]) -> TaskModel:
    """Build a detector whose last layers give scores and boxes of the spread that training gives."""
    torch.manual_seed(0)
    labels = tuple(Label(i, f"class {i}", (i, i, i)) for i in range(classes))
    layers = head_layers(ARCHITECTURES[arch], "detect", "mask-rcnn")  # type: ignore[index]
    spec = TaskSpec("detect", labels, "mask-rcnn", layers, detector=detector)
    model = TaskModel(Encoder(arch), spec).eval()  # type: ignore[arg-type]
    heads = model.head.roi_heads
    deviations = {
        model.head.rpn.head.cls_logits: 2.0,
        model.head.rpn.head.bbox_pred: 0.3,
        heads.box_predictor.cls_score: 4.0,
        heads.box_predictor.bbox_pred: 1.0,
    }
    with torch.inference_mode():
        image = torch.nn.functional.interpolate(torch.randn(1, 3, 9, 12), size=size, mode="bilinear")
        for layer, deviation in deviations.items():  # each layer sees what the ones before it give
            layer.register_forward_hook(_spread(deviation))
            model(image)
            layer._forward_hooks.clear()
    return model


def _spread(deviation: float) -> Callable[..., torch.Tensor]:
    def hook(layer: torch.nn.Module, _: object, output: torch.Tensor) -> torch.Tensor:
        factor = deviation / output.std()
        layer.weight.data = layer.weight.data * factor  # type: ignore[operator,union-attr]
        return output * factor

    return hook


def export_runners(model: TaskModel, folder: Path, formats: list[str]) -> Iterator[tuple[str, Runner, float, float]]:
    """Export to each format, any batch and size; yield the name, the runner, seconds of the export and megabytes."""
    options = options_for(model, ExportOptions())
    for name in formats:
        path, started = folder / f"model{SUFFIX[name]}", time.perf_counter()
        target = (export_onnx if name == "onnx" else export_openvino)(model, options, path)
        seconds = time.perf_counter() - started
        manifest = build_manifest(model, name, options, target, "")
        runner = OnnxRunner(path, manifest, torch.device("cpu")) if name == "onnx" else OpenVinoRunner(path, manifest)
        yield name, runner, seconds, size_of(path) / 1e6


def size_of(path: Path) -> int:
    """Return the bytes of a file, with the weights beside an .xml."""
    files = [path, path.with_suffix(".bin")] if path.suffix == SUFFIX["openvino"] else [path]
    return sum(file.stat().st_size for file in files)


def eager(model: torch.nn.Module) -> Run:
    """Return a function that runs a torch module."""

    def run(images: np.ndarray) -> object:
        with torch.inference_mode():
            return model(torch.from_numpy(images))

    return run


def d_fine(classes: int) -> Run:
    """Return D-FINE-N with random weights."""
    from transformers import DFineConfig, DFineForObjectDetection, HGNetV2Config

    backbone = HGNetV2Config(
        hidden_sizes=[64, 256, 512, 1024],
        stage_in_channels=[16, 64, 256, 512],
        stage_mid_channels=[16, 32, 64, 128],
        stage_out_channels=[64, 256, 512, 1024],
        stage_num_blocks=[1, 1, 2, 1],
        stage_downsample=[False, True, True, True],
        stage_light_block=[False, False, True, True],
        stage_kernel_size=[3, 3, 5, 5],
        stage_numb_of_layers=[3, 3, 3, 3],
        stem_channels=[3, 16, 16],
        out_features=["stage3", "stage4"],
        return_idx=[2, 3],
        use_learnable_affine_block=True,
    )
    config = DFineConfig(
        backbone_config=backbone,
        encoder_in_channels=[512, 1024],
        feat_strides=[16, 32],
        encode_proj_layers=[1],
        num_feature_levels=2,
        decoder_in_channels=[128, 128],
        encoder_hidden_dim=128,
        d_model=128,
        encoder_ffn_dim=512,
        decoder_ffn_dim=512,
        decoder_layers=3,
        decoder_n_points=[6, 6],
        hidden_expansion=0.34,
        depth_mult=0.5,
        num_labels=classes,
    )
    return eager(DFineForObjectDetection(config).eval())


def measure(variants: dict[str, Run], images: np.ndarray, rounds: int) -> dict[str, tuple[float, float]]:
    """Return the seconds of a call and its CPU seconds in the fastest round; a first round is not counted."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name, run in variants.items():
            started = time.perf_counter(), time.process_time()
            run(images)
            if number:
                seconds[name].append((time.perf_counter() - started[0], time.process_time() - started[1]))
    return {name: (min(one for one, _ in values), min(one for _, one in values)) for name, values in seconds.items()}


def check(model: TaskModel, runner: Runner, images: np.ndarray) -> Numbers:
    """Return the number of detections of the first image, and the share that the runner has too, within 0.05 pixels."""
    with torch.inference_mode():
        expected = DetectionArrays.of(model(torch.from_numpy(images[:1]))).image(0)
    errors = match_errors(expected, DetectionArrays.of(runner(images[:1])).image(0))[BOXES]
    used = expected.scores > 0
    return {"detections": int(used.sum()), "matched": float((errors[used] <= 0.05).mean())}


def build_engine(path: Path, size: tuple[int, int]) -> Numbers:
    """Build a TensorRT-RTX engine for batches of 1 to 8 and sides of 64 to 640; no GPU is needed."""
    import onnx

    from gtsa_kit.export.runtime.profile import Profile
    from gtsa_kit.export.runtime.tensorrt_variant import import_variant
    from gtsa_kit.export.tensorrt.build import BuildSettings, build_engine

    profile = Profile((1, 3, 64, 64), (2, 3, *size), (8, 3, 640, 640))
    log = path.with_suffix(".log")
    built = build_engine(import_variant("tensorrt-rtx"), onnx.load(path), path.name, profile, BuildSettings(), log)
    return {"megabytes": len(built.content) / 1e6, "seconds": built.seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="vit_small", choices=sorted(ARCHITECTURES))
    parser.add_argument("--size", default="480x640")
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--proposals", type=int, default=300)
    parser.add_argument("--batch", default="1,8")
    parser.add_argument("--rounds", type=int, default=3, help="Rounds of one image; larger batches take fewer.")
    parser.add_argument("--formats", default="onnx,openvino")
    parser.add_argument("--peer", action="store_true", help="Measure D-FINE-N too.")
    parser.add_argument("--engine", action="store_true", help="Build a TensorRT-RTX engine.")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    height, width = map(int, args.size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        report(measure_all(args, (height, width), Path(folder)), args)


def measure_all(args: argparse.Namespace, size: tuple[int, int], folder: Path) -> dict[str, Numbers]:
    """Return the figures of each variant."""
    model = random_detector(args.arch, args.classes, DetectorSpec(proposals=args.proposals), size)
    batches = [int(batch) for batch in args.batch.split(",") if batch]
    images = np.random.default_rng(0).standard_normal((max([1, *batches]), 3, 9, 12)).astype(np.float32)
    images = np.asarray(torch.nn.functional.interpolate(torch.from_numpy(images), size=size, mode="bilinear"))
    variants: dict[str, Run] = {"torchvision, eager": eager(model)}
    figures: dict[str, Numbers] = {"torchvision, eager": {}}
    for name, runner, seconds, megabytes in export_runners(model, folder, args.formats.split(",")):
        variants[name] = runner
        figures[name] = {"export_seconds": seconds, "megabytes": megabytes, **check(model, runner, images)}
    if args.peer:
        variants["D-FINE-N, eager"] = d_fine(args.classes)
        figures["D-FINE-N, eager"] = {}
    for batch in batches:
        for name, (wall, cpu) in measure(variants, images[:batch], max(1, args.rounds // batch)).items():
            figures[name] |= {f"seconds_{batch}": wall, f"cpu_{batch}": cpu}
    if args.engine:
        figures["TensorRT-RTX"] = build_engine(folder / "model.onnx", size)
    return figures


def report(figures: dict[str, Numbers], args: argparse.Namespace) -> None:
    """Print a table, and write the figures to --json."""
    title = f"{args.arch}, {args.size}, {args.proposals} proposals, {torch.get_num_threads()} threads"
    table = Table(title=title)
    columns = list(dict.fromkeys(name for one in figures.values() for name in one))
    for column in ("", *columns):
        table.add_column(column.replace("_", " "), justify="right" if column else "left")
    for name, one in figures.items():
        table.add_row(name, *(f"{one[c]:.3g}" if c in one else "" for c in columns))
    console.print(table)
    if args.json:
        settings = {name: value for name, value in vars(args).items() if name != "json"}
        args.json.write_text(json.dumps({"settings": settings, "figures": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
