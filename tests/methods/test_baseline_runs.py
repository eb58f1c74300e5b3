"""Runs of the baselines: run folder, frozen parameters, resuming, several processes, invalid settings."""

import importlib.util
import json
import multiprocessing
from pathlib import Path
from types import ModuleType

import pytest
import safetensors.torch
import torch

from gtsa_kit.config import METHODS, load_config
from gtsa_kit.export.api import load_encoder
from gtsa_kit.files import read_json_lines
from gtsa_kit.methods import make_method
from gtsa_kit.models.checkpoint_import import open_weights
from gtsa_kit.training.checkpoint import load_checkpoint

BASELINES = ["dino", "mocov3"]
STEPS = 8
EPOCH = 5
"""Steps per epoch: 20 images in batches of 4."""


def run_settings(settings, method: str, **more: object):
    defaults = {
        "train.steps": STEPS,
        "train.checkpoint_every": 1,
        "train.keep_checkpoints": STEPS,
        "model.drop_path": 0.2,
    }
    return settings(method, **defaults, **{"optim.warmup_epochs": 0.2, **more})


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def finished(runs: Path, settings, train_here):
    """Return a function that returns a finished run of a method, trained at the first call."""

    def get(method: str) -> Path:
        if not (runs / method).exists():
            assert train_here(run_settings(settings, method), runs / method)
        return runs / method

    return get


def states(run: Path) -> list[dict[str, torch.Tensor]]:
    """Load the model state after each step."""
    paths = sorted((run / "checkpoints").glob("step_*.ckpt"))
    return [torch.load(path, weights_only=True)["model"] for path in paths]


TERMS = {
    "dino": {"teacher_entropy", "divergence", "teacher_temperature", "loss_constant_baseline"},
    "mocov3": {"contrast_accuracy", "loss_constant_baseline"},
}
GTSA_ONLY = {"region", "correspondence", "rotation", "rotation_accuracy", "region_loss_constant_baseline", "alpha"}


