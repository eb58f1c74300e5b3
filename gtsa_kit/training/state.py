"""State of a run while it trains."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gtsa_kit.config import RunConfig
from gtsa_kit.data.augment import Views
from gtsa_kit.data.batched_augment import DecodedBatch
from gtsa_kit.data.batches import TimedBatches
from gtsa_kit.data.image_files import ImageList
from gtsa_kit.methods.base import Method, TrainSchedule
from gtsa_kit.models.encoder_spec import EncoderSpec
from gtsa_kit.training.estimate import Estimate
from gtsa_kit.training.fabric import Fabric
from gtsa_kit.training.monitor import Monitor
from gtsa_kit.training.optim import HyperparameterSchedules, initial_share
from gtsa_kit.training.resume import Extensions


@dataclass
class TrainState:
    """State of one run: inputs of the training loop, and the model, optimizer and step that it updates."""

    config: RunConfig
    run_dir: Path
    images: ImageList
    schedule: TrainSchedule
    batches: TimedBatches[Views | DecodedBatch]
    """Micro-batches of this process from `step` to the end."""
    fabric: Fabric
    model: Method
    """Unwrapped module, for checkpoints and the teacher update."""
    wrapped: Any
    """The same module wrapped by Fabric for device, precision and gradient exchange."""
    optimizer: Any
    step: int
    """Number of finished steps."""
    schedules: HyperparameterSchedules
    """Schedules of the whole run."""
    initial_share: float = 1.0
    """Share of initial weights in the teacher's encoder: the product of the momenta of the finished steps that were not
    frozen."""
    extensions: Extensions = ()
    """Finished steps, length before and length after, of every time that the run was extended."""
    estimate: Estimate | None = None
    """Memory and time of a step; None if no step is left."""
    monitor: Monitor | None = None
    """Pictures at every checkpoint, in the first process."""

    def final_initial_share(self) -> float:
        """Return the share of initial weights in the teacher after the last step."""
        first = max(self.step, self.schedule.frozen)
        return self.initial_share * initial_share(self.schedules.teacher_momentum[first:])

    def checkpoint_content(self) -> dict[str, Any]:
        """Return the content of a checkpoint, but for the optimizer."""
        return {
            "step": self.step,
            **EncoderSpec.of(self.model.teacher.encoder).to_dict(),
            "model": self.model.state_dict(),
            "schedule": self.schedule.to_dict(),
            "initial_share": self.initial_share,
            "extensions": self.extensions,
            "settings": self.config.model_dump(mode="json"),
        }
