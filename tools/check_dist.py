"""Build sdist and wheel, check them, and try the wheel outside of the checkout: `make dist`.

The light installation is a new environment with the wheel and the core's dependencies. The full one is new, too, and
borrows the pinned dependencies of the environment that runs this; `--full` installs them anew (7 GB).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent
SMALL = ("--preset", "quick", "--set", "model.arch=vit_test", "--epochs", "1", "--batch-size", "4")
"""Options of a training of seconds."""


def run(*command: object, cwd: Path) -> str:
    """Run a command without the checkout on its path, print it, and return its output; exit with its error."""
    shown = " ".join(map(str, command))
    print(f"  {shown}", flush=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{shown} exited with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def build(out: Path) -> Path:
    """Build sdist and wheel into an empty folder, check them, and return the wheel."""
    print("sdist and wheel", flush=True)
    shutil.rmtree(out, ignore_errors=True)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT, cwd=ROOT)
    files = sorted(out.iterdir())
    run(sys.executable, "-m", "twine", "check", "--strict", *files, cwd=out)
    wheel = next(out.glob("*.whl"))
    run(sys.executable, "-m", "check_wheel_contents", wheel, cwd=out)
    return wheel


def make_environment(folder: Path, python: str = sys.executable) -> Path:
    """Create an environment of an interpreter and return its folder of programs."""
    run(python, "-m", "venv", folder, cwd=folder.parent)
    return folder / ("Scripts" if os.name == "nt" else "bin")


def write_pins(path: Path) -> Path:
    """Write constraints.txt without hashes, which pip takes as limits of versions."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(line.removesuffix(" \\") for line in lines if not line.lstrip().startswith("--hash")))
    return path


def install_full(wheel: Path, work: Path, anew: bool) -> Path:
    """Install the wheel with everything it may use, and return the folder of programs."""
    print("full installation", flush=True)
    programs = make_environment(work / "full")
    pip = (programs / "python", "-m", "pip", "install", "--quiet")
    if anew:
        run(*pip, "--constraint", write_pins(work / "pins.txt"), f"{wheel}[train,serve]", cwd=work)
        return programs
    run(*pip, "--no-deps", wheel, cwd=work)
    site = run(programs / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=work).strip()
    Path(site, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return programs


def write_images(folder: Path) -> Path:
    """Write twelve small images."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(12):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        coarse.resize((128, 96), Image.Resampling.BICUBIC).save(folder / f"{index}.jpg")
    return folder


def try_full(programs: Path, work: Path, images: Path) -> Path:
    """Train, export, embed and serve; return the exported file."""
    gtsa, run_dir = programs / "gtsa", work / "run"
    where = run(programs / "python", "-c", "import gtsa_kit; print(gtsa_kit.__file__)", cwd=work)
    assert str(work) in where, f"the checkout is imported: {where}"
    run(gtsa, "train", images, "--out", run_dir, *SMALL, cwd=work)
    run(gtsa, "export", run_dir, "--format", "onnx", "--images", images, cwd=work)
    model = run_dir / "encoder.onnx"
    run(gtsa, "embed", images, "--model", model, "--out", work / "vectors", "--dense", cwd=work)
    serve(gtsa, model, work, next(images.iterdir()))
    return model


def serve(gtsa: Path, model: Path, work: Path, image: Path) -> None:
    """Start the service on a free port, ask for one embedding, and stop it."""
    command = [str(gtsa), "serve", str(model), "--port", "0", "--json"]
    print(f"  {' '.join(command)}", flush=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    process = subprocess.Popen(command, cwd=work, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        url = json.loads(process.stdout.readline())["url"]
        address, kind = f"{url.rstrip('/')}/v1/features", {"Content-Type": "image/jpeg"}
        request = urllib.request.Request(address, image.read_bytes(), kind)  # noqa: S310
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310  (our own address)
            assert answer.status == 200
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()


def try_light(wheel: Path, work: Path, images: Path, model: Path, python: str) -> None:
    """Install the wheel with the core alone, embed with it, and uninstall it."""
    print(f"light installation, {python}", flush=True)
    for name in ("light", "light-vectors"):
        shutil.rmtree(work / name, ignore_errors=True)
    programs = make_environment(work / "light", python)
    pip = (programs / "python", "-m", "pip")
    run(*pip, "install", "--quiet", "--constraint", write_pins(work / "pins.txt"), wheel, cwd=work)
    size = sum(path.stat().st_size for path in (work / "light").rglob("*") if path.is_file() and not path.is_symlink())
    print(f"  {size / 2**20:.0f} MiB")
    run(programs / "gtsa", "info", model, cwd=work)
    run(programs / "gtsa", "embed", images, "--model", model, "--out", work / "light-vectors", cwd=work)
    code = "import sys, pyarrow.parquet as pq; print(pq.read_table(sys.argv[1])['embedding'].to_pylist())"
    light, full = (
        np.array(json.loads(run(programs / "python", "-c", code, work / name / "vectors", cwd=work)))
        for name in ("light-vectors", "vectors")
    )
    np.testing.assert_allclose(light, full, atol=1e-4)
    run(*pip, "uninstall", "--yes", "--quiet", "gtsa-kit", cwd=work)
    left = [path for path in (work / "light").rglob("*gtsa*") if "__pycache__" not in path.parts]
    assert not left, f"uninstalling leaves {left}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Build, check and try."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="install all dependencies of the full installation anew")
    parser.add_argument("--python", nargs="*", default=[], help="further interpreters for the light installation")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder of sdist and wheel; emptied first")
    options = parser.parse_args(arguments)
    start = time.monotonic()
    wheel = build(options.out.resolve())
    with tempfile.TemporaryDirectory(prefix="gtsa-dist-") as name:
        work = Path(name).resolve()
        images = write_images(work / "images")
        model = try_full(install_full(wheel, work, options.full), work, images)
        for python in (sys.executable, *options.python):
            try_light(wheel, work, images, model, python)
    print(
        f"passed in {time.monotonic() - start:.0f} s: {', '.join(path.name for path in sorted(options.out.iterdir()))}"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
