"""Settings: the paper's values, precedence of layers, and error messages."""

import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pydantic
import pytest
import yaml

from gtsa_kit.config import PRESETS, Arch, RunConfig, dump_config, load_config, parse_overrides


def flat(config: RunConfig) -> dict[str, Any]:
    """Return values by dotted key."""
    content = config.model_dump()
    sections = {key: value for key, value in content.items() if isinstance(value, dict)}
    rest = {key: value for key, value in content.items() if key not in sections}
    return rest | {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}


PAPER = {
    "model.arch": "vit_small",
    "model.drop_path": 0.1,
    "model.projector_dim": 768,
    "model.norm_before_heads": True,
    "views.global_crops": 2,
    "views.local_crops": 8,
    "views.global_size": 224,
    "views.local_size": 96,
    "views.global_area": (0.3, 1.0),
    "views.local_area": (0.1, 0.3),
    "views.min_overlap": 0.01,
    "views.min_global_overlap": 0.02,
    "views.jitter_strength": 1.0,
    "views.jitter_p": 0.8,
    "views.grayscale_p": 0.2,
    "views.blur_p": 0.2,
    "views.blur_sigma": (0.1, 2.0),
    "views.noise_std": 0.0,
    "loss.correspondence_weight": 0.5,
    "loss.rotation_weight": 0.5,
    "loss.roi_size_global": "auto",
    "loss.roi_size_local": "auto",
    "loss.match_fraction": 0.5,
    "optim.lr": 5e-4,
    "optim.final_lr": 1e-6,
    "optim.warmup_epochs": 10.0,
    "optim.weight_decay": 0.04,
    "optim.final_weight_decay": 0.4,
    "optim.betas": (0.9, 0.999),
    "optim.clip_grad_norm": 3.0,
    "optim.teacher_momentum": "auto",
    "optim.final_teacher_momentum": "auto",
    "train.epochs": 100.0,
    "train.batch_size": 512,
}


# --- the paper's values -----------------------------------------------------------------------------------------------


def test_defaults_are_the_papers() -> None:
    settings = flat(load_config())
    assert {key: settings[key] for key in PAPER} == PAPER
    assert RunConfig() == load_config() == load_config("coco")
    patches = [(settings[f"views.{view}_size"] // 16) ** 2 for view in ("global", "local")]
    assert [settings["loss.match_fraction"] * n for n in patches] == [98, 18]
    # Other settings that would change the method are off.
    assert (settings["train.accumulate"], settings["train.steps"]) == (1, None)


def test_ade20k_changes_the_papers_settings_only() -> None:
    coco, ade20k = flat(load_config()), flat(load_config("ade20k"))
    changed = {key: value for key, value in ade20k.items() if coco[key] != value}
    assert changed == {
        "preset": "ade20k",
        "views.jitter_strength": 0.2,
        "loss.rotation_weight": 0.25,
        "model.norm_before_heads": False,
    }


def test_quick_changes_neither_model_nor_loss() -> None:
    coco, quick = flat(load_config()), flat(load_config("quick"))
    changed = {key for key, value in quick.items() if coco[key] != value}
    assert not {key for key in changed if key.startswith(("model.", "loss."))}


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_resolve(preset: str) -> None:
    assert load_config(preset).preset == preset


# --- invalid ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("loss.rotation_weigth", "did you mean loss.rotation_weight"),
        ("train.batchsize", "did you mean train.batch_size"),
        ("rotation_weight", "did you mean loss.rotation_weight"),  # right name without its section
        ("train.lr", "did you mean optim.lr"),
        ("los.rotation", "did you mean loss"),
    ],
)
def test_misspelled_keys_are_rejected_with_a_hint(key: str, hint: str) -> None:
    with pytest.raises(ValueError, match="unknown setting") as caught:
        load_config(overrides={key: 1})
    assert key.split(".")[0] in str(caught.value)
    assert hint in str(caught.value)