@pytest.mark.parametrize("method", BASELINES)
def test_run_folder(method: str, finished) -> None:
    run = finished(method)
    rows = read_json_lines(run / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    shared = {"step", "epoch", "loss", "feature_std", "effective_rank", "lr", "weight_decay", "teacher_momentum"}
    assert set(rows[0]) - {"images_per_second", "data_wait", "seconds"} == shared | TERMS[method]
    assert not GTSA_ONLY & set(rows[0])
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    training = json.loads((run / "encoder.json").read_text())["training"]
    assert (training["method"], training["weights"]) == (method, "teacher")
    teacher = load_checkpoint(run)["model"]
    for name, tensor in safetensors.torch.load_file(run / "encoder.safetensors").items():
        assert torch.equal(tensor, teacher[f"teacher.encoder.vit.{name}"])
    assert load_encoder(run)(torch.zeros(1, 3, 32, 48)).feature_map.shape == (1, 64, 2, 3)
    assert load_config(file=run / "config.yaml").method == method


@pytest.mark.parametrize("method", BASELINES)
def test_checkpoint_opens_as_an_encoder(method: str, finished) -> None:
    run = finished(method)
    opened = open_weights(run / "checkpoints" / "last")
    assert opened.note.startswith("teacher (model.teacher.encoder.vit); skipped")
    images = torch.randn(1, 3, 48, 48)
    assert torch.equal(opened.encoder(images).embedding, load_encoder(run)(images).embedding)


@pytest.mark.parametrize(("method", "stop"), [("dino", 3), ("mocov3", 6)])  # DINO: while the prototypes are frozen
def test_resumed_run_is_bit_identical(method: str, stop: int, finished, settings, train_here, tmp_path: Path) -> None:
    config = run_settings(settings, method)
    assert not train_here(config, tmp_path / "run", stop=stop)
    assert load_checkpoint(tmp_path / "run")["step"] == stop
    assert train_here(config, tmp_path / "run", resume=True)
    one, other = load_checkpoint(finished(method)), load_checkpoint(tmp_path / "run")
    assert one["model"].keys() == other["model"].keys()
    for name, tensor in one["model"].items():
        assert torch.equal(tensor, other["model"][name]), name
    for index, state in one["optimizer"]["state"].items():
        assert all(torch.equal(v, other["optimizer"]["state"][index][k]) for k, v in state.items()), index
    encoders = [(run / "encoder.safetensors").read_bytes() for run in (finished(method), tmp_path / "run")]
    assert encoders[0] == encoders[1]


def test_prototypes_are_frozen_for_an_epoch(finished, settings) -> None:
    torch.manual_seed(0)
    initial = make_method(run_settings(settings, "dino")).state_dict()
    steps = states(finished("dino"))
    for name in ("student.head.last_layer.weight_v", "student.head.last_layer.weight_g"):
        assert all(torch.equal(state[name], initial[name]) for state in steps[: STEPS // 2]), name
        # The epoch has 5 steps, which is limited to half of the run's 8 steps.
        assert not torch.equal(steps[STEPS // 2][name], initial[name]), name
    assert not torch.equal(steps[2]["student.head.layers.0.weight"], initial["student.head.layers.0.weight"])


def test_patch_projection_is_frozen(finished, settings) -> None:
    torch.manual_seed(0)
    initial = make_method(run_settings(settings, "mocov3")).state_dict()
    last = states(finished("mocov3"))[-1]
    for branch in ("student", "teacher"):
        for name in ("proj.weight", "proj.bias"):
            key = f"{branch}.encoder.vit.patch_embed.{name}"
            assert torch.equal(last[key], initial[key])
        key = f"{branch}.encoder.vit.blocks.0.attn.qkv.weight"
        assert not torch.equal(last[key], initial[key])


# --- several processes ------------------------------------------------------------------------------------------------


def run_one_of_two_processes(rank: int, folder: Path, queries, keys, config) -> None:
    from gtsa_kit.methods.dino import DINOOutputs
    from gtsa_kit.methods.mocov3 import contrast

    torch.distributed.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=2)
    half = slice(3 * rank, 3 * rank + 3)
    with torch.no_grad():
        loss, accuracy = contrast(queries[:, half], keys[:, half], 0.2)
        torch.manual_seed(0)
        model = make_method(config)
        dino, _ = model.loss(DINOOutputs(queries[:, half], keys[:, half], queries), None, {"teacher_temperature": 0.05})
    torch.save([loss, accuracy, dino, model.criterion.center], folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_gather_keys_and_average_the_center(settings, tmp_path: Path) -> None:
    from gtsa_kit.methods.dino import DINOOutputs
    from gtsa_kit.methods.mocov3 import contrast

    config = settings("dino")
    generator = torch.Generator().manual_seed(1)
    queries, keys = (torch.randn(views, 6, 40, generator=generator) for views in (4, 2))
    context = multiprocessing.get_context("fork")
    both = [
        context.Process(target=run_one_of_two_processes, args=(rank, tmp_path, queries, keys, config))
        for rank in (0, 1)
    ]
    for process in both:
        process.start()
    for process in both:
        process.join(timeout=300)
        assert process.exitcode == 0
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    loss, accuracy = contrast(queries, keys, 0.2)
    model = make_method(config)
    dino, _ = model.loss(DINOOutputs(queries, keys, queries), None, {"teacher_temperature": 0.05})
    for index, whole in enumerate((loss, accuracy, dino)):
        torch.testing.assert_close((parts[0][index] + parts[1][index]) / 2, whole, rtol=0, atol=1e-5)
    for part in parts:
        torch.testing.assert_close(part[3], model.criterion.center, rtol=0, atol=1e-6)


# --- settings ---------------------------------------------------------------------------------------------------------


def test_method_settings_are_overridden_by_file_and_overrides(tmp_path: Path) -> None:
    moco = load_config(overrides={"method": "mocov3"})
    assert (moco.optim.weight_decay, moco.optim.lr, moco.model.drop_path) == (0.1, 1.5e-4, 0.0)
    assert (moco.views.hflip_p, moco.views.rotate) == (0.5, False)
    dino = load_config(overrides={"method": "dino"})
    assert (dino.optim.weight_decay, dino.optim.final_teacher_momentum, dino.dino.prototypes) == (0.04, "auto", 65_536)
    assert load_config(overrides={"method": "dino", "views.rotate": True}).views.rotate
    (tmp_path / "run.yaml").write_text("method: dino\nviews: {hflip_p: 0.25}\n")
    assert load_config(file=tmp_path / "run.yaml").views.hflip_p == 0.25
    # The preset has precedence over the method.
    assert load_config("quick", overrides={"method": "mocov3"}).optim.lr == load_config("quick").optim.lr


@pytest.mark.parametrize("method", METHODS)
def test_methods_have_equal_crops_and_colors(method: str) -> None:
    default, views = load_config().views, load_config(overrides={"method": method}).views
    same = {"rotate": True, "hflip_p": 0.0}
    assert views.model_copy(update=same) == default


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"views.hflip_p": 0.5}, "views.hflip_p must be 0 for the method gtsa"),
        ({"views.rotate": False}, "loss.rotation_weight must be 0 if views.rotate is false"),
        ({"method": "nonsense"}, "unknown method 'nonsense': choose one of gtsa, dino, mocov3"),
        ({"method": ["dino"]}, "unknown method"),
        ({"method": "mocov3", "train.batch_size": 1}, "train.batch_size must be 2 or more"),
        ({"method": "dino", "views.global_crops": 1, "views.local_crops": 0}, "views.local_crops must be 1 or more"),
        ({"method": "dino", "dino.teacher_temperature": 0}, "dino.teacher_temperature"),
        ({"method": "dino", "dino.center_momentun": 0.9}, "did you mean dino.center_momentum"),
        ({"method": "mocov3", "mocov3.temperature": -1}, "mocov3.temperature"),
    ],
)
def test_conflicting_settings_are_rejected(overrides: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        load_config(overrides=overrides)


def test_gtsa_without_rotations_needs_no_rotation_loss() -> None:
    config = load_config(overrides={"views.rotate": False, "loss.rotation_weight": 0})
    assert config.loss.correspondence_weight == 0.5


def test_missing_lightly_is_reported_before_a_run_folder_is_created(
    monkeypatch: pytest.MonkeyPatch, settings, train_here, tmp_path: Path
) -> None:
    def find(name: str, package: str | None = None) -> ModuleType | None:
        return None if name == "lightly" else real(name, package)

    real = importlib.util.find_spec
    monkeypatch.setattr("gtsa_kit.methods.baselines.find_spec", find)
    with pytest.raises(ValueError, match=r"pip install 'gtsa-kit\[baselines\]'"):
        train_here(settings("dino"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_resuming_with_another_method_is_rejected(gtsa_here, finished) -> None:
    run = finished("dino")
    done = gtsa_here("train", "--resume", "--out", run, "--method", "gtsa")
    assert done.returncode == 2
    assert f"the run in {run} has the method dino" in done.stderr
    # With --preset given again, the other settings are compared as well.
    done = gtsa_here("train", "--resume", "--out", run, "--preset", "quick")
    assert done.returncode == 2
    assert "model.arch: vit_test, vit_small" in done.stderr
    assert "method: " not in done.stderr


def test_unknown_method_on_the_command_line(gtsa_here, images: Path, tmp_path: Path) -> None:
    done = gtsa_here("train", images, "--method", "nonsense", "--out", tmp_path / "run")
    assert done.returncode == 2
    assert "unknown method 'nonsense'" in done.stderr
    help_text = gtsa_here("train", "--help").stdout
    assert "--method" in help_text
    assert "gtsa-kit[baselines]" in help_text
