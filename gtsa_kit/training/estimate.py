"""Memory and time of a training step, measured with two images before the first step."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gtsa_kit.config import RunConfig
from gtsa_kit.data.augment import Views
from gtsa_kit.hardware import available_memory, used_memory
from gtsa_kit.methods.base import Method, TrainSchedule
from gtsa_kit.training.fabric import Fabric

PROBE_IMAGES = (2, 4)
"""Images of the measured micro-steps; MoCo v3 needs at least two."""
MEMORY_MARGIN = 1.15
"""Factor on the measured activations, for buffers that live only for a moment."""
SAFE_FRACTION = 0.9
"""Fraction of the memory that `--batch-size auto` uses."""
MAX_AUTO_BATCH_CPU = 32
"""Largest micro-step that `--batch-size auto` chooses on a CPU, where larger ones are not faster."""
IMAGES_PER_STEP = 512
"""Images per step of the paper, which `--batch-size auto` does not exceed."""


@dataclass(frozen=True)
class Estimate:
    """Memory of training, and seconds of computation."""

    fixed: int
    """Bytes that do not depend on the batch: this process, weights, gradients, optimizer."""
    per_image: int
    """Bytes of activations, and of views that wait for the step, for each image of a micro-step."""
    available: int
    """Bytes that the device has for this process, with what the process uses already."""
    seconds_per_image: float
    """Seconds of computation for each image."""

    def sentence(self, batch_size: int, steps: int = 0, images_per_step: int = 0) -> str:
        """Return memory, what fits, and the time of `steps` steps if there are any."""
        text = (
            f"about {self.needed(batch_size) / 1e9:.2g} GB of memory for {batch_size} images in a micro-step, "
            f"{self.available / 1e9:.3g} GB available: up to {self.largest_batch} images fit"
        )
        if steps:
            text += f"; about {_duration(steps * images_per_step * self.seconds_per_image)} of computation"
        return text

    def needed(self, batch_size: int) -> int:
        """Return the bytes that a micro-step of `batch_size` images needs."""
        return self.fixed + batch_size * self.per_image

    @property
    def largest_batch(self) -> int:
        """Largest micro-step that fits, in images; 0 if not even the model does."""
        return max(0, (self.available - self.fixed) // max(self.per_image, 1))


SMALLER_MODEL = "try a smaller --set model.arch=vit_tiny, smaller views, or --set train.activation_checkpointing=true"


def estimate(build: Callable[[], Method], config: RunConfig, fabric: Fabric) -> Estimate:
    """Measure forward and backward passes of a few images.

    Args:
        build: Function that builds a model like that of the run.
        config: Settings of the run.
        fabric: Device and precision.
    """
    device = fabric.device
    own = 0 if device.type == "cuda" else used_memory()
    probe = build().to(device).train()
    (first, _), (second, seconds) = (measure_step(probe, images, config, fabric) for images in PROBE_IMAGES)
    per_image = (second - first) / (PROBE_IMAGES[1] - PROBE_IMAGES[0])
    fixed = max(0.0, first - per_image * PROBE_IMAGES[0]) + _static_bytes(probe)
    local = fabric.world_size if device.type == "cpu" else 1  # processes that share the memory
    available = device_memory(device) // local + own
    return Estimate(round(fixed) + own, round(MEMORY_MARGIN * per_image), available, seconds / PROBE_IMAGES[1])


def measure_step(model: Method, images: int, config: RunConfig, fabric: Fabric) -> tuple[int, float]:
    """Return the bytes and the seconds of a forward and a backward pass of `images` images.

    Raises:
        torch.OutOfMemoryError: They do not fit on the GPU.
    """
    views = random_views(config, images, fabric.device)
    values = {name: float(v[-1]) for name, v in model.schedules(TrainSchedule(1, 1, 1, 0)).items()}
    measure = _measure_cuda if fabric.device.type == "cuda" else _measure_saved
    used, seconds = measure(lambda: _loss(model, views, values, fabric), model)
    return used + sum(tensor.nbytes for tensor in views), seconds


def _static_bytes(model: Method) -> int:
    """Return the bytes of the parameters, their gradients, and the two moments of AdamW."""
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    return sum(p.nbytes for p in model.parameters()) + 3 * trained


def resolve_batch_size(build: Callable[[RunConfig], Method], config: RunConfig, fabric: Fabric) -> RunConfig:
    """Replace a batch size of auto by the largest power of two that fits and is not needlessly large.

    On a CPU it follows from the estimate; on a GPU each candidate is tried.

    Raises:
        ValueError: Not even two images fit.
    """
    if config.train.batch_size != "auto":
        return config
    probe_config = _with_batch_size(config, PROBE_IMAGES[0])
    measured = estimate(lambda: build(probe_config), probe_config, fabric)
    cap = max(2, IMAGES_PER_STEP // (config.train.accumulate * fabric.world_size))
    cap = min(cap, MAX_AUTO_BATCH_CPU) if fabric.device.type == "cpu" else cap
    room = min(replace(measured, available=int(SAFE_FRACTION * measured.available)).largest_batch, cap)
    size = 2 ** math.floor(math.log2(max(room, 1)))
    if fabric.device.type == "cuda":
        size = largest_that_runs(build(probe_config).to(fabric.device).train(), size, config, fabric)
    if size < 2:
        raise ValueError(f"not even two images fit into memory: {measured.sentence(2)}; {SMALLER_MODEL}")
    return _with_batch_size(config, fabric.broadcast(size))


def _with_batch_size(config: RunConfig, size: int) -> RunConfig:
    return config.model_copy(update={"train": config.train.model_copy(update={"batch_size": size})})


def largest_that_runs(model: Method, size: int, config: RunConfig, fabric: Fabric) -> int:
    """Return the largest of `size`, `size` / 2, ... images whose step does not run out of memory; below 2 if none."""
    while size >= 2:
        try:
            measure_step(model, size, config, fabric)
            break
        except torch.OutOfMemoryError:
            size //= 2
            torch.cuda.empty_cache()
    return size


def check_fits(measured: Estimate, config: RunConfig) -> None:
    """Raise `ValueError` with settings that fit if a micro-step needs more memory than there is."""
    batch = config.train.micro_batch
    if measured.needed(batch) > measured.available:
        raise ValueError(
            f"not enough memory: {measured.sentence(batch)}; {smaller_settings(config, measured.largest_batch)}"
        )


def smaller_settings(config: RunConfig, fitting: int | None = None) -> str:
    """Return the settings that need less memory, as a hint.

    Args:
        config: Settings that did not fit.
        fitting: Images of a micro-step that fit; None if unknown.
    """
    batch, accumulate = config.train.micro_batch, config.train.accumulate
    smaller = next((b for b in range(min(batch - 1, fitting or batch // 2), 1, -1) if batch % b == 0), 0)
    if smaller < 2:
        return SMALLER_MODEL
    same = "" if config.method == "mocov3" else ", which is the same step"
    text = f"try --batch-size {smaller} --accumulate {accumulate * batch // smaller}{same}"
    if not config.train.activation_checkpointing:
        text += ", or --set train.activation_checkpointing=true"
    return text


def random_views(config: RunConfig, batch_size: int, device: torch.device) -> Views:
    """Return views of random pixels, in the shapes and with the geometry of a batch."""
    from gtsa_kit.data.augment import collate, make_views

    generator = torch.Generator().manual_seed(0)
    side = max(config.views.global_size, config.views.local_size)
    count = 3 if config.channels.mean is None else len(config.channels.mean)
    image = torch.randint(0, 256, (count, side, side), dtype=torch.uint8, generator=generator)
    image = image if config.channels.is_rgb else image.float()
    return collate([make_views(image, config.views, generator, config.channels) for _ in range(batch_size)]).to(device)


def device_memory(device: torch.device) -> int:
    """Return the free memory of the device in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) + int(torch.cuda.memory_reserved(device))
    return available_memory()


