"""Pictures of a run at every checkpoint: feature colors of fixed images, k-NN accuracy, and report.html."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gtsa_kit.config import RunConfig
from gtsa_kit.data.image_files import ImageList
from gtsa_kit.feature_colors import fit_color_basis
from gtsa_kit.files import atomic_write, read_json_lines, write_json_lines
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.pictures import rgb_picture
from gtsa_kit.training.channels import image_reader
from gtsa_kit.training.fixed_images import encode, load_fixed_images
from gtsa_kit.training.learning import Learning, measure_learning
from gtsa_kit.training.probe import Probe, open_probe
from gtsa_kit.training.report import write_report
from gtsa_kit.training.run_logger import RunLogger

TILE = 96
"""Side of one image in a strip, in pixels."""


class Monitor:
    """Monitor of one run. It keeps its state in the folder `monitor`, so that a resumed run goes on with it."""

    def __init__(
        self, run_dir: Path, config: RunConfig, images: ImageList, encoder: Encoder, logger: RunLogger
    ) -> None:
        """Load the fixed images and the probe, and drop what was recorded after the step of the last checkpoint.

        Raises:
            ValueError: `train.probe` is no labeled set.
        """
        self.run_dir, self.config, self.encoder, self.logger = run_dir, config, encoder, logger
        self.folder = run_dir / "monitor"
        self.folder.mkdir(exist_ok=True)
        size = config.views.global_size
        self.names, self.pixels = load_fixed_images(images, size, image_reader(config), encoder.preprocessing)
        self.probe: Probe | None = None
        if config.train.probe:
            chosen = self.folder / "probe_images.json"
            self.probe = open_probe(Path(config.train.probe), chosen, size, encoder, self.pixels)

    def start(self, step: int) -> None:
        """Drop what was recorded after `step`, and record the state before the first step of a new run."""
        for path in self.folder.glob("step_*.png"):
            if step == 0 or int(path.stem.removeprefix("step_")) > step:
                path.unlink()
        write_json_lines(
            self.folder / "probe.jsonl", [row for row in self.probe_rows() if step and row["step"] <= step]
        )
        if len(self.pixels):
            pictures = rgb_picture(self.pixels.permute(0, 2, 3, 1).numpy(), self.encoder.preprocessing)
            _save_strip(self.folder / "images.png", pictures)
        if step == 0:
            self.record(0)

    def record(self, step: int) -> None:
        """Record colors and accuracy after `step` steps; a repeated step is not recorded again.

        Features that are not finite have neither; the next step of the run will say so.
        """
        maps = encode(self.encoder, self.pixels).feature_map
        if not maps.isfinite().all():
            self.logger.text_log.info("the features after step %d are not finite", step)
            return
        strip = self.folder / f"step_{step:08d}.png"
        if len(self.pixels) and not strip.exists():
            colors = self._colors(list(maps.numpy()))
            _save_strip(strip, colors)
            self.logger.add_image("feature_colors", np.concatenate(_enlarged(colors), axis=1), step)
        rows = self.probe_rows()
        if self.probe and all(row["step"] != step for row in rows):
            row = {"step": step, "knn_accuracy": self.probe.accuracy(self.encoder), "chance": self.probe.chance}
            write_json_lines(self.folder / "probe.jsonl", [*rows, row])
            self.logger.add_scalar("knn_accuracy", row["knn_accuracy"], step)
            self.logger.text_log.info("k-NN accuracy after step %d: %.1f%%", step, 100 * row["knn_accuracy"])

    def report(self, learning: Learning | None = None) -> None:
        """Write report.html from curves.png and what was recorded; what was learned is measured unless it is given."""
        learning = learning or measure_learning(self.config, self.logger.rows, self.encoder, self.pixels, self.run_dir)
        sentence = learning.sentence() if learning else "no step was logged yet"
        write_report(self.run_dir, self.config, self.names, sentence, self.logger.rows, self.probe_rows())

    def probe_rows(self) -> list[dict[str, Any]]:
        """Return the recorded accuracies."""
        return read_json_lines(self.folder / "probe.jsonl")

    def _colors(self, maps: list[np.ndarray]) -> np.ndarray:
        """Return the colors (N, h, w, 3) uint8 of the fixed images, as near as possible to those recorded last."""
        recorded = sorted(self.folder.glob("step_*.png"))
        like = _read_strip(recorded[-1], len(maps), maps[0].shape[1:]) if recorded else None
        basis = fit_color_basis(maps, like)
        return np.stack([(255 * basis.colors(one)).round().astype(np.uint8) for one in maps])


def _enlarged(pictures: np.ndarray) -> list[np.ndarray]:
    """Return pictures (N, h, w, 3) as squares of `TILE` pixels."""
    return [
        np.asarray(Image.fromarray(one).resize((TILE, TILE), Image.Resampling.NEAREST if len(one) < TILE else None))
        for one in pictures
    ]


def _save_strip(path: Path, pictures: np.ndarray) -> None:
    """Write pictures (N, h, w, 3) uint8 side by side."""
    with atomic_write(path) as file:
        Image.fromarray(np.concatenate(_enlarged(pictures), axis=1)).save(file, format="png")


def _read_strip(path: Path, count: int, grid: tuple[int, ...]) -> list[np.ndarray]:
    """Read the colors of a strip, 0 to 1, one (h, w, 3) array for each image."""
    with Image.open(path) as image:
        tiles = np.split(np.asarray(image.convert("RGB")), count, axis=1)
    reduced = [Image.fromarray(tile).resize((grid[1], grid[0]), Image.Resampling.NEAREST) for tile in tiles]
    return [np.asarray(tile, np.float64) / 255 for tile in reduced]
