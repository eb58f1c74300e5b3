"""Opening of models by every command: the same options, the same note of what was assumed."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import typer
from helpers.evaluation_data import write_color_classes

from gtsa_kit.cli import app
from gtsa_kit.cli.support.options import ModelOptions, WeightsOptions
from gtsa_kit.data.image_io import open_image
from gtsa_kit.embedding import read_dataset
from gtsa_kit.export.open_options import ImportOptions, LoadOptions

MEAN, STD = (0.3, 0.4, 0.5), (0.2, 0.3, 0.25)
FACTS = ("--heads", 4, "--mean", "0.3,0.4,0.5", "--std", "0.2,0.3,0.25", "--positions", "antialiased")
CLASS_TOKEN = "the only encoder; embedding: the class token, as timm's own call"
ASSUMPTIONS = "; assumed: 2 heads, mean and std of ImageNet, positions resampled as by timm"
ASSUMED = CLASS_TOKEN + ASSUMPTIONS


@pytest.fixture(scope="module")
def vit() -> torch.nn.Module:
    """A ViT with four heads, where one of this width usually has two."""
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, embed_dim=64, depth=2, num_heads=4)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


@pytest.fixture(scope="module")
def foreign(vit: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("foreign") / "theirs[big].pth"
    torch.save(vit.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_color_classes(tmp_path_factory.mktemp("classes"))


@torch.inference_mode()
def expected_embedding(vit: torch.nn.Module, image: Path, size: int = 224) -> np.ndarray:
    """Return the output of timm's own model for an image that Pillow and numpy prepared."""
    pixels = np.asarray(open_image(image).resize((size, size), 3), np.float64) / 255
    prepared = ((pixels - MEAN) / STD).transpose(2, 0, 1)[None]
    return vit(torch.from_numpy(prepared).float())[0].numpy()


def leaves(
    command: typer.core.TyperGroup | typer.core.TyperCommand, name: str = "gtsa"
) -> Iterator[tuple[str, set[str]]]:
    """Yield every command with the names of its options."""
    children = getattr(command, "commands", None)
    if children is None:
        yield name, {option for parameter in command.params for option in parameter.opts}
    for child, inner in (children or {}).items():
        yield from leaves(inner, f"{name} {child}")


def option_names(group: type) -> set[str]:
    return {f"--{name.replace('_', '-')}" for name in group.__dataclass_fields__}


def test_every_command_that_opens_models_has_the_shared_options() -> None:
    options = dict(leaves(typer.main.get_command(app)))  # type: ignore[arg-type]
    with_weights = {name for name, names in options.items() if names & option_names(WeightsOptions)}
    continuing = {"gtsa train", *(f"gtsa finetune {task}" for task in ("segment", "classify", "detect"))}
    assert all(option_names(WeightsOptions) <= options[name] for name in continuing)
    with_weights -= continuing  # they begin with weights and print no result that another program reads
    runners = {name for name, names in options.items() if "--provider" in names}
    assert with_weights == {
        *("gtsa convert", "gtsa export", "gtsa verify", "gtsa info", "gtsa bench", "gtsa serve", "gtsa embed FOLDER"),
        *("gtsa embed search", *(f"gtsa eval {name}" for name in "pca neighbors attention matches knn linear".split())),
        *(f"gtsa eval {name}" for name in "segment classify detect sensitivity correspondence rotation".split()),
    }
    assert runners - {"gtsa predict"} == with_weights - {  # it opens fine-tuned models alone
        *("gtsa convert", "gtsa export", "gtsa info", "gtsa eval attention")
    }
    for name in with_weights:
        assert option_names(ModelOptions if name in runners else WeightsOptions) <= options[name], name
    for name in with_weights:
        assert "--json" in options[name], name