def _duration(seconds: float) -> str:
    """Return a duration in the unit that suits it."""
    for limit, unit in ((120, "s"), (7200, "min"), (172_800, "h")):
        if seconds < limit:
            return f"{seconds / (limit / 120 if unit != 'h' else 3600):.0f} {unit}"
    return f"{seconds / 86_400:.1f} days"


def _loss(model: Method, views: Views, values: dict[str, float], fabric: Fabric) -> Tensor:
    with fabric.autocast():
        outputs = model(views)
    in_float32 = (None if one is None else one.float() for one in outputs)  # as Fabric does after a forward in bf16
    outputs = type(outputs)(*in_float32)
    return model.loss(outputs, views, values)[0]


def _measure_saved(compute: Callable[[], Tensor], model: Method) -> tuple[int, float]:
    """Return the bytes that a forward pass saves for the backward pass, and the seconds of both."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    start = time.perf_counter()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = compute()  # kept until the count is done, so that no address is used twice
    saved = sum(storages.values())
    loss.backward()  # type: ignore[no-untyped-call]
    return saved, time.perf_counter() - start


def _measure_cuda(compute: Callable[[], Tensor], model: Method) -> tuple[int, float]:
    """Return the peak of memory above that before the pass, and the seconds of a second pass."""
    device = next(model.parameters()).device
    compute().backward()  # type: ignore[no-untyped-call]
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before, start = torch.cuda.memory_allocated(device), time.perf_counter()
    compute().backward()  # type: ignore[no-untyped-call]
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before, time.perf_counter() - start