@pytest.mark.parametrize("key", ["qqq", "train.qqqqqq", ""])
def test_unknown_keys_are_rejected(key: str) -> None:
    with pytest.raises(ValueError, match=f"unknown setting '{key}'$"):
        load_config(overrides={key: 1})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        # Wrong type.
        ("train.batch_size", "many"),
        ("train.batch_size", 8.5),
        ("train.batch_size", None),
        ("train.workers", "many"),
        ("loss.rotation_weight", "high"),
        ("loss.rotation_weight", [0.5]),
        ("loss", 0.5),
        ("model.arch", "vit_huge"),
        ("model.norm_before_heads", "perhaps"),
        ("data", 3),
        ("train.batch_size.small", 8),
        # Out of range.
        ("train.batch_size", 0),
        ("train.workers", -1),
        ("train.devices", 0),
        ("train.steps", 0),
        ("train.epochs", 0),
        ("train.seed", -1),
        ("train.max_unreadable", 1.5),
        ("train.max_megapixels", 500),
        ("model.drop_path", 1.0),
        ("loss.rotation_weight", -0.1),
        ("loss.rotation_weight", math.nan),
        ("loss.rotation_weight", math.inf),
        ("loss.match_fraction", 0),
        ("optim.lr", -1),
        ("optim.teacher_momentum", 1.1),
        ("optim.teacher_momentum", "fast"),
        ("train.checkpoint_minutes", 0),
        ("optim.betas", [0.9, 1.0]),
        ("views.global_size", 100),
        ("views.local_size", 0),
        ("views.global_crops", 0),
        ("views.local_crops", -1),
        ("views.global_area", [0.3, 1.2]),
        ("views.global_area", [0.3]),
        ("views.global_area", [0.9, 0.3]),
        ("views.local_area", [0.0, 0.3]),
        ("views.blur_sigma", [0.0, 1.0]),
        ("views.aspect", [1.0, math.inf]),
        ("views.jitter_strength", 2.6),
    ],
)
def test_invalid_values_are_rejected_by_key(key: str, value: Any) -> None:
    named = key.removesuffix(".small")  # the part of the key that exists
    with pytest.raises(ValueError, match=rf"\b{re.escape(named)}(: | must|\.\d: )") as caught:
        load_config(overrides={key: value})
    # The message has no internal names of pydantic, and the error is a plain ValueError.
    assert not [word for word in ("constrained", "Value error", "pydantic") if word in str(caught.value)]
    assert type(caught.value) is ValueError


def test_all_errors_are_reported_at_once() -> None:
    with pytest.raises(ValueError, match=r"loss\.rotation") as caught:
        load_config(overrides={"loss.rotation_weight": -1, "train.batch_size": 0, "trian.epochs": 3})
    for key in ("loss.rotation_weight", "train.batch_size", "trian"):
        assert key in str(caught.value)


@pytest.mark.parametrize("preset", ["imagenet", "", "COCO"])
def test_unknown_presets_are_rejected(preset: str) -> None:
    with pytest.raises(ValueError, match="choose one of coco, ade20k, quick"):
        load_config(preset)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("preset: [coco]", "unknown preset"),
        ("preset: 3", "unknown preset"),
        ("- a list", "must be a mapping of keys to values"),
        ("just words", "must be a mapping of keys to values"),
        ("{", "not valid YAML"),
        ("train: {batch_size: 8, batch_size", "not valid YAML"),
        ("views:", "setting views"),
        ("1: 2", "setting 1"),
        ("train: {batchsize: 3}", "did you mean train.batch_size"),
    ],
)
def test_invalid_files_are_rejected(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "run.yaml").write_text(content)
    with pytest.raises(ValueError, match=message):
        load_config(file=tmp_path / "run.yaml")