def test_embedding_and_search_take_the_facts_that_the_weights_lack(
    gtsa_here: Callable, vit: torch.nn.Module, foreign: Path, images: Path, tmp_path: Path
) -> None:
    first = sorted(images.iterdir())[0]
    (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in sorted(images.iterdir())[:3]))
    out = tmp_path / "vectors"
    done = gtsa_here("embed", tmp_path / "list.txt", "--model", foreign, "--out", out, *FACTS, "--json")
    assert done.returncode == 0, done.stderr
    assert f"{foreign}: {CLASS_TOKEN}\n" in done.stderr
    assert {"rows": 3, "errors": 0, "total": 3, "processed": 3}.items() <= json.loads(done.stdout).items()
    row = next(row for row in read_dataset(out) if row.path.endswith(first.name))
    np.testing.assert_allclose(row.embedding, expected_embedding(vit, first), atol=2e-3)

    # The query is embedded as the rows were: by the facts of the job, unless others are given.
    done = gtsa_here("embed", "search", out, "--image", first, "--top", 1, "--json")
    assert done.returncode == 0, done.stderr
    hit = json.loads(done.stdout)["hits"][0]
    assert hit["path"] == row.path
    assert hit["cosine"] == pytest.approx(1, abs=1e-6)
    done = gtsa_here("embed", "search", out, "--image", first, "--heads", 2)
    assert done.returncode == 2
    assert "attention heads 2, not 4" in done.stderr
    done = gtsa_here("embed", tmp_path / "list.txt", "--model", foreign, "--out", out, "--resume")
    assert done.returncode == 2
    assert "was started with other settings" in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("info", "MODEL"),
        ("embed", "IMAGES", "--model", "MODEL", "--out", "OUT", "--size", 32),
        ("verify", "ONNX", "--against", "MODEL", "--images", "IMAGES", "--embedding", "mean"),
        ("eval", "pca", "MODEL", "--images", "IMAGES", "--out", "OUT", "--size", 32, "--count", 1),
        ("eval", "attention", "MODEL", "--images", "IMAGES", "--out", "OUT", "--size", 32, "--count", 1),
        ("eval", "neighbors", "MODEL", "--images", "IMAGES", "--out", "OUT", "--size", 32, "--count", 1, "--top", 1),
        ("eval", "knn", "MODEL", "--images", "CLASSES", "--out", "OUT", "--size", 32, "--seeds", 1),
    ],
    ids=lambda command: "-".join(command[:2]) if command[0] == "eval" else command[0],
)
def test_each_command_prints_what_was_assumed(
    command: tuple[object, ...],
    gtsa_here: Callable,
    foreign: Path,
    tiny_onnx: Path,
    few: Path,
    classes: Path,
    tmp_path: Path,
) -> None:
    names = {"MODEL": foreign, "IMAGES": few, "CLASSES": classes, "ONNX": tiny_onnx, "OUT": tmp_path / "out"}
    done = gtsa_here(*(names.get(str(part), part) for part in command))
    assert done.returncode == (1 if command[0] == "verify" else 0), done.stderr  # the ONNX file is another encoder's
    assert ASSUMPTIONS in done.stdout + done.stderr
    names["OUT"] = tmp_path / "again"
    given = gtsa_here(*(names.get(str(part), part) for part in command), *FACTS)
    assert given.returncode == done.returncode, given.stderr
    assert "the only encoder" in given.stdout + given.stderr
    assert "assumed" not in given.stdout + given.stderr


def test_the_service_opens_weights_with_the_facts_and_the_note(
    foreign: Path,
    vit: torch.nn.Module,
    images: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    from gtsa_kit.cli import serve
    from gtsa_kit.service import app as service
    from gtsa_kit.service.settings import ServiceSettings

    runners = []
    monkeypatch.setattr(serve, "silence_native_libraries", lambda: None)
    monkeypatch.setattr(service, "create_app", lambda runner, settings, heads: (runners.append(runner), None))
    facts = ImportOptions(heads=4, mean=MEAN, std=STD, positions="antialiased")
    serve.create_loaded_app(ServiceSettings(foreign, load=LoadOptions("cpu", layers=(1,), import_options=facts)))
    serve.create_loaded_app(ServiceSettings(foreign))
    lines = capfd.readouterr().err.splitlines()
    assert lines == [f"{foreign}: {CLASS_TOKEN}", f"{foreign}: {ASSUMED}"]
    first = sorted(images.iterdir())[0]
    features = runners[0](runners[0].prepare(open_image(first))[None])
    np.testing.assert_allclose(features.embedding[0], expected_embedding(vit, first), atol=2e-3)
    assert list(features.layers) == [1]


@pytest.mark.parametrize(
    "command",
    [
        ("embed", "IMAGES", "--model", "MODEL", "--out", "OUT"),
        ("serve", "MODEL"),
        ("info", "MODEL"),
        ("export", "MODEL"),
    ],
    ids=lambda command: command[0],
)
@pytest.mark.parametrize("model", ["run", "file"])
def test_own_files_state_these_facts_themselves(
    command: tuple[str, ...],
    model: str,
    gtsa_here: Callable,
    tiny_run: Path,
    made: Callable,
    images: Path,
    tmp_path: Path,
) -> None:
    path = tiny_run if model == "run" else made("onnx")
    names = {"MODEL": path, "IMAGES": images, "OUT": tmp_path / "out"}
    done = gtsa_here(*(names.get(part, part) for part in command), "--heads", "4")
    assert done.returncode == 2
    assert f"{path} was written by gtsa-kit" in done.stderr
    assert "omit --heads" in done.stderr


def test_options_go_to_the_models_that_take_them(
    gtsa_here: Callable, tiny_run: Path, tiny_onnx: Path, foreign: Path, few: Path, tmp_path: Path
) -> None:
    from gtsa_kit.cli.support.opening import options_by_file

    options = LoadOptions("cpu", provider="cpu", import_options=ImportOptions(heads=4))
    by_file = options_by_file([tiny_run, tiny_onnx, foreign], options)
    assert by_file[tiny_run] == LoadOptions("cpu")
    assert by_file[tiny_onnx] == LoadOptions("cpu", provider="cpu")
    assert by_file[foreign] == LoadOptions("cpu", import_options=ImportOptions(heads=4))
    arguments = ("--images", few, "--out", tmp_path / "out", "--size", 32)
    for model, option in ((tiny_run, "--provider"), (tiny_onnx, "--heads")):
        done = gtsa_here("eval", "pca", model, *arguments, option, "cpu" if option == "--provider" else 4)
        assert done.returncode == 2
        assert f"none of the models takes {option}; omit it" in done.stderr.replace("\n  hint: ", "; ")


def test_verify_takes_facts_for_the_weights_that_it_compares_with_alone(gtsa_here: Callable, tiny_onnx: Path) -> None:
    done = gtsa_here("verify", tiny_onnx, "--heads", 4)
    assert done.returncode == 2
    assert "--heads is for the weights that --against names" in done.stderr
