"""The line at the end of a run: has it learned anything?"""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.commands import TINY, sets

from gtsa_kit.config import load_config
from gtsa_kit.data.channels.reader import ImageReader
from gtsa_kit.data.image_files import list_images
from gtsa_kit.methods import COMPARED_COLUMNS, make_method
from gtsa_kit.methods.dino import DINOOutputs
from gtsa_kit.methods.mocov3 import MoCoOutputs
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.encoder_spec import EncoderSpec
from gtsa_kit.models.preprocessing import Preprocessing
from gtsa_kit.training.fixed_images import load_fixed_images
from gtsa_kit.training.learning import MAX_ROWS, Learning, measure_learning
from gtsa_kit.training.start import initial_encoder

METHODS = ("gtsa", "dino", "mocov3")
SMALL_HEADS = {"dino.prototypes": 16, "dino.hidden": 16, "dino.bottleneck": 8, "mocov3.hidden": 16, "mocov3.output": 8}


def config_of(method: str, **changes: object) -> Any:
    return load_config(overrides={**TINY, **SMALL_HEADS, "method": method, **changes})


NO_FILES = Path("/nonexistent")  # a run from random weights needs none of its folder


def start_of(config: Any) -> Encoder:
    encoder = initial_encoder(config, NO_FILES, EncoderSpec.named(config.model.arch))
    assert encoder is not None
    return encoder


def rows(losses: list[float], baselines: list[float], method: str = "gtsa") -> list[dict[str, float]]:
    column, baseline = COMPARED_COLUMNS[method]
    return [{column: loss, baseline: other} for loss, other in zip(losses, baselines, strict=True)]


def measured(table: list[dict[str, float]], method: str = "gtsa") -> Learning:
    config = config_of(method)
    learning = measure_learning(config, table, start_of(config), torch.zeros(0, 3, 32, 32, dtype=torch.uint8), NO_FILES)
    assert learning is not None
    return learning


@pytest.mark.parametrize("method", METHODS)
def test_a_loss_below_its_baseline_by_more_than_chance_is_learning(method: str) -> None:
    noise = [0.01 * (-1) ** step for step in range(100)]
    below = measured(rows([-0.7 + n for n in noise], [-0.6] * 100, method), method)
    assert below.learned
    assert (below.loss, below.baseline, below.rows) == (pytest.approx(-0.7), pytest.approx(-0.6), MAX_ROWS)
    assert below.margin == pytest.approx(2 * 0.01 * math.sqrt(20 / 19) / math.sqrt(20))
    assert below.sentence().startswith("learned: ")
    unclear = measured(rows([-0.6 + n - 0.001 for n in noise], [-0.6] * 100, method), method)
    assert not unclear.learned
    assert "nothing learned yet" in unclear.sentence()
    assert "-0.601, is not below its constant baseline of -0.600" in unclear.sentence()


def test_a_certain_gap_of_next_to_nothing_is_not_learning() -> None:
    """Rows of a run of DINO whose teacher was uniform over 1,024 prototypes, to four digits."""
    baselines = [math.log(1024) - 1e-4 * (step % 3) for step in range(60)]
    uniform = measured(
        rows([value - 4e-4 - 1e-4 * (step % 2) for step, value in enumerate(baselines)], baselines, "dino"), "dino"
    )
    assert uniform.loss + uniform.margin < uniform.baseline
    assert (uniform.constant, uniform.below, uniform.learned) == (True, False, False)
    assert "only 0.0005 below its constant baseline of 6.931" in uniform.sentence()
    assert "all images get nearly the same output" in uniform.sentence()
    assert not measured(rows([-0.7] * 20, [-0.6] * 20)).constant


@pytest.mark.parametrize(
    ("loss", "cosine", "trained", "verdict"),
    [
        (-0.7, 0.9, True, "learned: "),
        (-0.5, 0.9, True, "moved: "),
        (-0.5, 0.9999, True, "nothing learned yet: "),
        (-0.5, None, True, "nothing learned yet: "),
        (-0.5, 0.9, False, "nothing learned yet: "),
    ],
)
def test_trained_weights_that_change_have_moved(loss: float, cosine: float, trained: bool, verdict: str) -> None:
    assert Learning("region", loss, -0.6, 0.01, 20, cosine, trained).sentence().startswith(verdict)