def test_unreadable_files_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot read the settings file .*missing\.yaml"):
        load_config(file=tmp_path / "missing.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"data: caf\xe9")
    with pytest.raises(ValueError, match="not valid YAML"):
        load_config(file=tmp_path / "latin.yaml")


# --- layers -----------------------------------------------------------------------------------------------------------


def write(folder: Path, content: Any) -> Path:
    (folder / "run.yaml").write_text(yaml.safe_dump(content))
    return folder / "run.yaml"


def test_later_layers_take_precedence(tmp_path: Path) -> None:
    file = write(tmp_path, {"loss": {"rotation_weight": 0.75, "match_fraction": 0.25}, "train": {"seed": 3}})
    config = load_config("ade20k", file, {"loss.rotation_weight": 0.125})
    assert config.loss.rotation_weight == 0.125  # override over file over preset
    assert config.loss.match_fraction == 0.25  # file over default, in the same section
    assert config.train.seed == 3
    assert config.views.jitter_strength == 0.2  # preset over default
    assert config.loss.correspondence_weight == 0.5  # default
    assert load_config("ade20k", file).loss.rotation_weight == 0.75


def test_preset_of_the_file_and_of_the_overrides(tmp_path: Path) -> None:
    file = write(tmp_path, {"preset": "ade20k"})
    assert load_config("coco", file) == load_config("ade20k")
    # The preset's settings must change with its name.
    assert load_config("coco", file, {"preset": "quick"}) == load_config("quick")
    with pytest.raises(ValueError, match="unknown preset"):
        load_config(overrides={"preset": "imagenet"})


def test_empty_file_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    assert load_config("quick", tmp_path / "empty.yaml") == load_config("quick")


def test_presets_are_not_changed_by_use(tmp_path: Path) -> None:
    before = repr(PRESETS)
    load_config("quick", write(tmp_path, {"views": {"local_crops": 1}}), {"views.global_size": 32})
    assert repr(PRESETS) == before


def test_overrides_are_read_as_yaml() -> None:
    pairs = [
        "loss.rotation_weight=0.25",
        "views.global_area=[0.5, 1]",
        "train.steps=null",
        "data=/a=b",
        "optim.lr=5e-4",
    ]
    overrides = parse_overrides([*pairs, "model.norm_before_heads=false", " train.workers =auto"])
    config = load_config(overrides=overrides)
    assert (config.loss.rotation_weight, config.views.global_area, config.train.steps) == (0.25, (0.5, 1.0), None)
    assert (config.data, config.optim.lr) == ("/a=b", 5e-4)
    assert (config.model.norm_before_heads, config.train.workers) == (False, "auto")


@pytest.mark.parametrize("pair", ["loss.rotation_weight", "=3", "loss.rotation_weight=[", ""])
def test_invalid_overrides_are_rejected(pair: str) -> None:
    with pytest.raises(ValueError, match="--set"):
        parse_overrides([pair])


def test_contradicting_overrides_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"'loss\.rotation_weight' is inside"):
        load_config(overrides={"loss": 1, "loss.rotation_weight": 2})


# --- the object -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
def test_dumped_settings_load_to_an_equal_object(tmp_path: Path, preset: str) -> None:
    overrides = {"data": "Fotos: 'Köln' #1", "optim.final_lr": 1e-7, "train.steps": 7, "train.workers": 3}
    for config in (load_config(preset), load_config(preset, overrides=overrides)):
        (tmp_path / "config.yaml").write_text(dump_config(config), encoding="utf-8")
        assert load_config(file=tmp_path / "config.yaml") == config


def test_dump_holds_every_setting() -> None:
    assert set(yaml.safe_load(dump_config(load_config()))) == set(RunConfig.model_fields)


def test_settings_are_frozen() -> None:
    config = load_config()
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        config.preset = "quick"
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        config.loss.rotation_weight = 1.0
    assert hash(config) == hash(load_config())


def test_arch_names_are_those_of_the_encoder() -> None:
    from gtsa_kit.models.architecture import ARCHITECTURES

    assert set(get_args(Arch)) == set(ARCHITECTURES)


def test_config_imports_no_torch() -> None:
    code = "import gtsa_kit.config, sys; assert 'torch' not in sys.modules; assert 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_epochs_of_a_later_layer_replace_steps_of_an_earlier_one(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("train: {steps: 100, batch_size: 8}")
    train = load_config(file=file, overrides={"train.epochs": 3}).train
    assert (train.steps, train.epochs, train.batch_size) == (None, 3.0, 8)
    both = load_config(file=file, overrides={"train.epochs": 3, "train.steps": 7}).train
    assert (both.steps, both.epochs) == (7, 3.0)
    file.write_text("train: {steps: 100, epochs: 2}")
    assert load_config(file=file).train.steps == 100