def test_only_the_last_rows_count() -> None:
    assert measured(rows([0.0] * 6 + [-1.0] * 2, [-0.5] * 8)).learned
    assert not measured(rows([-1.0] * 6 + [0.0] * 2, [-0.5] * 8)).learned
    assert measured(rows([-1.0], [-0.5])).rows == 1
    config = config_of("gtsa")
    assert measure_learning(config, [], start_of(config), torch.zeros(0), NO_FILES) is None


def test_an_encoder_that_has_not_moved_has_not_learned(images: Path) -> None:
    config = config_of("gtsa")
    _, pixels = load_fixed_images(list_images(str(images)), 64, ImageReader(), Preprocessing())
    assert pixels.shape == (8, 3, 64, 64)
    below = rows([-0.7] * 8, [-0.6] * 8)
    still = measure_learning(config, below, start_of(config), pixels, NO_FILES)
    assert still is not None
    assert still.cosine == pytest.approx(1, abs=1e-5)
    assert (still.below, still.moved, still.learned) == (True, False, False)
    assert "mean cosine of 1.000 to those of random weights (the teacher has not moved yet)" in still.sentence()
    other = measure_learning(config, below, start_of(config_of("gtsa", **{"train.seed": 5})), pixels, NO_FILES)
    assert other is not None
    assert other.learned


@pytest.mark.parametrize("method", METHODS)
def test_the_initial_encoder_is_that_of_the_method(method: str) -> None:
    config = config_of(method, **{"train.seed": 3})
    torch.manual_seed(3)
    model = make_method(config)
    for name, tensor in start_of(config).vit.state_dict().items():
        assert torch.equal(tensor, model.teacher.encoder.vit.state_dict()[name]), name


def test_the_baseline_of_dino_is_the_best_constant_student() -> None:
    torch.manual_seed(0)
    model = make_method(config_of("dino"))
    model.criterion.center.normal_()
    teacher = 0.1 * torch.randn(2, 6, 16)
    values = {"teacher_temperature": 0.05}

    def loss_and_baseline(student: torch.Tensor) -> tuple[float, float]:
        center = model.criterion.center.clone()
        outputs = DINOOutputs(student.expand(4, 6, 16), teacher, torch.zeros(0))
        total, terms = model.loss(outputs, None, values)  # type: ignore[arg-type]
        model.criterion.center.copy_(center)
        return float(total), float(terms["loss_constant_baseline"])

    mean = ((teacher - model.criterion.center) / 0.05).softmax(-1).mean((0, 1))
    best = 0.1 * mean.log()  # the student's temperature is 0.1
    loss, baseline = loss_and_baseline(best)
    assert loss == pytest.approx(baseline, abs=1e-5)
    for _ in range(5):
        loss, same = loss_and_baseline(best + 0.05 * torch.randn(16))
        assert loss > baseline
        assert same == pytest.approx(baseline, abs=1e-6)


def test_the_baseline_of_moco_is_a_constant_student() -> None:
    torch.manual_seed(0)
    model = make_method(config_of("mocov3"))
    # A query that is equally unclear to all keys.
    keys = torch.nn.functional.one_hot(torch.arange(6), 8).float().expand(2, 6, 8)
    outputs = MoCoOutputs(torch.ones(4, 6, 8), keys, torch.zeros(0))
    total, terms = model.loss(outputs, None, {})  # type: ignore[arg-type]
    assert float(total) == pytest.approx(float(terms["loss_constant_baseline"]), abs=1e-5)


def test_every_run_ends_with_the_line(gtsa_here, images: Path, tiny: dict[str, object], tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = {**tiny, "train.steps": 4, "optim.lr": 0, "optim.final_lr": 0}
    done = gtsa_here("train", images, "--out", run, *sets(settings))
    assert done.returncode == 0, done.stderr
    [line] = [line for line in done.stderr.splitlines() if "nothing learned yet: the region loss of the last" in line]
    assert "mean cosine of 1.000 to those of random weights" in line
    assert line in (run / "train.log").read_text()
    learning = json.loads((run / "encoder.json").read_text())["training"]["learning"]
    assert learning["learned"] is False
    (run / "encoder.safetensors").unlink()
    done = gtsa_here("train", "--finish", "--out", run)
    assert line in done.stderr
    assert json.loads((run / "encoder.json").read_text())["training"]["learning"] == learning
